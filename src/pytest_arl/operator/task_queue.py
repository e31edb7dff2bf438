"""The Tasks of one Sandbox in the order in which they run.

Thousands may wait, and each may be ended without being run. So the next one is found by a few looks, however many
there are, and each is passed by once.
"""

from __future__ import annotations

import heapq
import math
import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import created, name, uid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_arl.cluster.objects import Object

__all__ = ["TaskQueue"]

_AGAIN_SECONDS = 1.0
"""Between two looks at all Tasks, for one that was passed by and whose end was not written, or that no event told."""

_MOST_GONE = 64
"""More entries than there are Tasks before those of Tasks that are gone are thrown away."""


class TaskQueue:
    """The order of the open Tasks of one Sandbox."""

    def __init__(self, there: Callable[[], Mapping[str, Object]], ending: Callable[[Object], bool]) -> None:
        """``there`` are its Tasks that are not finished, by UID; ``ending`` those whose end is being written."""
        self._there = there
        self._ending = ending
        self._order: list[tuple[str, str, str]] = []
        self._known: set[str] = set()
        self._looked = -math.inf

    def add(self, task: Object) -> None:
        """A Task has come, or has changed."""
        before_all = self._looked == -math.inf  # the first look finds it with the others
        if before_all or uid(task) in self._known or uid(task) not in self._there():
            return
        self._known.add(uid(task))
        heapq.heappush(self._order, (created(task), name(task), uid(task)))
        if len(self._order) > 2 * len(self._there()) + _MOST_GONE:
            self._order = [entry for entry in self._order if entry[2] in self._there()]
            heapq.heapify(self._order)
            self._known = {which for _, _, which in self._order}

    def next(self, first: str | None = None) -> Object | None:
        """The Task to run, which stays where it is until it has ended; ``first`` before all others."""
        there = self._there()
        task = None if first is None else there.get(first)
        if task is not None and not self._ending(task):
            return task
        task = self._front(there)
        if task is None and there and time.monotonic() - self._looked >= _AGAIN_SECONDS:
            self._look_again(there)
            task = self._front(there)
        return task

    def _front(self, there: Mapping[str, Object]) -> Object | None:
        while self._order:
            which = self._order[0][2]
            task = there.get(which)
            if task is not None and not self._ending(task):
                return task
            heapq.heappop(self._order)
            self._known.discard(which)
        return None

    def _look_again(self, there: Mapping[str, Object]) -> None:
        self._looked = time.monotonic()
        self._order = [(created(task), name(task), uid(task)) for task in there.values() if not self._ending(task)]
        heapq.heapify(self._order)
        self._known = {which for _, _, which in self._order}
