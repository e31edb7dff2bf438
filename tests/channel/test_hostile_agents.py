"""What an agent in wrong hands may send: it loses its sandbox, and gets nowhere on this machine."""

from __future__ import annotations

import gc
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client import arriving_links, file_transfer, running_process, task_run
from pytest_arl.agent_client import channel as channel_module
from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel_errors import ChannelLost, ChannelTimeout
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.agent_client.stream import Stream
from pytest_arl.backends.base import TaskRequest
from pytest_arl.errors import SandboxLost, UsageError
from pytest_arl.steps import parse_steps
from tests.channel.fake import FakeAgent, in_thread, sandbox_and_agent

Entry = tuple[int, object]


def step(index: int = 0, **fields: object) -> dict[str, object]:
    return {"i": index, "outcome": "Succeeded", "code": 0, "out": 0, "err": 0, "o": b"", "e": b"", **fields}


def execute(sandbox: DirectSandbox, count: int = 1, **fields: Any) -> Any:
    steps = parse_steps([{"type": "Command", "command": ["true"], **fields}] * count)
    return sandbox.execute(TaskRequest("id", steps), None)


def play(agent: FakeAgent, work: Any, *messages: Entry) -> Any:
    """Run ``work`` against an agent that answers its first request with these messages."""
    result = in_thread(work)
    _, stream, _ = agent.receive()
    said = bytearray()
    for kind, value in messages:
        if kind >= frames.HELLO:
            said += frames.message(kind, stream, value)
        else:
            assert isinstance(value, bytes)
            said += frames.frame(kind, stream, value)
    with suppress(OSError):  # it may have been given up in the middle
        agent.send_raw(bytes(said))
    return result()


# Tasks


def test_a_task_is_answered_step_by_step() -> None:
    with sandbox_and_agent() as (sandbox, agent):
        first = step(0, o=b"out", out=3, at=1.5, s=0.25, limit="memory")
        second = step(1, outcome="Failed", code=2)
        messages = [(frames.STEP, first), (frames.STEP, second), (frames.DONE, {"ran": 2})]
        results = play(agent, lambda: execute(sandbox, 3), *messages)

    assert [result.outcome for result in results] == ["Succeeded", "Failed", "Skipped"]
    assert (results[0].stdout, results[0].started_at, results[0].duration) == ("out", 1.5, 0.25)
    assert results[0].limit == "memory 512Mi"


def test_head_and_tail_are_put_together() -> None:
    with sandbox_and_agent(limit=10) as (sandbox, agent):
        index = b"\0\0\0\0"
        messages = [
            (frames.STDOUT, index + b"he"),
            (frames.STDOUT, index + b"ad.!"),
            (frames.STDERR, index + b"err"),
            (frames.STDOUT_TAIL, index + b"ta"),
            (frames.STDOUT_TAIL, index + b"il."),
            (frames.STEP, step(out=5000, err=3)),
            (frames.DONE, {}),
        ]
        (result,) = play(agent, lambda: execute(sandbox), *messages)

    assert (result.stdout, result.stderr, result.stdout_size, result.truncated) == ("head.tail.", "err", 5000, True)


@pytest.mark.parametrize(
    "message",
    [
        (frames.STEP, {}),
        (frames.STEP, []),
        (frames.STEP, step(1)),
        (frames.STEP, step(-1)),
        (frames.STEP, step(0, outcome="Excellent")),
        (frames.STEP, step(0, code="zero")),
        (frames.STEP, step(0, out=[])),
        (frames.STEP, step(0, o=7)),
        (frames.STDOUT, b""),
        (frames.STDOUT, b"\0\0\0\1x"),
        (frames.STDERR_TAIL, b"\xff\xff\xff\xffx"),
        (frames.DATA, b"x"),
        (frames.REPLY, {}),
        (frames.HELLO, {}),
    ],
    ids=str,
)
def test_an_answer_that_makes_no_sense_is_a_lost_sandbox(message: Entry) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        with pytest.raises(SandboxLost, match="violated the protocol"):
            play(agent, lambda: execute(sandbox), message)
        assert not sandbox.alive()


