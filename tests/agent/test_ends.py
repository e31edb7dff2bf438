"""How an agent ends, and what it says last; and that nothing inside can end it or get at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost
from pytest_arl.errors import SandboxLost
from tests.agent.harness import BASE_ENV, Sandbox, sandbox_of
from tests.waiting import until


def test_the_agent_ends_when_its_host_closes_the_channel(sandbox: Sandbox) -> None:
    sandbox.start("sh", "-c", "trap '' TERM; sleep 100")
    sandbox.channel.close()

    assert sandbox.ended(2)


def test_the_agent_ends_in_the_middle_of_a_step_too(sandbox: Sandbox) -> None:
    sandbox.socket.send(
        frames.message(frames.TASK, 1, {"id": "x", "limit": 9, "steps": [{"type": "Command", "argv": [b"yes"]}]})
    )
    assert until(lambda: "yes" in sandbox.processes())
    sandbox.channel.close()

    assert sandbox.ended(2)


@pytest.mark.parametrize("begun", [True, False], ids=["serving", "waiting for its config"])
def test_the_agent_ends_with_its_owner_even_if_the_channel_stays_open(bubblewrap: str, begun: bool) -> None:
    owner = subprocess.Popen(["sleep", "100"])
    pidfd = os.pidfd_open(owner.pid)
    try:
        with sandbox_of(owner=pidfd, begin=begun) as sandbox:
            if begun:
                assert sandbox.run("true").ok
            else:
                sandbox.channel.greet(time.monotonic() + 10)
            assert not sandbox.ended(0.1)
            owner.kill()
            owner.wait()
            assert sandbox.ended(2)
    finally:
        owner.kill()
        owner.wait()
        os.close(pidfd)


def send_wrong(sandbox: Sandbox, data: bytes) -> str:
    with sandbox.stream() as stream, pytest.raises(ChannelLost) as lost:
        sandbox.channel.send([data])
        stream.receive(time.monotonic() + 5)
    return str(lost.value)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff" * 20, "over the limit"),
        (frames.frame(0x3F, 1), "type 63"),
        (frames.message(frames.PONG, 1, {}), "may not send"),
        (frames.message(frames.PING, 1, []), "may not send"),
        (frames.frame(frames.PING, 1, b"garbage"), "unknown type byte"),
        (frames.frame(frames.DATA, 1, b"x"), "outside of a transfer"),
        (frames.frame(frames.STDOUT, 1, b"x"), "may not send"),
    ],
    ids=["length", "type", "answer", "shape", "value", "data", "output"],
)
def test_a_host_that_does_not_keep_to_the_protocol_gets_a_last_word_that_says_why(
    sandbox: Sandbox, data: bytes, word: str
) -> None:
    said = send_wrong(sandbox, data)

    assert "the agent gave up: ProtocolError" in said
    assert word in said
    assert sandbox.ended(2)


def test_the_last_word_comes_after_what_was_half_sent(sandbox: Sandbox) -> None:
    sandbox.sh("head -c 20000000 /dev/zero > big")
    with sandbox.stream() as get, sandbox.stream() as other:
        get.send(frames.GET, {"path": b"big", "data": 1 << 40, "size": 1 << 40, "entries": 9})
        time.sleep(0.1)  # the socket is full, in the middle of a frame
        sandbox.channel.send([b"\xff" * 20])
        time.sleep(0.05)
        with pytest.raises(ChannelLost, match="the agent gave up: ProtocolError"):
            other.receive(time.monotonic() + 5)


def test_an_error_of_a_request_is_not_the_end(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        sandbox.handle.read("missing")

    assert sandbox.run("true").ok


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (frames.FETCH, {}),
        (frames.FETCH, {"task": "x", "step": "y", "stream": 0, "from": 0, "most": 1}),
        (frames.CANCEL, {}),
        (frames.PROCESS, {"task": 1}),
        (frames.WRITE, {"path": 7, "content": b"", "mode": None}),
        (frames.WRITE, {"path": b"f", "content": b"", "mode": 2**62}),
        (frames.GET, {"path": b"f\0", "data": 1, "size": 1, "entries": 1}),
        (frames.GET, {"path": b"/workspace", "data": 1, "size": 1, "entries": "none"}),
        (frames.GET, {"path": b"/usr/bin/true", "data": "all", "size": 1 << 40, "entries": 9}),
        (frames.HOLE, {}),
        (frames.PUT, {"path": None}),
        (frames.END, {}),
        (frames.ENTRY, {}),
        (frames.RESET, {"do": "return", "id": 99, "keep": []}),
        (frames.RESET, {"do": "dance", "id": 1}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_request_is_refused_and_the_agent_serves_on(
    sandbox: Sandbox, kind: int, value: dict[str, object]
) -> None:
    with sandbox.stream() as stream:
        stream.send(kind, value)
        with pytest.raises(Exception, match=r"."):
            stream.receive(time.monotonic() + 5)

    assert sandbox.run("true").ok


def test_a_host_of_another_version_is_told_so(bubblewrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox_of(begin=False) as sandbox:
        sandbox.channel.greet(time.monotonic() + 5)
        monkeypatch.setattr(frames, "VERSION", 99)
        with pytest.raises(ChannelLost, match="does not speak protocol version 1"):
            sandbox.channel.handshake(sandbox.config, time.monotonic() + 5)
        assert sandbox.ended(2)


def test_an_agent_of_another_version_is_given_up(bubblewrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox_of(begin=False) as sandbox:
        monkeypatch.setattr(frames, "VERSION", 99)
        with pytest.raises(ChannelLost, match="does not speak protocol version 99"):
            sandbox.channel.greet(time.monotonic() + 5)


def test_a_host_that_does_not_wait_for_ready_is_told_so(bubblewrap: str) -> None:
    with sandbox_of(begin=False) as sandbox:
        sandbox.channel.greet(time.monotonic() + 5)
        hello = frames.message(frames.HELLO, 0, sandbox.config.message())
        sandbox.channel.send([hello + frames.message(frames.PING, 1, {})])
        with sandbox.stream() as stream, pytest.raises(ChannelLost, match="sent more before"):
            stream.receive(time.monotonic() + 5)


def test_a_config_that_cannot_be_is_said_before_the_agent_is_ready(bubblewrap: str) -> None:
    config = replace(AgentConfig(env=BASE_ENV), rlimits={"NO_SUCH": 1})
    with sandbox_of(config=config, begin=False) as sandbox:
        sandbox.channel.greet(time.monotonic() + 5)
        with pytest.raises(ChannelLost, match="RLIMIT_NO_SUCH"):
            sandbox.channel.handshake(config, time.monotonic() + 5)


def test_a_killed_agent_is_a_lost_sandbox(sandbox: Sandbox) -> None:
    agent = sandbox.pid
    threading.Timer(0.2, lambda: os.kill(agent, signal.SIGKILL)).start()
    with pytest.raises(SandboxLost):
        sandbox.run("sleep", "100")

    assert sandbox.ended(2)


# From inside


@pytest.mark.parametrize(
    "name", ["INT", "TERM", "HUP", "QUIT", "KILL", "STOP", "SEGV", "USR1", "CHLD", "ALRM", "PIPE", "RTMIN"]
)
def test_no_signal_of_a_step_ends_the_agent(sandbox: Sandbox, name: str) -> None:
    assert sandbox.run("bash", "-c", f"for i in 1 2 3; do kill -{name} 1; done; echo sent").stdout == "sent\n"
    assert sandbox.run("true").ok


def test_a_flood_of_signals_does_not_stop_the_agent(sandbox: Sandbox) -> None:
    flood = "import os, time\nend = time.monotonic() + 0.3\nwhile time.monotonic() < end: os.kill(1, 17)"

    assert sandbox.python(flood, timeout=5).ok
    assert sandbox.run("true").ok


@pytest.mark.parametrize("name", ["mem", "environ", "fd", "maps", "cwd", "root", "exe"])
def test_a_step_of_the_agents_own_user_cannot_look_into_it(sandbox: Sandbox, name: str) -> None:
    look = (
        "import os, sys\n"
        "def look(pid):\n"
        "  path = f'/proc/{pid}/" + name + "'\n"
        "  if os.path.islink(path): os.readlink(path)\n"
        "  elif os.path.isdir(path): os.listdir(path)\n"
        "  else: open(path, 'rb').close()\n"
        "look(os.getpid())\n"
        "try: look(1)\n"
        "except PermissionError: print('refused')\n"
    )

    assert sandbox.python(look).stdout == "refused\n"


def test_a_step_cannot_trace_the_agent_but_can_its_own_child(sandbox: Sandbox) -> None:
    trace = (
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "child = os.fork()\n"
        "if not child: time.sleep(9)\n"
        "print(libc.ptrace(16, child, 0, 0), libc.ptrace(16, 1, 0, 0))\n"
    )
    python = os.path.realpath(sys.executable)

    assert sandbox.run(python, "-I", "-c", trace).stdout == "0 -1\n"


def test_the_agent_is_not_dumpable_and_gains_no_privileges(sandbox: Sandbox) -> None:
    status = Path(f"/proc/{sandbox.pid}/status").read_text()

    assert "NoNewPrivs:\t1" in status
    assert Path(f"/proc/{sandbox.pid}/environ").stat().st_uid == 0


@pytest.mark.skipif(os.getuid() != 0, reason="it is not dumpable: only root may look")
def test_the_agent_has_the_descriptors_it_needs_and_no_other(sandbox: Sandbox) -> None:
    kinds = sorted(name.partition(":")[2].split("/")[-1].split(" ")[0] for name in sandbox.descriptors())

    # Three of stdio, a null device for steps, spool, OOM score, loadavg, socket, epoll, the signals of children.
    assert len(kinds) == 10
    assert kinds.count("socket") == 1


# What a program does to files that the agent is at work on


_MESSES_UP = """
import os
while True:
    for folder in os.listdir("."):
        if folder.startswith((".arl-", "mess")):
            try:
                for number in range(200):
                    os.mkdir(folder + "/" + str(number))
            except OSError:
                pass
    try:
        os.mkdir("mess")
    except OSError:
        pass
