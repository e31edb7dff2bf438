import asyncio
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from pytest_arl.cluster.objects import uid
from pytest_arl.cluster.proof import proof_of
from pytest_arl.operator import sandbox_object
from pytest_arl.operator import task_runner as task_runner_module
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import ending_of
from pytest_arl.operator.introduction import LinkLost
from pytest_arl.operator.jobs import Jobs
from pytest_arl.operator.outputs import Outputs
from pytest_arl.operator.task_message import Held
from pytest_arl.operator.task_runner import TaskRunner
from tests.operator.objects import task

KEY = b"k" * 32


class Sent(Exception):
    """Something went to the agent."""


def outcome(the_task: Any, held: Held | None) -> Any:
    """The status that is written without a word to the agent; Sent where it is given the Task."""
    written: list[Any] = []

    async def write_status(_plural: str, _body: Any, status: Any) -> Any:
        written.append(status())
        return the_task

    def send(*_: object) -> None:
        raise Sent

    link: Any = SimpleNamespace(hello=SimpleNamespace(boot="b"), open=lambda *_: 1, shut=lambda _: None, send=send)
    api, store = SimpleNamespace(write_status=write_status), SimpleNamespace(put=lambda *_: None)
    context: Any = SimpleNamespace(epoch=1, opened={"aa": KEY}.get, api=api, store=store)

    async def run() -> None:
        context.jobs, context.outputs = Jobs(), Outputs()
        await TaskRunner(context, the_task, None, {}, AsyncMock(), held).run(link)
        assert context.jobs.busy(ending_of(the_task)), "it is ended beside: the queue goes on"
        while context.jobs.busy(ending_of(the_task)):
            await asyncio.sleep(0)

    asyncio.run(run())
    (status,) = written
    return status


def sent(the_task: Any, held: Held | None) -> bool:
    try:
        outcome(the_task, held)
    except Sent:
        return True
    return False


def test_a_task_without_proof_ends_before_the_agent_hears_of_it() -> None:
    held = Held("u", "aa")
    status = outcome(task(), held)
    (failed,) = (each for each in status["conditions"] if each["type"] == "Failed")
    assert (status["state"], failed["reason"]) == ("Failed", "NotTheHolders")
    assert "exitCode" not in status


def test_a_task_with_proof_and_every_task_of_a_sandbox_without_a_key_goes_to_the_agent() -> None:
    proved = task()
    proved["spec"]["proof"] = proof_of(KEY, "u", proved["metadata"]["name"], proved["spec"])
    assert sent(proved, Held("u", "aa"))
    assert not sent(proved, Held("another", "aa"))
    assert sent(task(), None)


def test_a_task_with_proof_does_not_run_where_it_cannot_be_checked() -> None:
    """Another Sandbox was put in the place of the one that it is for."""
    proved = task()
    proved["spec"]["proof"] = proof_of(KEY, "u", proved["metadata"]["name"], proved["spec"])
    assert not sent(proved, None)


TOO_LARGE = "etcdserver: request is too large"


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (ApiError(500, "InternalError", TOO_LARGE), True),
        (ApiError(0, "Contended", "other clients keep changing it"), True),
        (ApiError(500, "InternalError", "etcdserver: no leader"), False),
        (ApiError(0, "Unreachable", "the API server does not answer"), False),
    ],
)
def test_a_task_of_which_cannot_be_said_that_it_runs_runs(error: ApiError, goes_on: bool) -> None:
    async def write_status(*_: Any) -> Any:
        raise error

    context: Any = SimpleNamespace(api=SimpleNamespace(write_status=write_status), store=SimpleNamespace(put=None))
    writing = TaskRunner(context, task(), None, {}, AsyncMock())._write_running()
    if goes_on:
        asyncio.run(writing)
    else:
        with pytest.raises(ApiError):
            asyncio.run(writing)


async def _that_runs(refusals: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it was written that a Task runs, of which nothing is news; somebody keeps the first times from it."""
    monkeypatch.setattr(task_runner_module, "_REWRITE_SECONDS", 0.05)
    monkeypatch.setattr(task_runner_module, "_STEP_SECONDS", 0.0)
    loop, writes = asyncio.get_running_loop(), []

    async def write_status(*_: Any) -> Any:
        writes.append(loop.time())
        if len(writes) <= refusals:
            raise ApiError(0, "Contended", "other clients keep changing it")
        return None

    context: Any = SimpleNamespace(api=SimpleNamespace(write_status=write_status), store=Mock())
    runner, link = TaskRunner(context, task(), None, {}, AsyncMock()), Mock(lost=loop.create_future())
    with pytest.raises(LinkLost, match="missed a deadline"):
        await runner._watch(link, time.monotonic() + 0.4)
    return writes


@pytest.mark.parametrize(("refusals", "most"), [(0, 1), (3, 4)])
def test_the_running_status_of_a_task_is_written_again_after_a_conflict(
    monkeypatch: pytest.MonkeyPatch, refusals: int, most: int
) -> None:
    """Its client takes a Task of which nothing is said for one that no operator has seen."""
    assert len(asyncio.run(_that_runs(refusals, monkeypatch))) == most


def test_a_task_whose_end_cannot_be_written_fails_the_sandbox_that_ran_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unwritten(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(task_runner_module, "write_end", unwritten)
    fail, context = AsyncMock(), Mock()
    runner = TaskRunner(context, task("full"), None, {}, fail)
    runner.progress.ended.append(Mock(outcome="Succeeded", code=0))
    asyncio.run(runner._write_result(1.0, 2.0, 2.0, yields=False))
    (problem,) = fail.await_args_list[0].args
    assert problem.reason == "TaskUnwritten"
    assert "Task full cannot be written" in problem.message


@pytest.mark.parametrize(("conflicts", "adopted"), [(0, True), (3, True), (19, True), (20, False)])
def test_a_task_made_by_hand_goes_with_its_sandbox_though_its_status_is_written_meanwhile(
    conflicts: int, adopted: bool
) -> None:
    """One that is not adopted outlives its Sandbox."""
    the_task = task()
    others = [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"}]
    patches: list[Any] = []

    async def get(_where: str) -> Any:
        return {"metadata": {"uid": uid(the_task), "resourceVersion": str(len(patches)), "ownerReferences": others}}

    async def patch(_where: str, change: Any) -> None:
        patches.append(change["metadata"])
        if len(patches) <= conflicts:
            raise ApiError(409, "Conflict", "it has changed")

    api: Any = SimpleNamespace(get=get, patch=patch)
    asyncio.run(sandbox_object.adopt(api, the_task, "sb", "u-sb"))
    assert (len(patches) == conflicts + 1) is adopted
    last = patches[-1]
    assert (last["uid"], last["resourceVersion"]) == (uid(the_task), str(len(patches) - 1))
    assert [each["uid"] for each in last["ownerReferences"]] == ["u-p", "u-sb"], "what the store left out stays"