@pytest.mark.parametrize("last", [step(0), step(0, outcome="Failed", code=1)])
def test_frames_after_the_last_result_belong_to_no_task(last: dict[str, object]) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        count = 1 if last["code"] == 0 else 2
        more = [(frames.STEP, step(1, o=b"forged", out=6)), (frames.STDOUT, b"\0\0\0\1x"), (frames.DONE, {})]
        results = play(agent, lambda: execute(sandbox, count), (frames.STEP, last), *more)
        again = play(agent, lambda: execute(sandbox), (frames.STEP, step(0, o=b"its own", out=7)))

    assert [result.outcome for result in results] == [last["outcome"], "Skipped"][:count]
    assert [result.stdout for result in results] == ["", ""][:count]
    assert [result.stdout for result in again] == ["its own"]


def test_an_interrupt_after_the_last_result_waits_for_nothing() -> None:
    """No frame follows it. The agent would have two seconds to send one, and its sandbox be ended then."""

    def interrupted(_result: object) -> None:
        raise KeyboardInterrupt

    with sandbox_and_agent() as (sandbox, agent):
        task = TaskRequest("id", parse_steps([{"type": "Command", "command": ["true"]}]))

        def work() -> None:
            with pytest.raises(KeyboardInterrupt):
                sandbox.execute(task, None, interrupted)

        play(agent, work, (frames.STEP, step(0)))
        assert sandbox.alive()


def test_an_early_end_is_no_success() -> None:
    with sandbox_and_agent() as (sandbox, agent):
        results = play(agent, lambda: execute(sandbox, 2), (frames.STEP, step(0)), (frames.DONE, {"ran": 2}))

    assert [result.outcome for result in results] == ["Succeeded", "Skipped"]


def test_output_without_end_is_kept_up_to_the_limit_only() -> None:
    with sandbox_and_agent(limit=1000) as (sandbox, agent):
        flood = [(kind, bytes(4) + b"x" * 100_000) for kind in (frames.STDOUT, frames.STDOUT_TAIL) for _ in range(50)]
        (result,) = play(agent, lambda: execute(sandbox), *flood, (frames.STEP, step(out=1 << 40)), (frames.DONE, {}))

    assert len(result.stdout_bytes) == 1000


def test_output_of_a_step_before_its_turn_is_a_lost_sandbox() -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="output of step 1"):
        play(agent, lambda: execute(sandbox, 2), (frames.STDOUT, b"\0\0\0\1early"))


class Endless(Stream):
    """A stream on which output waits whenever one looks."""

    def __init__(self) -> None:
        pass

    def receive(self, deadline: float | None = None) -> tuple[int, Any]:
        return frames.STDOUT, bytes(200_000)


def test_an_agent_that_prints_on_and_on_after_the_timeout_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.1)
    steps = parse_steps([{"type": "Command", "command": ["yes"], "timeout": 0.1}])
    run = task_run.TaskRun(TaskRequest("id", steps), None, [], limit=1000, label=lambda limit: limit)

    with pytest.raises(ChannelTimeout):
        run.collect(Endless())


def late(agent: FakeAgent, *, busy: object, answers: int, then: Entry | None) -> None:
    """Be past every deadline: answer so many questions whether it is busy, and then the task."""
    _, stream, _ = agent.receive()
    for _ in range(answers):
        kind, question, _ = agent.receive()
        assert kind == frames.PING
        agent.send(frames.PONG, question, {"busy": busy})
    if then is not None:
        agent.send(then[0], stream, then[1])


def test_an_agent_that_says_that_it_works_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.2)
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: execute(sandbox, timeout=0.1))
        over = step(0, outcome="TimedOut", code=124, limit="timeout")
        late(agent, busy=True, answers=4, then=(frames.STEP, over))
        (found,) = result()

    assert (found.outcome, found.limit) == ("TimedOut", "timeout")


def test_one_that_ends_the_task_while_it_is_asked_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.2)
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: execute(sandbox, timeout=0.1))
        _, stream, _ = agent.receive()
        kind, question, _ = agent.receive()
        assert kind == frames.PING
        agent.send(frames.STEP, stream, step(0, outcome="TimedOut", code=124, limit="timeout"))
        agent.send(frames.PONG, question, {"busy": False})
        (found,) = result()

    assert (found.outcome, found.limit) == ("TimedOut", "timeout")


@pytest.mark.parametrize("busy", [False, None, 1, "yes", {}])
def test_an_agent_that_answers_no_more_is_given_up(monkeypatch: pytest.MonkeyPatch, busy: object) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.2)
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: execute(sandbox, timeout=0.1))
        late(agent, busy=busy, answers=1, then=None)
        with pytest.raises(SandboxLost, match="in time"):
            result()


