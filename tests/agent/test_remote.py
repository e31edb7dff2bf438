"""Who is admitted to an agent that listens, and what each may do there."""

from __future__ import annotations

import hashlib
import marshal
import os
import signal
import time
from typing import Any

import pytest

from pytest_arl.agent import auth, frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost
from pytest_arl.agent_package.bundle import bundle
from pytest_arl.cluster import pod
from tests.agent.harness import command
from tests.agent.remote_harness import (
    MODULUS,
    POD,
    SECRET,
    Agent,
    Client,
    agent_of,
    digest,
    holder_hello,
    operator_hello,
    results_of,
    sign,
)
from tests.waiting import until

CONFIG = AgentConfig(env={"CONFIG": "has this"}).message()


def admitted(peer: Client, epoch: int = 1, **fields: object) -> dict[str, object]:
    """Introduce an operator, and give what READY says."""
    peer.send(frames.HELLO, 0, operator_hello(peer.hello(), epoch, **fields))
    found = peer.receive()
    assert found is not None
    assert found[0] == frames.READY, found
    value: dict[str, object] = found[2]
    return value


# Who is there


def test_the_agents_greeting_has_its_identity_and_a_nonce_to_sign(agent: Agent) -> None:
    first, second = agent.connect().hello(), agent.connect().hello()

    assert first["version"] == 1
    assert first["pod"] == POD
    assert first["pid"] == 1
    assert len(first["boot"]) == 32
    assert first["boot"] == second["boot"]
    assert len(first["nonce"]) == 32
    assert first["nonce"] != second["nonce"]


def test_every_start_is_another_boot(agent: Agent) -> None:
    with agent_of() as other:
        assert other.connect().hello()["boot"] != agent.connect().hello()["boot"]


# The operator


def test_an_operator_is_admitted_and_says_once_what_the_agent_is_to_be(agent: Agent) -> None:
    assert admitted(agent.connect()) == {"configured": False, "held": False, "running": None}
    assert admitted(agent.connect(), config=CONFIG, holder=digest(SECRET)) == {
        "configured": True,
        "held": True,
        "running": None,
    }
    other = {**CONFIG, "env": [[b"CONFIG", b"another"]]}
    assert admitted(agent.connect(), config=other) == {"configured": True, "held": True, "running": None}

    result = agent.operator().sh("echo $CONFIG")

    assert result.stdout == "has this\n"


def test_an_operator_may_name_the_holder_later(agent: Agent) -> None:
    peer = agent.connect()
    assert admitted(peer, config=CONFIG) == {"configured": True, "held": False, "running": None}
    peer.send(frames.HELLO, 0, {"holder": digest(SECRET)})

    assert peer.receive() == (frames.READY, 0, {"configured": True, "held": True, "running": None})
    agent.holder_channel()


def test_a_sandbox_has_one_holder_for_good(agent: Agent) -> None:
    peer = agent.connect()
    admitted(peer, holder=digest(SECRET))
    admitted(agent.connect(), holder=digest(SECRET))  # the same once more
    peer.send(frames.HELLO, 0, {"holder": digest(b"another")})

    assert peer.refusal() == "the sandbox has another holder"
    agent.operator()
    agent.holder_channel()


@pytest.mark.parametrize("holder", ["", "00", digest(SECRET).upper(), 7, b"x"])
def test_a_holder_is_a_digest(agent: Agent, holder: object) -> None:
    peer = agent.connect()
    peer.send(frames.HELLO, 0, operator_hello(peer.hello(), 1, holder=holder))

    assert "SHA-256" in peer.refusal()


@pytest.mark.parametrize(
    "config",
    [
        7,
        {},
        {"env": 7},
        CONFIG | {"env": [["text", b""]]},
        CONFIG | {"env": [[b"one"]]},
        CONFIG | {"folders": [[b"/x"]]},
    ],
    ids=["no dict", "empty", "env", "text", "one", "folders"],
)
def test_a_malformed_config_is_refused_and_another_one_is_heard(agent: Agent, config: object) -> None:
    peer = agent.connect()
    peer.send(frames.HELLO, 0, operator_hello(peer.hello(), 1, config=config))

    assert "config is malformed" in peer.refusal()
    assert agent.operator().run("true").ok


