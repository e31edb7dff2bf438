import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.operator.api import ApiError
from pytest_arl.operator.jobs import Jobs
from pytest_arl.operator.objects import Key, uid
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from pytest_arl.operator.task_runner import TaskRunner, refusal_of, write_end
from pytest_arl.operator.wire import Held
from pytest_arl.proof import proof_of
from tests.operator.objects import task

KEY = b"k" * 32


class Sent(Exception):
    """Something went to the agent."""


def outcome(the_task: Any, held: Held | None) -> Any:
    """The status that is written without a word to the agent; Sent where it is given the Task."""
    written: list[Any] = []

    async def write_status(_plural: str, _body: Any, status: Any) -> Any:
        written.append(status)
        return the_task

    def send(*_: object) -> None:
        raise Sent

    link: Any = SimpleNamespace(hello=SimpleNamespace(boot="b"), open=lambda *_: 1, shut=lambda _: None, send=send)
    api, store = SimpleNamespace(write_status=write_status), SimpleNamespace(put=lambda *_: None)
    control: Any = SimpleNamespace(epoch=1, opened={"aa": KEY}.get, api=api, store=store)

    async def run() -> None:
        control.jobs = Jobs()
        await TaskRunner(control, the_task, None, {}, held).run(link)
        assert control.jobs.busy(refusal_of(the_task)), "it is ended beside: the queue goes on"
        while control.jobs.busy(refusal_of(the_task)):
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


def ended(task_body: Any, *, deleted: bool, kept: Any = None) -> tuple[bool, list[str]]:
    """Write an end for which there is no room: whether whoever waits hears of it, and what was done."""
    done: list[str] = []

    async def write_status(*_: Any) -> Any:
        raise ApiError(500, "InternalError", TOO_LARGE)

    async def delete(where: str, which: str) -> bool:
        done.append(f"delete {which}")
        if not deleted:
            raise ApiError(500, "InternalError", TOO_LARGE)
        return True

    async def get(_where: str) -> Any:
        if kept is None:
            raise ApiError(404, "NotFound", "it is gone")
        return kept

    store = SimpleNamespace(put=None, give_up=lambda _: done.append("give up"))
    notices = SimpleNamespace(warn=lambda _task, reason, _text: done.append(reason))
    control: Any = SimpleNamespace(
        api=SimpleNamespace(write_status=write_status, delete=delete, get=get), store=store, notices=notices
    )
    return asyncio.run(write_end(control, task_body, lambda _output: {})), done


def test_a_task_whose_end_has_no_room_is_deleted() -> None:
    the_task = task()
    assert ended(the_task, deleted=True) == (True, ["give up", "StatusRefused", f"delete {uid(the_task)}"])


def test_one_that_a_finalizer_keeps_is_said_to_be_there() -> None:
    """Its client would wait for ever, if the Sandbox went on."""
    the_task = task()
    assert ended(the_task, deleted=True, kept=the_task)[0] is False
    assert ended(the_task, deleted=True, kept=task("another"))[0] is True


def test_where_that_is_refused_as_well_it_is_said() -> None:
    assert ended(task(), deleted=False)[0] is False


@pytest.mark.parametrize(("message", "goes_on"), [(TOO_LARGE, True), ("etcdserver: no leader", False)])
def test_a_task_that_has_no_room_for_running_runs(message: str, goes_on: bool) -> None:
    async def write_status(*_: Any) -> Any:
        raise ApiError(500, "InternalError", message)

    control: Any = SimpleNamespace(api=SimpleNamespace(write_status=write_status), store=SimpleNamespace(put=None))
    writing = TaskRunner(control, task(), None, {}, None)._write_running()
    if goes_on:
        asyncio.run(writing)
    else:
        with pytest.raises(ApiError):
            asyncio.run(writing)


@pytest.mark.parametrize("busy", [False, True])
def test_the_queue_goes_on_behind_a_task_that_is_being_refused(busy: bool) -> None:
    keeper: Any = object.__new__(SandboxKeeper)
    foreign, mine = task("a"), task("b")
    keeper.key = None
    keeper._store = SimpleNamespace(tasks=lambda _key: [foreign, mine])
    keeper._control = SimpleNamespace(
        jobs=SimpleNamespace(busy=lambda named: busy and named == ("refuse", uid(foreign)))
    )
    assert keeper._next(None) is (mine if busy else foreign)
    assert keeper._next(uid(mine)) is mine
    assert keeper._next(uid(foreign)) is (mine if busy else foreign)


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

    keeper: Any = object.__new__(SandboxKeeper)
    keeper.key, keeper.uid, keeper._api = Key("ns", "sb"), "u-sb", SimpleNamespace(get=get, patch=patch)
    asyncio.run(keeper._adopt(the_task))
    assert (len(patches) == conflicts + 1) is adopted
    last = patches[-1]
    assert (last["uid"], last["resourceVersion"]) == (uid(the_task), str(len(patches) - 1))
    assert [each["uid"] for each in last["ownerReferences"]] == ["u-p", "u-sb"], "what the store left out stays"
