"""What a step prints: whole up to the limit, both ends beyond it, at once for a caller who watches, in bounded memory."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.messages import task_message
from pytest_arl.agent_client.task_run import Collected
from pytest_arl.errors import InfrastructureError, UsageError
from tests.agent.harness import BASE_ENV, Sandbox, collect, command, sandbox_of, task
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl.backends.base import StreamName, TaskRequest

KIB, MIB = 1024, 1024 * 1024

COUNT = "import sys\nfor n in range({first}, {last}): sys.stdout.write('%07d\\n' % n)"


def counted(first: int, last: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(first, last))


class Watcher:
    """An ``on_output`` that remembers what it saw, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, str, bytes]] = []

    def __call__(self, step: str, stream: StreamName, data: bytes) -> None:
        self.seen.append((time.monotonic(), step, stream, data))

    def text(self, stream: str = "stdout") -> bytes:
        return b"".join(data for _, _, which, data in self.seen if which == stream)


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, MIB + 1, 10 * MIB])
def test_output_of_any_size_up_to_the_limit_comes_back_whole(sandbox: Sandbox, size: int) -> None:
    result = sandbox.python(f"import os; os.write(1, b'') ; print('x' * {size}, end='')")

    assert result.stdout_bytes == b"x" * size
    assert (result.stdout_size, result.truncated) == (size, False)


def test_both_streams_may_be_long(sandbox: Sandbox) -> None:
    result = sandbox.sh("head -c 3000000 /dev/zero; head -c 5000000 /dev/zero | tr '\\0' e >&2")

    assert result.stdout_bytes == bytes(3_000_000)
    assert result.stderr_bytes == b"e" * 5_000_000


def test_one_stream_may_be_long_and_the_other_short(sandbox: Sandbox) -> None:
    result = sandbox.sh("echo short; head -c 300000 /dev/zero >&2")

    assert result.stdout == "short\n"
    assert result.stderr_bytes == bytes(300_000)