def test_what_is_of_no_concern_to_a_pod_is_not_heard(agent: Agent) -> None:
    config = AgentConfig(
        uid=4711, gid=4711, workspace="/elsewhere", spool_fd=0, oom_fd=1, pids_fd=2, lock_fd=3, memory=1
    )
    operator = agent.operator(config=config)

    assert operator.sh("id -u; pwd").stdout == f"{os.getuid()}\n/workspace\n"


def test_an_operator_of_an_older_epoch_is_sent_away(agent: Agent) -> None:
    admitted(agent.connect(), epoch=5)
    peer = agent.connect()
    peer.send(frames.HELLO, 0, operator_hello(peer.hello(), 4))

    assert peer.refusal() == "older epoch"
    admitted(agent.connect(), epoch=5)


def test_an_operator_that_has_been_succeeded_is_sent_away(agent: Agent) -> None:
    old = agent.connect()
    admitted(old, epoch=5)
    admitted(agent.connect(), epoch=6)

    assert old.refusal() == "older epoch"


def test_a_step_of_a_superseded_operator_runs_on_for_the_new_one(agent: Agent) -> None:
    old = agent.operator(epoch=1)
    step = command("sh", "-c", "sleep 0.3; echo done")
    with old.channel.open() as stream:
        stream.send(frames.TASK, old.request(step, name="one"))
        new = agent.operator(epoch=2)
        with pytest.raises(ChannelLost, match="older epoch"):
            stream.receive(time.monotonic() + 5)

    (result,) = new.execute(step, name="one")

    assert result.stdout == "done\n"


def test_a_task_is_for_this_boot_and_from_the_newest_epoch(agent: Agent) -> None:
    operator = agent.operator(epoch=3)

    with pytest.raises(AgentError, match="another boot"):
        operator.execute(command("true"), boot="another")
    with pytest.raises(AgentError, match="older epoch"):
        operator.execute(command("true"), epoch=2)
    with pytest.raises(AgentError, match="malformed"), operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(command("true"), limit="none"))
        stream.receive(time.monotonic() + 5)
    assert operator.run("true").ok


def test_nothing_is_served_before_the_agent_is_configured(agent: Agent) -> None:
    peer = agent.connect()
    admitted(peer, holder=digest(SECRET))
    holder = agent.connect()
    holder.hello()
    holder.send(frames.HELLO, 0, holder_hello())
    assert holder.receive() == (frames.READY, 0, {"configured": False, "held": True, "running": None})

    for kind, value in (
        (frames.TASK, {}),
        (frames.GET, {"path": b"/"}),
        (frames.RESET, {}),
        (frames.CANCEL, {"id": "x"}),
    ):
        peer.send(kind, 7, value)
        found = peer.receive()
        assert found is not None
        assert found[:2] == (frames.ERROR, 7)
        assert found[2]["text"] == "the agent is not configured"
    peer.send(frames.PING, 8, {})
    assert peer.receive() == (frames.PONG, 8, {"busy": False})


def test_an_operator_is_told_what_runs(agent: Agent) -> None:
    operator = agent.operator()
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(command("sleep", "60"), name="long"))
        assert until(operator.busy)

        assert admitted(agent.connect())["running"] == "long"


# Marks: by which the operator and the holder know the agent again


NONCE = b"n" * 32


def shown(agent: Agent, **fields: Any) -> object:
    """The proof that an operator is given."""
    return admitted(agent.connect(), ask=NONCE, **fields).get("proof")


def shown_to_holder(agent: Agent, **fields: Any) -> object:
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, holder_hello(**fields))
    found = peer.receive()
    assert found is not None
    assert found[0] == frames.READY, found
    return found[2].get("proof")


def test_the_first_mark_is_kept_and_proved_to_a_client_that_asks(agent: Agent) -> None:
    assert shown(agent) is None, "there is none yet"
    assert admitted(agent.connect(), mark=b"1" * 32).get("proof") is None, "nobody asked"
    assert shown(agent) == auth.proof(b"1" * 32, NONCE)
    assert shown(agent, mark=b"2" * 32) == auth.proof(b"1" * 32, NONCE)


def test_the_holder_has_a_mark_of_its_own(agent: Agent) -> None:
    agent.operator(mark=b"1" * 32)
    assert shown_to_holder(agent, ask=NONCE) is None, "that of the operator is not the holder's"
    agent.operator(holderMark=b"2" * 32)
    agent.operator(holderMark=b"3" * 32)
    assert shown_to_holder(agent, ask=NONCE) == auth.proof(b"2" * 32, NONCE)
    assert shown_to_holder(agent) is None
    assert shown(agent) == auth.proof(b"1" * 32, NONCE)


