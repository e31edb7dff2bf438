"""Writing the end of a Task, and the end of one that cannot be written."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.cluster.objects import uid
from pytest_arl.operator import endings
from pytest_arl.operator.api_errors import CONTENDED, ApiError
from pytest_arl.operator.endings import write_end
from tests.operator.objects import task

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
    context: Any = SimpleNamespace(
        api=SimpleNamespace(write_status=write_status, delete=delete, get=get), store=store, notices=notices
    )
    return asyncio.run(write_end(context, task_body, lambda _output: {})), done


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


def test_one_that_somebody_changes_all_the_time_is_written_again_or_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_FIRST_PAUSE", 0.001)
    tries = 0

    async def write_status(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise ApiError(0, CONTENDED, "other clients keep changing it")
        return task()

    context: Any = SimpleNamespace(
        api=SimpleNamespace(write_status=write_status), store=SimpleNamespace(put=lambda *_: None)
    )
    with pytest.raises(ApiError, match="other clients"):
        asyncio.run(write_end(context, task(), lambda _output: {}, yields=True))
    assert tries == 1
    assert asyncio.run(write_end(context, task(), lambda _output: {})) is True
    assert tries == 5
