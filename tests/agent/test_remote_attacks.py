"""Code in the sandbox against the agent's port. Each attack is run by a step, beside the operator at work."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent.handshake import INSIDE, PendingHandshakes, side_of
from pytest_arl.agent_client.channel_errors import ChannelLost
from tests.agent.harness import command
from tests.agent.remote_harness import SECRET, Agent, Operator, digest, holder_hello
from tests.waiting import until

_LIBRARY = """
import socket, struct, time
def connect(address="127.0.0.1"):
    return socket.create_connection((address, PORT), timeout=8)
def message(kind, stream, body):
    return struct.pack("!IBI", len(body), kind, stream) + body
def everything(peer):
    data = b""
    try:
        while piece := peer.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data
"""


def attack(agent: Agent, operator: Operator, program: str, **fields: object) -> str:
    """Run a program in the sandbox, and give what it prints."""
    script = f"PORT = {agent.port}\n{_LIBRARY}\n{program}"
    result = operator.run(os.path.realpath(sys.executable), "-I", "-c", script, timeout=20.0, **fields)
    assert result.ok, result.stderr
    return result.stdout


def test_the_sandbox_learns_nothing_and_is_served_nothing(agent: Agent, operator: Operator) -> None:
    said = attack(
        agent,
        operator,
        """
import os
for kind in range(0x40, 0x54):
    peer = connect()
    peer.sendall(message(kind, 1, b"d" + struct.pack("!I", 0)))
    print(everything(peer).count(b"text"))
""",
    )
    assert said == "1\n" * 20  # one ERROR each, nothing else


def test_a_thousand_connections_keep_nobody_out_and_leave_nothing(agent: Agent, operator: Operator) -> None:
    sandbox = agent.holder()
    descriptors, memory = len(agent.descriptors()), agent.memory()
    step = command(
        "python3",
        "-c",
        f"PORT = {agent.port}\n{_LIBRARY}\npeers = [connect() for _ in range(1000)]; open('all', 'w').close(); time.sleep(60)",
        background=True,
    )
    operator.execute(step, name="crowd")
    assert until(lambda: operator.sh("ls").stdout == "all\n", 20)

    assert len(agent.descriptors()) < descriptors + 100
    began = time.monotonic()
    channel = agent.holder_channel()
    assert time.monotonic() - began < 1
    with channel.open() as stream:
        stream.send(frames.PING, {})
        assert stream.receive(time.monotonic() + 1)[0] == frames.PONG
    assert sandbox.read("all") == b""
    assert agent.operator().run("true").ok
    assert agent.memory() < memory + 8_000_000


def test_a_flood_of_connections_does_not_stop_the_work(agent: Agent, operator: Operator) -> None:
    """Connect and leave, as fast as can be, while the operator works and the holder works and comes anew."""
    sandbox = agent.holder()

    def comes() -> bool:
        with suppress(ChannelLost):
            agent.holder_channel().close()
            return True
        return False

    def work() -> float:
        began = time.monotonic()
        for _ in range(5):
            assert operator.run("true").ok
            sandbox.write("file", b"content", None)
            assert until(comes)  # this machine may be too busy for the holder to speak at once
        return time.monotonic() - began

    quiet = work()
    program = f"PORT = {agent.port}\n{_LIBRARY}\nwhile True:\n    try: connect()\n    except OSError: pass"
    operator.execute(command("python3", "-c", program, background=True), name="flood")

    # The flood and the work share a processor; what it stopped would wait for its deadlines, of 10 s each.
    assert work() < 5 + 20 * quiet


def test_large_first_frames_of_many_take_little_memory(agent: Agent, operator: Operator) -> None:
    before = agent.memory()
    attack(
        agent,
        operator,
        """
peers = []
for _ in range(100):
    peer = connect()
    try:
        peer.sendall(struct.pack("!IBI", 65536, 0x40, 0) + bytes(65535))
    except OSError:
        pass
    peers.append(peer)
""",
    )
    assert agent.memory() < before + 8_000_000


def test_what_the_sandbox_guesses_is_wrong(agent: Agent, operator: Operator) -> None:
    """It knows all that is no secret: the digest of the holder's secret, the public keys, the protocol."""
    hello = frames.encode({"version": 1, "role": "holder", "secret": digest(SECRET).encode()})
    said = attack(
        agent,
        operator,
        f"peer = connect(); peer.sendall(message(0x40, 0, {hello!r})); print(b'not the holder' in everything(peer))",
    )
    assert said == "True\n"