@pytest.mark.parametrize("wrong", [b"", b"n" * 31, b"n" * 33, "n" * 32, 32, [1] * 32, True])
def test_a_nonce_or_a_mark_of_another_form_is_refused(agent: Agent, wrong: object) -> None:
    agent.operator()
    for fields in ({"ask": wrong}, {"mark": wrong}, {"holder": digest(SECRET), "holderMark": wrong}):
        peer = agent.connect()
        peer.send(frames.HELLO, 0, operator_hello(peer.hello(), 1, **fields))
        assert "malformed" in peer.refusal()
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, holder_hello(ask=wrong))
    assert "'ask' must be" in peer.refusal()
    assert agent.operator().run("true").ok


# The holder


def test_the_holder_is_admitted_by_its_secret(agent: Agent) -> None:
    agent.operator()
    sandbox = agent.holder()
    sandbox.write("file", b"content", None)

    assert sandbox.read("file") == b"content"


def test_nobody_is_the_holder_before_there_is_one(agent: Agent) -> None:
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, holder_hello(b""))

    assert peer.refusal() == "this sandbox has no holder"


@pytest.mark.parametrize(
    "secret", [b"", b"wrong", digest(SECRET), digest(SECRET).encode(), hashlib.sha256(SECRET).digest(), None]
)
def test_nobody_else_is_the_holder(agent: Agent, secret: object) -> None:
    agent.operator()
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, {"version": 1, "role": "holder", "secret": secret})

    assert peer.refusal() == "the secret is not the holder's"


def test_the_holder_runs_no_task(agent: Agent) -> None:
    operator = agent.operator()
    channel = agent.holder_channel()
    with channel.open() as stream:
        stream.send(frames.TASK, operator.request(command("touch", "ran")))
        with pytest.raises(AgentError, match="tasks come from the operator"):
            stream.receive(time.monotonic() + 5)

    assert operator.sh("ls").stdout == ""


@pytest.mark.parametrize("field", ["config", "holder"])
def test_the_holder_can_change_neither_config_nor_holder(agent: Agent, field: str) -> None:
    agent.operator()
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, holder_hello())
    peer.receive()
    peer.send(frames.HELLO, 0, {field: digest(b"another")})

    assert "may not send" in peer.refusal()
    agent.holder_channel()


def test_the_holder_cancels_a_task(agent: Agent) -> None:
    operator = agent.operator()
    sandbox = agent.holder()
    step = command("sleep", "60")
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(step, name="long"))
        assert until(operator.busy)
        sandbox.cancel("long")
        (result,) = results_of(stream, step)

    assert result.outcome == "Cancelled"


@pytest.mark.parametrize("bound", ["1048576", "", "x", "9" * 19])
def test_steps_write_no_file_larger_than_the_pod_has_room_for(bound: str) -> None:
    with agent_of(env={pod.FILE_BYTES_VARIABLE: bound}) as agent:
        steps = [command("dd", "if=/dev/zero", "of=file", "bs=1024", f"count={count}") for count in (1024, 1025)]
        at, above = (agent.operator().execute(step, name=str(number))[0] for number, step in enumerate(steps))
        (echo,) = agent.operator().execute(command("env"), name="env")
    assert at.outcome == "Succeeded"
    assert (above.outcome, above.signal) == (("Killed", "SIGXFSZ") if bound == "1048576" else ("Succeeded", None))
    assert "FILE_BYTES" not in echo.stdout


@pytest.mark.parametrize("device", ["/dev/zero", "/etc/hostname", None])
def test_an_agent_starts_with_the_null_device_only(device: str | None) -> None:
    """It is every step's stdin."""
    extra = () if device is None else ("--dev-bind", device, "/dev/null")
    if device is None:
        with agent_of(extra=extra) as agent:
            assert agent.operator().execute(command("cat"), name="t")[0].outcome == "Succeeded"
    else:
        with pytest.raises(AssertionError, match="/dev/null is another file"), agent_of(extra=extra):
            pass