"""


_FILLS = """
import os
while True:
    for folder in os.listdir("."):
        if folder.startswith(".arl-"):
            try:
                for _ in range(5000):
                    os.mkdir(folder + "/" + os.urandom(8).hex())
            except OSError:
                pass
"""


def test_a_transfer_that_is_given_up_among_what_programs_do_is_not_the_agents_end(sandbox: Sandbox) -> None:
    sandbox.start(os.path.realpath(sys.executable), "-I", "-S", "-c", _FILLS)
    folder = {"p": b"", "t": "d", "m": 0o755, "at": 0, "n": 0}
    for turn in range(10):
        with sandbox.stream() as stream:
            stream.send(frames.PUT, {"path": b"there"})
            stream.send(frames.ENTRY, folder)
            time.sleep(0.02)  # the program is at work in it
            if turn % 2:
                stream.send(frames.END, {"abort": True})
            else:
                stream.send_data(b"of no file")
            try:
                stream.receive(time.monotonic() + 10)
            except AgentError:
                continue

    assert sandbox.run("true").ok


def test_a_return_that_programs_get_in_the_way_of_is_not_the_agents_end(sandbox: Sandbox) -> None:
    sandbox.start(os.path.realpath(sys.executable), "-I", "-S", "-c", _MESSES_UP)
    refused = 0
    for number in range(40):
        kept = sandbox.ask(frames.RESET, {"do": "alive", "id": 0, "keep": []})[1]["alive"]
        sandbox.ask(frames.RESET, {"do": "mark", "id": number, "keep": []})
        sandbox.start("sleep", "1000")  # it is killed before, so that the return waits for its end
        try:
            sandbox.ask(frames.RESET, {"do": "return", "id": number, "keep": kept}, 10)
        except AgentError:
            refused += 1

    assert sandbox.run("true").ok
    assert refused < 40, "control: some went through"