def test_the_port_cannot_be_taken_of_any_address(agent: Agent, operator: Operator) -> None:
    said = attack(
        agent,
        operator,
        """
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")):
    for option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        taken = socket.socket(family)
        if option:
            taken.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            taken.bind((address, PORT))
            taken.listen()
            print("taken", address, option)
        except OSError as error:
            print(error.strerror)
""",
    )
    assert set(said.splitlines()) == {"Address already in use"}


def test_the_agent_is_closed_to_the_sandbox(agent: Agent, operator: Operator) -> None:
    script = "cat /proc/1/environ /proc/1/fd/* /proc/1/mem 2>&1 | grep -c ARL_; env | grep -c ARL_; cat /proc/self/environ | grep -c ARL_"
    result = operator.sh(script)

    assert result.stdout == "0\n0\n0\n"
    assert operator.sh("ARL_X=1 env | grep -c ARL_").stdout == "1\n"  # it would be seen


def test_addresses_of_this_machine_are_told_from_others() -> None:
    assert side_of(socket.AF_INET, ("127.0.0.1", 1)) == INSIDE
    assert side_of(socket.AF_INET, ("127.7.7.7", 1)) == INSIDE
    assert side_of(socket.AF_INET, ("192.0.2.1", 1)) == "192.0.2.1"
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    assert side_of(socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0)) == INSIDE
    assert side_of(socket.AF_INET6, ("::1", 1, 0, 0)) == INSIDE
    assert side_of(socket.AF_INET6, ("::ffff:192.0.2.1", 1, 0, 0)) == "::ffff:192.0.2.1"
    assert side_of(socket.AF_INET6, ("2001:db8::1", 1, 0, 0)) == "2001:db8::1"


def crowded(arrivals: list[tuple[str, str]]) -> list[str]:
    """Who is left of those who come, as pairs of where from and who."""
    crowd, left = PendingHandshakes(), []
    for side, who in arrivals:
        left.append((side, who))
        excess: Any = crowd.add(side, cast("Any", (side, who)))
        if excess is not None:
            crowd.remove(excess[0], excess)
            left.remove(excess)
    return [who for _, who in left]


def test_the_sandbox_pushes_out_only_its_own() -> None:
    crowd = [(INSIDE, f"inside {number}") for number in range(1000)]

    assert crowded([("10.0.0.1", "operator"), *crowd, ("10.0.0.1", "again")]) == [
        "operator",
        *(f"inside {number}" for number in range(936, 1000)),
        "again",
    ]


def test_another_pod_pushes_out_only_its_own() -> None:
    crowd = [("10.0.0.9", f"other {number}") for number in range(1000)]

    left = crowded([("10.0.0.1", "operator"), (INSIDE, "holder"), *crowd])

    assert left == ["operator", "holder", *(f"other {number}" for number in range(992, 1000))]


def test_many_pods_push_out_connections_of_the_busiest_address() -> None:
    crowd = [(f"10.0.{pod}.{pod}", f"{pod}") for _ in range(8) for pod in range(1, 100)]

    left = crowded([("10.0.0.1", "operator"), *crowd])

    assert len(left) == 160
    assert "operator" in left


def test_a_sandbox_that_takes_the_agents_descriptors_away_does_not_make_it_spin(
    agent: Agent, operator: Operator
) -> None:
    """Who runs as the agent's user may set its limits; that ends in SandboxLost at the worst."""
    program = """
import resource
before = resource.prlimit(1, resource.RLIMIT_NOFILE)
resource.prlimit(1, resource.RLIMIT_NOFILE, (MOST, before[1]))
peers = [connect() for _ in range(20)]
time.sleep(1)
resource.prlimit(1, resource.RLIMIT_NOFILE, before)
"""
    before = agent.cpu_seconds()
    for most in ("3", "15"):  # nobody can be accepted, or nobody looked at
        attack(agent, operator, program.replace("MOST", most))

    assert agent.cpu_seconds() < before + 0.5
    assert agent.holder().alive()


@pytest.mark.parametrize("most", [3, 15])
def test_what_runs_in_the_background_does_not_keep_the_holder_out_by_the_agents_limits(
    agent: Agent, operator: Operator, most: int
) -> None:
    program = f"""
import resource, time
before = resource.prlimit(1, resource.RLIMIT_NOFILE)
resource.prlimit(1, resource.RLIMIT_NOFILE, ({most}, before[1]))
time.sleep(600)
"""
    argv = (os.path.realpath(sys.executable), "-I", "-S", "-c", program)
    assert operator.execute(command(*argv, background=True))[0].ok
    limits = Path(f"/proc/{agent.pid}/limits")
    assert until(lambda: f"Max open files            {most} " in limits.read_text(), 10), "control: it is lowered"
    with suppress(ChannelLost):  # what found no descriptor is closed, and a client tries again
        agent.holder()
    assert agent.holder().alive()