def spend(agent: Agent, proof: str) -> tuple[bool, bool]:
    """True if a task was run for a proof, then True if it still runs."""
    with agent.holder_channel().open() as stream:
        stream.send(frames.SPEND, {"once": proof})
        said = stream.reply(time.monotonic() + 5)
    return said["ran"], said["runs"]


def test_a_proof_that_its_holder_has_given_up_runs_nothing(agent: Agent) -> None:
    operator = agent.operator()
    for _ in range(2):
        assert spend(agent, "a" * 64) == (False, False)
        with pytest.raises(AgentError, match="was withdrawn"):
            operator.execute(command("true"), name="one", once="a" * 64)
    (result,) = operator.execute(command("true"), name="two", once="b" * 64)
    assert result.outcome == "Succeeded"
    assert spend(agent, "b" * 64) == (True, False)
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(command("sleep", "60"), name="long") | {"once": "c" * 64})
        assert until(operator.busy)
        assert spend(agent, "c" * 64) == (True, True)
        agent.holder().cancel("long")
    for odd in ("a" * 65, 7, None):
        with pytest.raises((AgentError, ChannelLost)):
            spend(agent, odd)  # type: ignore[arg-type]  # on purpose


# Steps too large or too odd for a Task object


def supply(agent: Agent, steps: list[dict[str, object]]) -> str:
    channel = agent.holder_channel()
    with channel.open() as stream:
        stream.send(frames.SUPPLY, {"steps": steps})
        stream.reply(time.monotonic() + 5)
    return hashlib.sha256(frames.encode(steps)).hexdigest()


def test_a_task_runs_the_steps_that_its_holder_supplied(agent: Agent) -> None:
    operator = agent.operator()
    named = supply(agent, [{"type": "Command", "argv": [b"printf", b"\xff%s", b"x" * 100_000]}])

    (result,) = operator.execute(command("false"), name="one", payload=named)

    assert result.stdout_bytes == b"\xff" + b"x" * 100_000
    (again,) = operator.execute(command("false"), name="one", payload=named)
    assert again.stdout_bytes == result.stdout_bytes
    with pytest.raises(AgentError, match="payload not supplied"):  # it was for one task
        operator.execute(command("false"), name="two", payload=named)


def test_a_supplied_file_is_written(agent: Agent) -> None:
    operator = agent.operator()
    content = bytes(range(256)) * 8192
    named = supply(agent, [{"type": "FilePatch", "path": b"file", "content": content, "mode": None}])
    operator.execute({"type": "FilePatch", "path": "file", "content": ""}, payload=named)

    assert agent.holder().read("file") == content


def test_a_placeholder_never_runs(agent: Agent) -> None:
    operator = agent.operator()
    with pytest.raises(AgentError, match="payload not supplied"):
        operator.execute(command("touch", "ran"), payload="0" * 64)

    assert operator.sh("ls").stdout == ""


def test_the_oldest_supply_goes_first(agent: Agent) -> None:
    operator = agent.operator()
    names = [supply(agent, [{"type": "Command", "argv": [b"echo", b"%d" % number]}]) for number in range(5)]

    with pytest.raises(AgentError, match="payload not supplied"):
        operator.execute(command("true"), payload=names[0])
    results = [operator.execute(command("true"), payload=name)[0].stdout for name in names[1:]]
    assert results == ["1\n", "2\n", "3\n", "4\n"]


# Strangers


@pytest.mark.parametrize(
    "hello",
    [
        {"version": 1},
        {"version": 1, "role": "root"},
        {"version": 1, "role": ["operator"]},
        {"version": 2, "role": "holder", "secret": SECRET},
        {"role": "operator"},
        {"version": 1, "role": "operator", "epoch": 1},
        {"version": 1, "role": "operator", "epoch": -1, "signature": b""},
        {"version": 1, "role": "operator", "epoch": "1", "signature": b""},
        {"version": 1, "role": "operator", "signature": b""},
        {"version": 1, "role": "operator", "epoch": 1, "signature": bytes(256)},
        {"version": 1, "role": "holder"},
    ],
)
def test_a_stranger_is_sent_away_whatever_he_says_he_is(agent: Agent, hello: dict[str, object]) -> None:
    operator = agent.operator()
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, hello)

    assert peer.refusal()
    assert operator.run("true").ok


