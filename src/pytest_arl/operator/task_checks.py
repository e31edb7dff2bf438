"""Checks of Tasks that have to be read to know whose they are.

Of large Tasks, and of a namespace's that has many, the steps are not kept. In a Sandbox that somebody holds, anybody
may have made one, and reading thousands takes its time. So they are read beside its queue, a few at a time, and come
into it once they have shown that they are the holder's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import key, uid
from pytest_arl.operator import task_message, task_status
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import end_beside
from pytest_arl.operator.slim import is_cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context

__all__ = ["TaskChecks"]

_MOST_PASSED = 256
"""Tasks of which it is remembered that they are the holder's; the others are read again."""


class TaskChecks:
    """Reads the Tasks of one Sandbox."""

    def __init__(self, context: Context, sandbox: str, passed: Callable[[Object], None]) -> None:
        """``sandbox`` is its UID; ``passed`` gets each Task that may be run."""
        self._context = context
        self._lane = "checks", sandbox
        self._tell = passed
        self._passed: dict[str, None] = {}

    def runs(self, task: Object) -> bool:
        """True while a Task is being read."""
        return self._context.jobs.busy(("check", uid(task)))

    def may_run(self, task: Object, held: task_message.Held | None) -> bool:
        """True if a Task may be run as far as this is known or is found out when it is; else it is read first."""
        if held is None or not is_cut(task) or uid(task) in self._passed:
            return True
        # The holder has one at a time. Of all others there may be hundreds, which came before it.
        check = ("check", uid(task))
        self._context.jobs.in_turn(self._lane, check, lambda: self._check(task, held), newest_first=True)
        return False

    async def _read(self, task: Object) -> Object | None:
        """The whole Task; None where it is gone."""
        try:
            there = await self._context.api.get(path("tasks", *key(task)))
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        return there if uid(there) == uid(task) else None

    async def _check(self, task: Object, held: task_message.Held) -> None:
        # One without a proof is refused whatever its steps are.
        there = task if "proof" not in task["spec"] else await self._read(task)
        if there is None:
            self._context.store.remove("tasks", task)
            return
        try:
            held.check(there, self._context.opened)
        except task_message.Refused as problem:
            reason, text = problem.reason, str(problem)
            end_beside(self._context, task, lambda _: task_status.failed(task, reason, text, time.time()))
            return
        self._passed[uid(task)] = None
        if len(self._passed) > _MOST_PASSED:
            del self._passed[next(iter(self._passed))]
        self._tell(task)
