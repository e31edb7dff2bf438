"""Tasks that were kept without their steps while they waited."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

from pytest_arl.agent import frames
from pytest_arl.cluster.objects import key, uid
from pytest_arl.cluster.proof import proof_of
from pytest_arl.operator import task_status
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.jobs import Jobs
from pytest_arl.operator.outputs import Outputs
from pytest_arl.operator.slim import cut, slim
from pytest_arl.operator.task_checks import TaskChecks
from pytest_arl.operator.task_message import Held
from pytest_arl.operator.task_runner import TaskRunner
from tests.operator.objects import command, task


class Link:
    """Runs each step of a Task that it is given, at once."""

    def __init__(self) -> None:
        self.hello = SimpleNamespace(boot="b")
        self.lost = asyncio.get_running_loop().create_future()
        self.sent: list[Any] = []
        self.on_frame: Any = None

    def open(self, on_frame: Any, _allowed: int = 0) -> int:
        self.on_frame = on_frame
        return 1

    def shut(self, _stream: int) -> None:
        pass

    def send(self, kind: int, _stream: int, value: Any) -> None:
        if kind == frames.TASK:
            self.sent.append(dict(value))
            for index, _ in enumerate(value["steps"]):
                self.on_frame(frames.STEP, {"i": index, "outcome": "Succeeded", "code": 0})
            self.on_frame(frames.DONE, {})


def run(whole: Any, there: Any, held: Held | None = None) -> tuple[list[Any], list[Any], list[Any], Any]:
    """Run what is kept of a Task: what its agent is given, what is written, what is forgotten, and the runner."""
    written: list[Any] = []
    removed: list[Any] = []
    waiting = cut("tasks", slim("tasks", whole))

    async def get(where: str) -> Any:
        assert there is not None, "it is not read"
        assert where.endswith("/tasks/" + key(whole).name)
        return there

    async def write_status(_plural: str, _body: Any, status: Any) -> Any:
        written.append(status())
        return whole

    async def main() -> tuple[Link, TaskRunner]:
        link: Any = Link()
        store = SimpleNamespace(put=lambda *_: None, remove=lambda _kind, body: removed.append(uid(body)))
        context: Any = SimpleNamespace(
            epoch=1,
            api=SimpleNamespace(get=get, write_status=write_status),
            store=store,
            jobs=Jobs(),
            outputs=Outputs(),
            opened=lambda _: b"k" * 32,
        )
        runner = TaskRunner(context, waiting, None, {}, AsyncMock(), held)
        await runner.run(link)
        async with asyncio.timeout(10):
            while not (written or removed):
                await asyncio.sleep(0)
        return link, runner

    link, runner = asyncio.run(main())
    return link.sent, written, removed, runner


def test_a_task_that_was_cut_is_read_again_and_its_steps_have_their_names() -> None:
    whole = task("t", command("one", "x" * 1000), command("two", "y" * 1000), traceID="trace")
    sent, written, removed, runner = run(whole, whole)
    assert [step["argv"] for step in sent[0]["steps"]] == [[b"x" * 1000], [b"y" * 1000]]
    (status,) = written
    assert [(step["name"], step["type"], step["outcome"]) for step in status["steps"]] == [
        ("one", "Command", "Succeeded"),
        ("two", "Command", "Succeeded"),
    ]
    assert removed == []
    assert runner.task["spec"]["traceID"] == "trace"
    assert "command" not in runner.task["spec"]["steps"][0], "it may be large, and the Task may run for long"


def test_another_task_of_its_name_is_not_run_in_its_place() -> None:
    whole = task("t")
    sent, written, removed, _ = run(whole, task("t"))
    assert (sent, written, removed) == ([], [], [uid(whole)])


def test_one_without_a_proof_is_refused_unread() -> None:
    sent, written, _, _ = run(task(), None, Held("u", "aa"))
    assert sent == []
    assert [each["reason"] for each in written[0]["conditions"]] == ["NotTheHolders"]


def test_one_with_a_proof_is_read_and_its_proof_checked() -> None:
    proved = task()
    proved["spec"]["proof"] = proof_of(b"k" * 32, "u", proved["metadata"]["name"], proved["spec"])
    assert len(run(proved, proved, Held("u", "aa"))[0]) == 1
    assert run(proved, proved, Held("another", "aa"))[0] == []


def test_one_that_was_cancelled_before_it_was_read_again_says_so_without_steps() -> None:
    waiting = cut("tasks", slim("tasks", task()))
    status = task_status.cancelled(waiting, 1.0)
    assert (status["state"], status["exitCode"], "steps" in status) == ("Failed", 137, False)
    steps = task_status.cancelled(task("t", command("one"), command("two")), 1.0)["steps"]
    assert [step["outcome"] for step in steps] == ["Cancelled", "Skipped"]


def test_of_tasks_that_have_to_be_read_the_newest_is_read_first() -> None:
    """Its holder waits for it, and hundreds of others' may have come before."""
    read: list[str] = []

    async def main() -> None:
        gate = asyncio.Event()

        async def get(where: str) -> Any:
            read.append(where.rpartition("/")[2])
            await gate.wait()
            raise ApiError(404, "NotFound", "gone")

        context: Any = SimpleNamespace(
            api=SimpleNamespace(get=get), jobs=Jobs(), store=SimpleNamespace(remove=lambda *_: None)
        )
        checks = TaskChecks(context, "u", lambda _: None)
        held: Any = object()
        for number in range(20):
            body = cut("tasks", slim("tasks", task(f"t{number}", proof="p" * 64)))
            assert not checks.may_run(body, held)
        await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(10):
            while len(read) < 20:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert read[4:] == [f"t{number}" for number in reversed(range(4, 20))]