@pytest.mark.parametrize("wrong", [{"epoch": "1"}, {"epoch": -1}, {"epoch": None}, {"epoch": 1.5}, {"version": 2}])
def test_a_signature_does_not_make_up_for_what_is_wrong_besides(agent: Agent, wrong: dict[str, Any]) -> None:
    operator = agent.operator(epoch=0)
    peer = agent.connect()
    hello = peer.hello()
    said = operator_hello(hello, wrong.get("epoch", 1))
    peer.send(frames.HELLO, 0, said | wrong)

    assert peer.refusal() in {"an operator needs an epoch", "the agent speaks version 1"}
    assert operator.run("true").ok


def test_a_signature_that_was_seen_is_good_for_nothing(agent: Agent) -> None:
    first, second = agent.connect(), agent.connect()
    seen = operator_hello(first.hello(), 1)
    first.send(frames.HELLO, 0, seen)
    second.hello()
    second.send(frames.HELLO, 0, seen)

    assert second.refusal() == "the signature is not the operator's"


@pytest.mark.parametrize("wrong", ["pod", "boot", "nonce", "epoch", "key"])
def test_a_signature_is_for_this_agent(agent: Agent, wrong: str) -> None:
    peer = agent.connect()
    hello = peer.hello()
    meant = {"nonce": hello["nonce"], "pod": POD, "boot": hello["boot"], "epoch": 1}
    other = {"nonce": bytes(32), "pod": POD[::-1], "boot": "0" * 32, "epoch": 2}
    message = auth.challenge(**(meant | ({wrong: other[wrong]} if wrong in other else {})))
    signature = sign(message) if wrong != "key" else sign(message, private=65537)
    peer.send(frames.HELLO, 0, {"version": 1, "role": "operator", "epoch": 1, "signature": signature})

    assert peer.refusal() == "the signature is not the operator's"


def test_a_connection_without_a_hello_is_closed(agent: Agent) -> None:
    began = time.monotonic()
    peer = agent.connect()
    peer.hello()

    assert peer.refusal() == "no HELLO received in time"
    assert 4.5 < time.monotonic() - began < 20


@pytest.mark.parametrize(
    "first",
    [
        frames.frame(frames.HELLO, 0, bytes(65537)),
        frames.HEADER.pack(65537, frames.HELLO, 0),
        frames.HEADER.pack(0xFFFFFFFF, frames.HELLO, 0),
        frames.frame(frames.MORE, 0, bytes(frames.MAX_PAYLOAD)),
        frames.message(frames.HELLO, 1, {}),
        frames.message(frames.TASK, 1, {"id": "x"}),
        frames.message(frames.GET, 1, {"path": b"/etc/passwd"}),
        frames.frame(frames.HELLO, 0, b"garbage"),
        frames.frame(frames.HELLO, 0, b""),
        frames.message(frames.HELLO, 0, [1]),
        b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n",
        bytes(100_000),
    ],
)
def test_one_short_hello_is_all_that_is_read_of_a_stranger(agent: Agent, first: bytes) -> None:
    peer = agent.connect()
    peer.hello()
    peer.socket.sendall(first)

    assert peer.refusal()


@pytest.mark.parametrize(("kind", "stream"), [(frames.READY, 0), (frames.TASK, 0), (frames.HELLO, 1)])
def test_a_hello_is_a_hello(agent: Agent, kind: int, stream: int) -> None:
    peer = agent.connect()
    peer.send(kind, stream, operator_hello(peer.hello(), 1))

    assert "expected a HELLO" in peer.refusal()


def test_nothing_may_follow_a_hello_at_once(agent: Agent) -> None:
    peer = agent.connect()
    hello = operator_hello(peer.hello(), 1, config=CONFIG)
    peer.socket.sendall(frames.message(frames.HELLO, 0, hello) + frames.message(frames.PING, 1, {}))

    assert "data followed the HELLO" in peer.refusal()


def test_a_hello_may_come_byte_by_byte(agent: Agent) -> None:
    peer = agent.connect()
    for byte in frames.message(frames.HELLO, 0, operator_hello(peer.hello(), 1)):
        peer.socket.sendall(bytes([byte]))

    found = peer.receive()
    assert found is not None
    assert found[0] == frames.READY