def test_one_that_waits_for_a_processor_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside hundreds of processes it may get one after many seconds, and so can neither end the step nor answer."""
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.2)
    with sandbox_and_agent(starved=lambda: True) as (sandbox, agent):
        result = in_thread(lambda: execute(sandbox, timeout=0.1))
        _, stream, _ = agent.receive()
        assert [agent.receive()[0] for _ in range(3)] == [frames.PING] * 3
        agent.send(frames.STEP, stream, step(0, outcome="TimedOut", code=124, limit="timeout"))
        (found,) = result()

    assert (found.outcome, found.limit) == ("TimedOut", "timeout")


def test_an_agent_that_is_busy_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(task_run, "LONGEST_GRACE", 0.5)
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: execute(sandbox, timeout=0.1))
        late(agent, busy=True, answers=3, then=None)
        with pytest.raises(SandboxLost, match="in time"):
            result()


def test_what_waited_in_the_stream_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_run, "GRACE_SECONDS", 0.0)

    def slow(_step: str, _stream: str, _data: bytes) -> None:
        time.sleep(0.3)

    with sandbox_and_agent() as (sandbox, agent):
        steps = parse_steps([{"type": "Command", "command": ["true"], "timeout": 0.1}])
        messages = [(frames.STDOUT, bytes(4) + b"x")] * 3 + [(frames.STEP, step(0)), (frames.DONE, {})]
        (result,) = play(agent, lambda: sandbox.execute(TaskRequest("id", steps), slow), *messages)

    assert result.ok


# Files


def entry(name: bytes, kind: str = "f", size: int = 0, **fields: object) -> Entry:
    return frames.ENTRY, {"p": name, "t": kind, "m": 0o644, "n": size, "at": 0, **fields}


FOLDER = entry(b"", "d")


def download(agent: FakeAgent, sandbox: DirectSandbox, local: Path, *messages: Entry) -> None:
    crc = 0
    for kind, value in messages:
        crc = crc32(value, crc) if kind == frames.DATA else crc  # type: ignore[arg-type] # bytes, where it is data
    play(agent, lambda: sandbox.download("d", local), *messages, (frames.END, {"crc": crc}))


def test_a_download_arrives(tmp_path: Path) -> None:
    """The control of what follows."""
    with sandbox_and_agent() as (sandbox, agent):
        content = [entry(b"a", "d"), entry(b"a/f", size=2), (frames.DATA, b"x"), (frames.DATA, b"y")]
        download(agent, sandbox, tmp_path / "d", FOLDER, *content, entry(b"l", "l", to=b"a/f"))

    assert (tmp_path / "d/l").read_text() == "xy"


@pytest.mark.parametrize(
    "name",
    [
        b"/arl/x",
        b"//x",
        b"..",
        b"../x",
        b"a/../../x",
        b"./x",
        b"a//x",
        b"a/",
        b"/",
        b".",
        b"a\0b",
        b"missing/x",
    ],
)
def test_a_name_that_is_not_below_the_download_is_refused(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "in").mkdir()
    with sandbox_and_agent() as (sandbox, agent), pytest.raises((OSError, SandboxLost), match="outside the download"):
        download(agent, sandbox, tmp_path / "in/d", FOLDER, entry(b"a", "d"), entry(name, "f", 1), (frames.DATA, b"x"))

    assert list((tmp_path / "in").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", ["d", "f", "l"])
def test_no_kind_of_entry_goes_to_the_root_of_this_machine(tmp_path: Path, kind: str) -> None:
    there = Path(f"/arl-test-{os.getpid()}")
    try:
        with sandbox_and_agent() as (sandbox, agent), pytest.raises(OSError, match="outside the download"):
            download(agent, sandbox, tmp_path / "d", FOLDER, entry(os.fsencode(there), kind, to=b"x"))
        assert not os.path.lexists(there)
    finally:
        if os.path.lexists(there):
            there.rmdir() if there.is_dir() else there.unlink()


def test_nothing_is_written_through_a_link_of_the_download_itself(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(OSError, match="outside the download"):
        download(agent, sandbox, tmp_path / "d", FOLDER, entry(b"l", "l", to=b"x"), entry(b"l/f"))


def test_a_link_that_later_links_turn_outwards_is_refused(tmp_path: Path) -> None:
    links = [entry(b"s", "d"), entry(b"s/up", "l", to=b".."), entry(b"out", "l", to=b"s/up/..")]
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(UsageError, match="'out' is a link"):
        download(agent, sandbox, tmp_path / "d", FOLDER, *links)
    assert list(tmp_path.iterdir()) == []


def _three_deep(*links: Entry) -> list[Entry]:
    return [FOLDER, entry(b"a", "d"), entry(b"a/b", "d"), *links]


@pytest.mark.parametrize(
    ("links", "there"),
    [
        ([entry(b"up", "l", to=b"a/b/../..")], "a/b"),
        ([entry(b"up", "l", to=b"a/b/../../..")], ""),
        ([entry(b"x", "l", to=b"there/../..")], "link there"),
        ([entry(b"x", "l", to=b"there/file")], "link there"),
        ([entry(b"x", "l", to=b"there")], "link there"),
        ([entry(b"a/b/x", "l", to=b"../../there/file")], "link there"),
        ([entry(b"x", "l", to=b"a/there/file")], "link a/there"),
        ([entry(b"s", "l", to=b"a/b"), entry(b"x", "l", to=b"s/..")], ""),
        ([entry(b"x", "l", to=b"s/.."), entry(b"s", "l", to=b"a/b")], ""),
        ([entry(b"x", "l", to=b"missing/../a")], ""),
        ([entry(b"f"), entry(b"x", "l", to=b"f/../a")], ""),
        ([entry(b"x", "l", to=b"/etc")], ""),
        ([entry(b"a/x", "l", to=b"../../y")], ""),
    ],
    ids=str,
)
def test_where_a_link_will_lie_decides_whether_it_leads_out(tmp_path: Path, links: list[Entry], there: str) -> None:
    """A folder of the destination that has a link in it, or a shape that a later download could change."""
    (tmp_path / "outside").mkdir()
    destination = tmp_path / "d"
    if there.startswith("link "):
        path = destination / there.removeprefix("link ")
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "outside")
    elif there:
        (destination / there).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    harmless = there == "a/b"
    with sandbox_and_agent() as (sandbox, agent):
        if harmless:
            download(agent, sandbox, destination, *_three_deep(*links))
            assert (destination / "up").resolve() == destination
            return
        with pytest.raises(UsageError, match="is a link to"):
            download(agent, sandbox, destination, *_three_deep(*links))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "target", [b"a/b", b"./a//b/", b"a/../f", b"a/b/../../f", b"nowhere", b".", b"a/none/x", b"old/sub", b"old/../f"]
)
def test_a_link_that_stays_inside_comes_along(tmp_path: Path, target: bytes) -> None:
    (tmp_path / "d/old/sub").mkdir(parents=True)
    with sandbox_and_agent() as (sandbox, agent):
        download(agent, sandbox, tmp_path / "d", *_three_deep(entry(b"f"), entry(b"x", "l", to=target)))
    assert os.readlink(tmp_path / "d/x") == os.fsdecode(target)
    assert Path(os.path.realpath(tmp_path / "d/x")).is_relative_to(tmp_path / "d")


def test_links_without_end_to_walk_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving_links, "_MOST_LOOKS", 100)
    links = [entry(b"%d" % number, "l", to=b"a/../" * 10 + b"a") for number in range(9)]
    with sandbox_and_agent() as (sandbox, agent):
        download(agent, sandbox, tmp_path / "below", *_three_deep(*links))
        with pytest.raises(UsageError, match="more than 100 parts"):
            download(agent, sandbox, tmp_path / "above", *_three_deep(*links, entry(b"x", "l", to=b"a/../" * 2 + b"a")))
    assert [path.name for path in tmp_path.iterdir()] == ["below"]


@pytest.mark.parametrize(
    "messages",
    [
        [entry(b"")],
        [entry(b""), entry(b"")],
        [FOLDER, entry(b"a"), entry(b"a")],
        [FOLDER, entry(b"a", "d"), entry(b"a")],
        [FOLDER, entry(b"a", "l", to=b"b"), entry(b"a", "d")],
        [FOLDER, entry(b"a", size=5), (frames.DATA, b"abc")],
        [FOLDER, entry(b"a", size=1), (frames.DATA, b"abc")],
        [FOLDER, (frames.DATA, b"abc")],
        [(frames.DATA, b"abc")],
        [FOLDER, (frames.ENTRY, {})],
        [FOLDER, (frames.ENTRY, b"x")],
        [FOLDER, entry(b"a", "x")],
        [FOLDER, entry(b"a", size=-5)],
        [entry(b"", "d", size=-(1 << 60))],
        [FOLDER, entry(b"a", m="rw")],
        [FOLDER, entry(b"a", at=0.5)],
        [FOLDER, (frames.ENTRY, {"p": "text", "t": "f", "m": 0, "n": 0, "at": 0})],
        [FOLDER, entry(b"a", "l")],
        [FOLDER, entry(b"a", "l", to="b")],
        [FOLDER, entry(b"a", "l", to=b"")],
        [FOLDER, entry(b"a", "l", to=b"b\0c")],
        [FOLDER, (frames.REPLY, {})],
        [FOLDER, (frames.END, {})],
        [FOLDER, (frames.END, 3)],
    ],
    ids=str,
)
def test_a_download_that_makes_no_sense_leaves_nothing(tmp_path: Path, messages: list[Entry]) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        if messages == [entry(b"")]:
            download(agent, sandbox, tmp_path / "d", *messages)
            assert (tmp_path / "d").read_bytes() == b"", "control: this one makes sense"
            return
        with pytest.raises((OSError, SandboxLost, UsageError)):
            download(agent, sandbox, tmp_path / "d", *messages)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [-(2**63), 2**63 - 1])
def test_a_time_before_or_after_all_times_is_a_time(tmp_path: Path, at: int) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        download(agent, sandbox, tmp_path / "d", entry(b"", at=at))

    assert (tmp_path / "d").exists()


def test_modes_lose_what_gives_rights(tmp_path: Path) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        entries = [entry(b"", "d", m=0o7777), entry(b"x", m=0o107755), entry(b"y", m=-1)]
        before = os.umask(0o022)
        try:
            download(agent, sandbox, tmp_path / "d", *entries)
        finally:
            os.umask(before)

    for name in ("d", "d/x", "d/y"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o755


@pytest.mark.parametrize("limit", ["MOST_ENTRIES", "MOST_BYTES"])
def test_a_download_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(file_transfer, limit, 10)
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(UsageError, match="more than"):
        files = [part for n in range(20) for part in (entry(b"%d" % n, size=1), (frames.DATA, b"x"))]
        download(agent, sandbox, tmp_path / "d", FOLDER, *files)

    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_sends_more_than_was_wanted_is_refused_by_this_sides_count(tmp_path: Path) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        sandbox.budget = Budget(5000, "enough")
        first = [entry(b"a", size=2000), (frames.DATA, b"x" * 2000)]
        download(agent, sandbox, tmp_path / "a", FOLDER, *first)
        assert sandbox.budget.left == 5000 - 2 * 1024 - 2000, "a folder, a file and its content"
        sandbox.budget = Budget(5000, "enough")
        over = [FOLDER, entry(b"b", size=2953), (frames.DATA, b"x" * 2000), (frames.DATA, b"x" * 953)]
        with pytest.raises(UsageError, match=r"download of d: 'b' takes 953 bytes more, .* 5000 were left: enough"):
            download(agent, sandbox, tmp_path / "b", *over)
        assert sandbox.budget.left == 5000
        download(agent, sandbox, tmp_path / "c", FOLDER, entry(b"b", size=2952), (frames.DATA, b"x" * 2952))
        assert sandbox.budget.left == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_checkpoint_of_more_than_was_wanted_is_refused_by_this_sides_count() -> None:
    with sandbox_and_agent() as (sandbox, agent):
        sandbox.budget = Budget(3000, "enough")
        sandbox._pristine = False
        content = [FOLDER, entry(b"x", size=4000), (frames.DATA, b"x" * 2000), (frames.DATA, b"x" * 2000)]
        with pytest.raises(UsageError, match=r"checkpoint of /workspace: 'x' takes .*: enough"):
            play(agent, sandbox.checkpoint, *content)
        assert sandbox.budget.left == 3000


HOLES = [
    [entry(b"", size=9), (frames.HOLE, {"n": 0})],
    [entry(b"", size=9), (frames.HOLE, {"n": -1})],
    [entry(b"", size=9), (frames.HOLE, {"n": True})],
    [entry(b"", size=9), (frames.HOLE, {"n": "9"})],
    [entry(b"", size=9), (frames.HOLE, {})],
    [entry(b"", size=9), (frames.HOLE, [9])],
]


@pytest.mark.parametrize("messages", HOLES, ids=lambda messages: repr(messages[-1][1]))
def test_what_is_no_hole_loses_the_sandbox(tmp_path: Path, messages: list[Entry]) -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="protocol"):
        download(agent, sandbox, tmp_path / "d", *messages)
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="protocol"):
        play(agent, lambda: sandbox.read("f"), *messages)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "messages",
    [
        [(frames.HOLE, {"n": 1})],
        [FOLDER, (frames.HOLE, {"n": 1})],
        [entry(b"", size=9), (frames.HOLE, {"n": 10})],
        [entry(b"", size=9), (frames.HOLE, {"n": 2**63 - 1})],
        [entry(b"", size=9), (frames.HOLE, {"n": 8})],
        [entry(b"", size=9), (frames.HOLE, {"n": 8}), (frames.DATA, b"xy")],
    ],
    ids=repr,
)
def test_a_hole_that_is_none_of_a_file_is_an_error(tmp_path: Path, messages: list[Entry]) -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(OSError, match=r"data than|outside the file"):
        download(agent, sandbox, tmp_path / "d", *messages)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 0, None])
def test_no_time_is_too_far_away(tmp_path: Path, at: int, seconds: int | None) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        more = {} if seconds is None else {"seconds": seconds}
        download(agent, sandbox, tmp_path / "d", entry(b"", "d", 0, at=at, **more), entry(b"x", "f", 0, at=at, **more))

    assert (tmp_path / "d/x").is_file()


def test_a_time_that_is_none_loses_the_sandbox(tmp_path: Path) -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="an entry"):
        download(agent, sandbox, tmp_path / "d", entry(b"", seconds="9"))


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_that_is_read_has_no_more_bytes_than_it_announced(size: int) -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="more data"):
        play(agent, lambda: sandbox.read("f"), entry(b"", size=size), (frames.DATA, b"abcd"))


def crumbs(kind: str, count: int) -> list[Entry]:
    one: Entry = (frames.HOLE, {"n": 1}) if kind == "holes" else (frames.DATA, b"x" if kind == "bytes" else b"")
    return [one] * count


@pytest.mark.parametrize("kind", ["holes", "bytes", "nothing"])
@pytest.mark.parametrize("way", ["read", "download"])
def test_a_file_in_crumbs_is_given_up(tmp_path: Path, way: str, kind: str) -> None:
    """Eight gigabytes in holes of one byte would take a year, each within its time."""
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="in too many small pieces"):
        work = (lambda: sandbox.read("f")) if way == "read" else (lambda: sandbox.download("f", tmp_path / "d"))
        play(agent, work, entry(b"", size=2**33), *crumbs(kind, 1100))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [0, 1])
def test_so_many_crumbs_may_be(more: int) -> None:
    holes = 1024 + more  # and the end
    said = [entry(b"", size=holes), *crumbs("holes", holes), (frames.END, {"crc": 0})]
    with sandbox_and_agent() as (sandbox, agent):
        if more:
            with pytest.raises(SandboxLost, match="in too many small pieces"):
                play(agent, lambda: sandbox.read("f"), *said)
        else:
            assert play(agent, lambda: sandbox.read("f"), *said) == bytes(holes)


def test_small_pieces_between_holes_are_a_file() -> None:
    pieces = [part for _ in range(2000) for part in ((frames.DATA, bytes(4096)), (frames.HOLE, {"n": 4096}))]
    crc = crc32(bytes(4096 * 2000))
    with sandbox_and_agent() as (sandbox, agent):
        found = play(
            agent, lambda: sandbox.read("f"), entry(b"", size=2000 * 8192), *pieces, (frames.END, {"crc": crc})
        )
    assert found == bytes(2000 * 8192)


def test_a_file_is_announced_once() -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="a second entry"):
        play(agent, lambda: sandbox.read("f"), entry(b"", size=3), entry(b"", size=3))


@pytest.mark.parametrize("size", [1, 1000])
def test_a_process_that_is_asked_for_its_output_gives_as_much_as_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(running_process, "_MORE_BYTES", 2_000)
    said = (frames.STDOUT, frames.STEP_INDEX.pack(0) + bytes(size))
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost, match="more of an output"):
        sandbox._background["id", 0] = parse_steps([{"type": "Command", "command": ["x"], "background": True}])[0]
        play(agent, lambda: sandbox.process("id", 0).output("stdout"), *[said] * (4_100 // (size + 4) + 1))


@pytest.mark.parametrize("fields", [{"errno": True}, {"errno": -1}, {"errno": 4096}, {"errno": 1 << 60}])
def test_a_refusal_has_a_number_of_the_kernels(fields: dict[str, object]) -> None:
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(SandboxLost):
        play(agent, lambda: sandbox.read("f"), (frames.ERROR, {"text": "no", "errno": 2, "path": b"p", **fields}))


def test_of_a_path_in_a_refusal_no_more_is_told_than_can_be_read() -> None:
    refusal = (frames.ERROR, {"text": "no", "errno": 2, "path": b"p" * 10_000_000})
    with sandbox_and_agent() as (sandbox, agent), pytest.raises(FileNotFoundError) as caught:
        play(agent, lambda: sandbox.write("f", b"", None), refusal)
    assert len(str(caught.value)) < 70_000


@pytest.mark.parametrize("kind", [frames.STDOUT, frames.STEP])
def test_what_nobody_takes_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """The thread that should take it waits for another answer itself."""
    monkeypatch.setattr(channel_module, "_MOST_HELD", 1_000_000)
    part = (
        frames.frame(kind, 1, bytes(60_000)) if kind == frames.STDOUT else frames.message(kind, 1, {"o": bytes(60_000)})
    )
    with sandbox_and_agent() as (sandbox, agent), sandbox.asking() as channel, channel.open() as live:
        assert live.number == 1
        flood = in_thread(lambda: suppressed(lambda: agent.send_raw(part * 100)))
        with channel.open() as other, pytest.raises(ChannelLost, match="more data for one exchange than is accepted"):
            other.receive(time.monotonic() + 10)
        assert live.arrived < 1_200_000
        sandbox.close()
        agent.hang_up()
        flood()


def suppressed(action: Callable[[], object]) -> None:
    with suppress(OSError):
        action()


def test_what_comes_for_others_without_end_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline was looked at only where nothing came."""
    monkeypatch.setattr(channel_module, "_PARTS_SECONDS", 0.5)
    with sandbox_and_agent() as (sandbox, agent):
        stop = threading.Event()

        def flood() -> None:
            with suppress(OSError):
                while not stop.is_set():
                    agent.send_raw(frames.frame(frames.STDOUT, 999, bytes(1000)) * 100)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            with sandbox.asking() as channel, channel.open() as stream:
                stream.send(frames.PING, {})
                with pytest.raises(ChannelTimeout):
                    stream.receive(time.monotonic() + 0.5)
        finally:
            stop.set()
            sandbox.close()
            agent.hang_up()
            thread.join(20)


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        with pytest.raises(OSError, match="checksum"):
            play(agent, lambda: sandbox.read("f"), entry(b"", size=3), (frames.DATA, b"abc"), (frames.END, {"crc": 1}))
        with pytest.raises(OSError, match="checksum"):
            play(
                agent,
                lambda: sandbox.download("f", tmp_path / "f"),
                entry(b"", size=3),
                (frames.DATA, b"abc"),
                (frames.END, {"crc": 1}),
            )

    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_is_lost_in_the_middle_of_a_download_leaves_nothing(tmp_path: Path) -> None:
    with sandbox_and_agent() as (sandbox, agent):
        result = in_thread(lambda: sandbox.download("d", tmp_path / "d"))
        _, stream, _ = agent.receive()
        agent.send(frames.ENTRY, stream, FOLDER[1])
        agent.send(frames.ENTRY, stream, entry(b"f", size=10)[1])
        agent.hang_up()
        with pytest.raises(SandboxLost):
            result()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_that_fails_halfway_keeps_no_file_open() -> None:
    with sandbox_and_agent() as (sandbox, agent):
        sandbox._pristine = False
        result = in_thread(sandbox.checkpoint)
        _, stream, _ = agent.receive()
        kind, value = FOLDER
        agent.send(kind, stream, value)
        agent.send(frames.END, stream, {"crc": 0})
        agent.receive()
        agent.hang_up()
        with pytest.raises(SandboxLost):
            result()
        gc.collect()  # an archive that nobody closed is a warning then
