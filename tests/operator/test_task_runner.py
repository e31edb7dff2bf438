import asyncio
from types import SimpleNamespace
from typing import Any

from pytest_arl.operator.task_runner import TaskRunner
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
    asyncio.run(TaskRunner(control, the_task, None, {}, held).run(link))
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