def test_a_client_that_violates_the_protocol_loses_its_own_connection_only(agent: Agent) -> None:
    operator = agent.operator()
    peer = agent.connect()
    admitted(peer)
    peer.socket.sendall(frames.HEADER.pack(0xFFFFFFFF, frames.DATA, 1))
    assert "over the limit" in peer.refusal()
    peer = agent.connect()
    admitted(peer)
    peer.send(frames.READY, 0, {})
    assert "may not send" in peer.refusal()

    assert operator.run("true").ok


# The agent's own end


def test_the_agent_ends_when_it_is_asked_from_outside(agent: Agent) -> None:
    os.kill(agent.pid, signal.SIGTERM)

    assert agent.process.wait(2) == 0


def test_the_agent_does_not_end_when_the_sandbox_asks(agent: Agent) -> None:
    operator = agent.operator()
    result = operator.sh("for s in TERM INT KILL HUP QUIT STOP CHLD USR1 PIPE; do kill -$s 1; done; sleep 0.1; echo on")

    assert result.stdout == "on\n"
    assert operator.run("true").ok


SIGNALLED = """
import ctypes, errno, fcntl, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def info(code, pid):
    return struct.pack("=iiiiiI", signal.SIGTERM, 0, code, 0, pid, 0) + bytes(104)
def call(*arguments):
    if libc.syscall(*arguments) == -1:
        print(errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("call(129, 1, signal.SIGTERM, info(CODE, 0))", ""),
        ("call(424, os.pidfd_open(1), signal.SIGTERM, info(CODE, 0), 0)", ""),
        # What kill(2) from outside looks like, the kernel leaves to kill(2).
        ("call(129, 1, signal.SIGTERM, info(0, 0))", "EPERM\n"),
        ("call(424, os.pidfd_open(1), signal.SIGTERM, info(0, 0), 0)", "EPERM\n"),
        ("call(424, os.pidfd_open(1), signal.SIGTERM, None, 0)", ""),
        ("call(234, 1, 1, signal.SIGTERM)", ""),
        (
            """
there, here = os.pipe()
fcntl.fcntl(there, fcntl.F_SETOWN, 1)
fcntl.fcntl(there, 10, signal.SIGTERM)
fcntl.fcntl(there, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
os.write(here, b"x")""",
            "",
        ),
    ],
    ids=["sigqueue", "pidfd", "sigqueue-as-kill", "pidfd-as-kill", "pidfd-plain", "tgkill", "F_SETSIG"],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of calls are x86-64's")
def test_a_signal_of_the_sandbox_is_not_taken_for_one_from_outside(agent: Agent, way: str, said: str) -> None:
    """The sender's pid is 0 for one from outside, and whatever a sender says who fills in the details himself."""
    operator = agent.operator()
    for code in (-1, -2, -3, -4, -60) if "CODE" in way else (0,):
        program = f"CODE = {code}\n{SIGNALLED}\n{way}\nprint('sent')"
        result = operator.run("python3", "-I", "-c", program)
        assert result.stdout == said + "sent\n", result.stderr
    time.sleep(0.1)
    assert operator.run("true").ok

    os.kill(agent.pid, signal.SIGTERM)
    assert agent.process.wait(2) == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (pod.POD_UID_VARIABLE, "", "ARL_POD_UID is not set"),
        (pod.OPERATOR_KEYS_VARIABLE, "", "ARL_OPERATOR_KEYS is not set"),
        (pod.OPERATOR_KEYS_VARIABLE, "[]", "ARL_OPERATOR_KEYS: expected 1 to 16 RSA"),
        (pod.OPERATOR_KEYS_VARIABLE, f'[{{"n": "{MODULUS:x}"}}]', "ARL_OPERATOR_KEYS: not a JSON list"),
    ],
)
def test_an_agent_that_cannot_start_says_why(bubblewrap: str, variable: str, value: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said), agent_of(env={variable: value}):
        pass


def test_a_port_that_is_taken_is_named(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.agent.remote_harness.free_port", lambda: agent.port)
    monkeypatch.setattr("tests.agent.remote_harness._listens", lambda _port: False)

    with pytest.raises(AssertionError, match="Address already in use"), agent_of():
        pass


def test_an_agent_of_this_machine_carries_nothing_of_this() -> None:
    names = [{name for name, _ in marshal.loads(bundle(remote=remote))[1]} for remote in (False, True)]

    assert names[1] - names[0] == {
        "auth",
        "container",
        "inheritance",
        "registration",
        "handshake",
        "clients",
        "listener",
    }
    assert "main" in names[0]
