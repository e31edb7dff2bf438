"""Ends of Tasks and Sandboxes in the API: written with what there is room for, and beside the queue where nothing ran.

Who changes a Task all the time keeps its end from being written. So an end waits by itself, never in a queue: a few of
a namespace at a time are on their way, and one that cannot be written now makes room for the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import key, uid
from pytest_arl.operator import task_status
from pytest_arl.operator.api_errors import CONTENDED, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context

__all__ = ["end_beside", "end_now_or_beside", "ending_of", "write", "write_end"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_PATIENCE_SECONDS = 600.0
"""Time in which a Task's end is written again where the API server answers with errors. An absent one is waited for."""

_MOST_RESULTS = 8
"""Most ends of a namespace that are held in memory while other writers keep them from being written."""


def ending_of(task: Object) -> tuple[str, str]:
    """The name of the job that writes a Task's end."""
    return "end of a task", uid(task)


def end_beside(context: Context, task: Object, build: Callable[[bool], Object]) -> None:
    """Write a Task's end when its turn comes. Until then its job is busy, and the Task is not to be run."""

    async def end() -> None:
        await write_end(context, task, build, yields=True)

    context.jobs.in_turn(("ends", key(task).namespace), ending_of(task), end)


async def end_now_or_beside(context: Context, task: Object, end: Callable[[bool], Coroutine[Any, Any, None]]) -> None:
    """Write a result, by an ``end`` that yields or not, as :func:`write_end` does; beside, where that has yielded."""
    lane = "results", key(task).namespace
    try:
        await end(True)
    except ApiError as error:
        if error.reason != CONTENDED:
            raise
        if context.jobs.size(lane) < _MOST_RESULTS:
            context.jobs.in_turn(lane, ending_of(task), lambda: end(True))
        else:
            await end(False)


async def write(context: Context, task: Object, status: Callable[[], Object]) -> bool:
    """Write a status; whether the Task is still there. It is made when its turn comes: many large ones wait."""
    try:
        context.store.put("tasks", await context.api.write_status("tasks", task, status))
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


async def write_end(context: Context, task: Object, build: Callable[[bool], Object], *, yields: bool = False) -> bool:
    """Write how a Task ended: with its output, without it where that is refused, again where nobody answers.

    A Task that has no room for a status is given up: what would be refused for ever is not asked for ever. It is
    deleted, so that nobody waits for it; False where that is refused as well, or a finalizer keeps it. ``yields``: the
    error is raised where somebody else writes to it all the time.
    """
    refused = ""
    builds: list[Callable[[], Object]] = [lambda: build(True), lambda: build(False), lambda: _unwritten(task, refused)]
    pause, until = _FIRST_PAUSE, time.monotonic() + _PATIENCE_SECONDS
    while builds:
        try:
            if not await write(context, task, builds[0]):
                context.store.remove("tasks", task)
            return True
        except ApiError as error:
            if yields and error.reason == CONTENDED:
                raise
            _LOG.warning("the end of a Task was not written: %s", error, extra={"data": {"task": "/".join(key(task))}})
            refused = error.message[:200]
            busy = error.status in (429, 500, 502, 503, 504) and not error.too_large
            if error.status != 0 and (not busy or time.monotonic() > until):
                del builds[0]
                continue
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    context.store.give_up(task)
    context.notices.warn(task, "StatusRefused", f"its end cannot be written, so it is deleted: {refused}")
    where = path("tasks", *key(task))
    try:
        await context.api.delete(where, uid(task))
        left = (await context.api.get(where))["metadata"]["uid"] == uid(task)  # a finalizer may keep it for ever
    except ApiError as error:
        if error.status == 404:
            return True
        _LOG.warning("a Task was not deleted: %s", error, extra={"data": {"task": "/".join(key(task))}})
        return False
    return not left


def _unwritten(task: Object, refused: str) -> Object:
    text = f"the API server refuses its status: {refused}"
    return task_status.failed(task, "StatusRefused", text, time.time(), output=False)