def test_half_open_connections_are_closed_in_time(agent: Agent, operator: Operator) -> None:
    before = len(agent.descriptors())
    peers = [agent.connect() for _ in range(20)]
    assert [peer.hello()["pid"] for peer in peers] == [1] * 20
    assert len(agent.descriptors()) == before + 20

    assert until(lambda: len(agent.descriptors()) == before, 7)
    assert all(peer.closed() for peer in peers)
    assert operator.run("true").ok


def test_there_are_places_for_so_many_and_the_oldest_stranger_goes(agent: Agent) -> None:
    peers = [agent.connect() for _ in range(65)]

    assert peers[0].hello()
    assert peers[0].refusal() == "too many connections that have sent no HELLO"
    assert peers[1].hello()
    peers[1].send(frames.HELLO, 0, {"version": 1, "role": "none"})
    assert "only the operator" in peers[1].refusal()


def test_the_number_of_admitted_clients_is_bounded(agent: Agent, operator: Operator) -> None:
    channels = [agent.holder_channel() for _ in range(63)]
    peer = agent.connect()
    peer.hello()
    peer.send(frames.HELLO, 0, holder_hello())
    assert peer.refusal() == "too many connections"

    channels[0].close()
    assert until(lambda: agent.lives() and operator.run("true").ok)
    agent.holder_channel()


REPORT = """
import os, resource
print({name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
      os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0))
"""

LOWERED = {
    **{
        name: f"import resource; kind = resource.RLIMIT_{name}; resource.prlimit(1, kind, ({value}, resource.prlimit(1, kind)[1]))"
        for name, value in (
            *(("NOFILE", 20), ("FSIZE", 10), ("AS", 1 << 29), ("DATA", 1 << 27), ("CPU", 500), ("STACK", 1 << 20)),
            *(("MEMLOCK", 0), ("MSGQUEUE", 0), ("SIGPENDING", 10)),
        )
    },
    "processors": "import os; os.sched_setaffinity(1, {min(os.sched_getaffinity(1))})",
}


@pytest.mark.parametrize("what", LOWERED)
def test_what_a_step_lowered_of_the_agents_is_put_back_before_the_next(
    agent: Agent, operator: Operator, what: str
) -> None:
    """Else a later step fails for what an earlier one did."""
    if what == "processors" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one processor: none can be taken away")
    script = ["python3", "-I", "-c"]
    before = operator.run(*script, REPORT).stdout

    of_one_task = operator.execute(command(*script, LOWERED[what] + CHECK), command(*script, REPORT))
    assert [result.stdout for result in of_one_task] == ["lowered\n", before]
    assert operator.run(*script, LOWERED[what] + CHECK).stdout == "lowered\n"
    assert operator.run(*script, REPORT).stdout == before

    program = LOWERED[what] + "\nopen('/workspace/lowered', 'w').close()"
    operator.execute(command(*script, program, background=True), name="between")
    assert until(lambda: operator.sh("ls /workspace").stdout == "lowered\n")
    assert operator.run(*script, REPORT).stdout == before


CHECK = """
import os
def state(pid):
    with open(f"/proc/{pid}/limits") as file:
        return file.read(), os.sched_getaffinity(pid)
print("lowered" if state(1) != state(os.getpid()) else "as before")
"""

TAKEN = {
    "NOFILE": "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (64, 64))",
    "NPROC": "import resource; resource.prlimit(1, resource.RLIMIT_NPROC, (50, 50))",
    "priority": "import os; os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "policy": "import os; os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
}


@pytest.mark.parametrize("what", TAKEN)
def test_what_the_agent_cannot_have_back_is_its_end_and_never_a_result(
    agent: Agent, operator: Operator, what: str
) -> None:
    if what == "priority" and os.getpriority(os.PRIO_PROCESS, 0) == 19:
        pytest.skip("these tests run with the lowest priority already")
    assert operator.run("true").ok
    with pytest.raises(
        ChannelLost, match=r"the agent gave up: Taken: a step has lowered the agent's own .*, which cannot"
    ):
        operator.execute(command("python3", "-I", "-c", TAKEN[what]), command("true"))
    assert agent.process.wait(5) == 70