@pytest.mark.parametrize("limit", [80 * KIB, 8 * KIB, 2])
def test_beyond_the_limit_the_first_and_the_last_half_are_kept(bubblewrap: str, limit: int) -> None:
    whole = counted(0, 100_000)
    with sandbox_of(limit=limit) as sandbox:
        result = sandbox.python(COUNT.format(first=0, last=100_000))

    assert result.stdout_bytes == whole[: limit // 2] + whole[-(limit - limit // 2) :]
    assert (result.stdout_size, result.truncated) == (len(whole), True)


def test_a_byte_over_the_limit_loses_one_in_the_middle(bubblewrap: str) -> None:
    with sandbox_of(limit=1000) as sandbox:
        exact, over = (sandbox.python(f"print('a' * 500 + 'b' + 'c' * {n}, end='')") for n in (499, 500))

    assert (exact.stdout_size, exact.truncated) == (1000, False)
    assert (over.stdout, over.stdout_size, over.truncated) == ("a" * 500 + "c" * 500, 1001, True)


@pytest.mark.parametrize("watched", [False, True])
def test_a_gigabyte_is_counted_and_its_ends_kept_in_bounded_memory(sandbox: Sandbox, watched: bool) -> None:
    sandbox.sh("head -c 30000000 /dev/zero")
    before = sandbox.memory()
    size = 200 * MIB if watched else 1024 * MIB
    seen = 0

    def count(_step: str, _stream: str, data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    result = sandbox.sh(f"echo first; head -c {size - 11} /dev/zero; echo last", on_output=count if watched else None)

    assert (result.stdout_size, len(result.stdout_bytes), result.truncated) == (size, 16 * MIB, True)
    assert result.stdout_bytes.startswith(b"first\n\0")
    assert result.stdout_bytes.endswith(b"\0last\n")
    assert seen == (size if watched else 0)
    assert sandbox.memory() < before + 4 * MIB


def test_all_of_a_cut_output_can_be_fetched(bubblewrap: str) -> None:
    with sandbox_of(limit=KIB) as sandbox:
        request = task(command("sh", "-c", "seq 2000000; seq 10 >&2"))
        (result,) = sandbox.handle.execute(request, None)
        stdout, stderr = (b"".join(sandbox.handle.output(request.id, 0, which)) for which in ("stdout", "stderr"))

    assert result.truncated
    assert len(stdout) == result.stdout_size > 8 * MIB
    assert stdout == b"".join(b"%d\n" % n for n in range(1, 2_000_001))
    assert stderr == b"".join(b"%d\n" % n for n in range(1, 11))


def test_output_that_was_not_cut_can_be_fetched_too(sandbox: Sandbox) -> None:
    request = task(command("echo", "short"), command("true"), {"type": "FilePatch", "path": "f", "content": ""})
    sandbox.handle.execute(request, None)

    fetched = [b"".join(sandbox.handle.output(request.id, step, "stdout")) for step in range(3)]

    assert fetched == [b"short\n", b"", b"File created: f\n"]


def test_a_fetch_may_take_as_long_as_its_reader_likes_beside_other_work(bubblewrap: str) -> None:
    with sandbox_of(limit=KIB) as sandbox:
        request = task(command("sh", "-c", "seq 2000000"))
        sandbox.handle.execute(request, None)
        pieces = sandbox.handle.output(request.id, 0, "stdout")
        first = next(pieces)
        assert sandbox.run("echo", "between").stdout == "between\n"
        assert len(first + b"".join(pieces)) == 14_888_896


@pytest.mark.parametrize("step", [1, 7, -1])
def test_output_of_a_step_that_there_was_not_is_a_usage_error(sandbox: Sandbox, step: int) -> None:
    request = task(command("echo", "x"))
    sandbox.handle.execute(request, None)

    with pytest.raises(UsageError, match="no longer kept" if step >= 0 else "'step' must be a whole number from 0"):
        next(sandbox.handle.output(request.id, step, "stdout"))


def test_output_of_a_forgotten_task_is_a_usage_error(sandbox: Sandbox) -> None:
    first = task(command("sh", "-c", "seq 5000"))
    sandbox.handle.execute(first, None)
    assert b"".join(sandbox.handle.output(first.id, 0, "stdout"))
    for _ in range(10):
        sandbox.execute(*[command("head", "-c", "65536", "/dev/zero")] * 20)

    with pytest.raises(UsageError, match="no longer kept"):
        next(sandbox.handle.output(first.id, 0, "stdout"))


def test_a_fetch_under_way_survives_that_its_task_is_forgotten(bubblewrap: str) -> None:
    with sandbox_of(limit=KIB) as sandbox:
        first = task(command("sh", "-c", "yes a | head -c 20000000"))
        sandbox.handle.execute(first, None)
        pieces = sandbox.handle.output(first.id, 0, "stdout")
        got = next(pieces)
        for _ in range(10):
            sandbox.execute(*[command("sh", "-c", "yes b | head -c 65536")] * 20)
        with pytest.raises((UsageError, InfrastructureError)):
            for piece in pieces:
                got += piece

        assert b"b" not in got
        assert sandbox.run("true").ok


def test_a_watching_caller_sees_output_as_it_comes(sandbox: Sandbox) -> None:
    watcher = Watcher()
    result = sandbox.sh("echo one; sleep 0.3; echo two; echo three >&2", on_output=watcher)
    times = {data: when for when, _, _, data in watcher.seen}

    assert [(stream, data) for _, _, stream, data in watcher.seen] == [
        ("stdout", b"one\n"),
        ("stdout", b"two\n"),
        ("stderr", b"three\n"),
    ]
    assert 0.2 < times[b"two\n"] - times[b"one\n"] < 2
    assert (result.stdout, result.stderr) == ("one\ntwo\n", "three\n")


def test_a_watching_caller_sees_each_steps_name(sandbox: Sandbox) -> None:
    watcher = Watcher()
    sandbox.execute(command("echo", "1", name="a"), command("echo", "2", name="b"), on_output=watcher)

    assert [(step, data) for _, step, _, data in watcher.seen] == [("a", b"1\n"), ("b", b"2\n")]


def test_a_watching_caller_sees_all_also_what_the_result_cuts(bubblewrap: str) -> None:
    watcher = Watcher()
    with sandbox_of(limit=KIB) as sandbox:
        result = sandbox.python(COUNT.format(first=0, last=300_000), on_output=watcher)

    whole = counted(0, 300_000)
    assert watcher.text() == whole
    assert result.stdout_bytes == whole[:512] + whole[-512:]


def test_a_slow_watcher_slows_the_program_and_loses_nothing(sandbox: Sandbox) -> None:
    size = 0

    def slow(_step: str, _stream: str, data: bytes) -> None:
        nonlocal size
        size += len(data)
        time.sleep(0.002)

    before = sandbox.memory()
    result = sandbox.sh("head -c 30000000 /dev/zero", on_output=slow)

    assert size == result.stdout_size == 30_000_000
    assert sandbox.memory() < before + 6 * MIB


class Deaf:
    """A host that sends a task and then reads nothing, until told."""

    def __init__(self, sandbox: Sandbox, request: TaskRequest, *, live: bool) -> None:
        self.socket = sandbox.socket
        body = task_message(request, 16 * MIB, live=live)
        self.socket.setblocking(True)
        self.socket.sendall(frames.message(frames.TASK, 1, body))
        self.request = request

    def listen(self, seconds: float = 10) -> tuple[dict[str, Any], bytes, bytes]:
        """The first step's result, and its stdout: all that was sent as it came, and what a caller keeps."""
        parser = frames.Parser()
        collected, live = Collected(16 * MIB), b""
        self.socket.settimeout(seconds)
        while True:
            for kind, _, value in parser.feed(self.socket.recv(1 << 20)):
                if kind == frames.STEP:
                    assert isinstance(value, dict)
                    return value, live, collected.streams()[0]
                if isinstance(value, bytes):
                    collected.take(kind, memoryview(value)[4:])
                    live += value[4:] if kind == frames.STDOUT else b""


@pytest.mark.parametrize("live", [False, True])
def test_a_host_that_reads_nothing_does_not_keep_a_step_from_its_timeout(sandbox: Sandbox, live: bool) -> None:
    began = time.time()
    host = Deaf(sandbox, task(command("yes", timeout=0.3)), live=live)
    assert until(lambda: "yes" in sandbox.processes())
    assert until(lambda: "yes" not in sandbox.processes(), 2)
    late = time.time() - began
    result, _, kept = host.listen()

    assert 0.25 < late < 1
    assert result["outcome"] == "TimedOut"
    assert result["s"] < 0.8
    assert kept.startswith(b"y\ny\n")
    assert len(kept) == min(16 * MIB, result["out"])


def test_a_host_that_does_not_watch_never_holds_up_a_step(sandbox: Sandbox) -> None:
    sandbox.sh("head -c 1000000 /dev/zero")
    before = sandbox.memory()
    host = Deaf(sandbox, task(command("sh", "-c", "sleep 0.5; head -c 100000000 /dev/zero")), live=False)
    assert until(lambda: "sleep" in sandbox.processes())
    assert until(lambda: sandbox.processes() == [])
    assert sandbox.memory() < before + 4 * MIB
    result, _, kept = host.listen()

    assert (result["outcome"], result["out"]) == ("Succeeded", 100_000_000)
    assert kept == bytes(16 * MIB)


def test_a_host_that_watches_holds_up_the_program_until_it_reads(sandbox: Sandbox) -> None:
    host = Deaf(sandbox, task(command("head", "-c", "20000000", "/dev/zero")), live=True)
    time.sleep(0.5)
    assert "head" in sandbox.processes()
    result, live, _ = host.listen()

    assert (result["outcome"], result["out"], len(live)) == ("Succeeded", 20_000_000, 20_000_000)


def test_what_a_step_printed_is_known_when_its_sandbox_is_lost(sandbox: Sandbox) -> None:
    threading.Timer(0.5, sandbox.kill).start()
    with pytest.raises(InfrastructureError):
        sandbox.sh("echo the last words; sleep 30")

    (partial,) = sandbox.handle.partial
    assert (partial.outcome, partial.stdout) == ("Cancelled", "the last words\n")


def test_a_short_answer_does_not_wait_for_a_long_transfer(sandbox: Sandbox) -> None:
    sandbox.sh("head -c 200000000 /dev/zero > big")
    with sandbox.stream() as get, sandbox.stream() as ping:
        get.send(frames.GET, {"path": b"big", "data": 1 << 40, "size": 1 << 40, "entries": 9})
        get.receive(time.monotonic() + 5)
        ping.send(frames.PING, {})
        ping.receive(time.monotonic() + 5)
        waiting = sum(len(value) for kind, value in get.inbox if kind == frames.DATA)
        assert waiting < 10 * MIB
        assert collect(get, frames.END)[-1][1]["n"] == 1


def test_a_step_that_is_watched_does_not_wait_for_a_long_transfer_either(sandbox: Sandbox) -> None:
    sandbox.sh("fallocate -l 200M big")
    with sandbox.stream() as get, sandbox.stream() as stream:
        get.send(frames.GET, {"path": b"big", "data": 1 << 40, "size": 1 << 40, "entries": 9})
        request = task(command("head", "-c", "8000000", "/dev/zero"))
        stream.send(frames.TASK, task_message(request, 1000, live=True))
        came = collect(stream, frames.DONE, 20)

        assert sum(len(value) - 4 for kind, value in came if kind == frames.STDOUT) == 8_000_000
        assert frames.END not in [kind for kind, _ in get.inbox]
        sandbox.kill()


def test_an_agent_that_waits_for_a_silent_program_takes_no_processor_time(sandbox: Sandbox) -> None:
    def used() -> float:
        fields = Path(f"/proc/{sandbox.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    assert sandbox.sh("exec >&- 2>&-; sleep 0.6").ok

    assert used() - before < 0.2


def test_a_full_spool_keeps_the_ends_of_what_is_printed(bubblewrap: str) -> None:
    # A file descriptor that takes no byte: like a full disk from the first on.
    with open("/dev/full", "r+b", buffering=0) as full:
        config = AgentConfig(env=BASE_ENV, spool_fd=full.fileno())
        with sandbox_of(config=config) as sandbox:
            result = sandbox.sh("seq 100000; exit 3")
            short = sandbox.sh("seq 10")

    assert (result.exit_code, result.stdout_size) == (3, 588_895)
    assert b"".join(b"%d\n" % n for n in range(1, 100_001)).startswith(result.stdout_bytes)
    assert result.truncated
    assert short.stdout_size == 21


def test_output_that_a_full_disk_lost_is_an_infrastructure_error_when_fetched(bubblewrap: str) -> None:
    with open("/dev/full", "r+b", buffering=0) as full:
        config = replace(AgentConfig(env=BASE_ENV), spool_fd=full.fileno())
        with sandbox_of(config=config) as sandbox:
            request = task(command("seq", "100000"))
            sandbox.handle.execute(request, None)
            with pytest.raises(InfrastructureError, match="no longer kept"):
                list(sandbox.handle.output(request.id, 0, "stdout"))


def test_sockets_are_of_the_kind_that_the_tests_count_on(sandbox: Sandbox) -> None:
    assert sandbox.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 4 * MIB
