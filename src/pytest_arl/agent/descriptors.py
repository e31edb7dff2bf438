"""Open descriptors: whether a process of the step has as many as it may.

The kernel counts no refusal, and what a process had open is gone with it. So it is looked for while the step runs:
by the clock, and whenever the step writes to stderr, which is the moment at which most programs say why they end.
"""

from __future__ import annotations

import os
import time

from pytest_arl.agent import tree

__all__ = ["Descriptors"]

_FEW = 16  # pids that are tried without a look at which of them live
_BUDGET = 0.05  # of a processor
_LOOK_SECONDS = 0.01  # a processor's time for one look, at most
_AT_ONCE = 64  # descriptors between two looks at the clock


class Descriptors:
    """The descriptors of the processes that a step starts.

    Attributes:
        reached: whether a process had as many as it may, at some look since the step began.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._first = 0
        self._due = self._end = 0.0
        self._counting: tuple[int, os._ScandirIterator[str], int] | None = None
        self.reached = False

    def begin(self, newest_pid: int) -> None:
        """A step starts. ``newest_pid`` is the one that was given last."""
        self._stop_counting()
        self._first = newest_pid
        self._due = 0.0
        self.reached = False

    def look(self) -> None:
        """Look once, where that was not done just now."""
        now = time.monotonic()
        if self.reached or now < self._due:
            return
        begin = time.thread_time()
        self._end = begin + _LOOK_SECONDS
        for pid in self._started():
            if self._has_all(pid):
                self.reached = True
                break
            if time.thread_time() > self._end:
                break
        self._due = now + (time.thread_time() - begin) / _BUDGET

    def _started(self) -> list[int]:
        """Pids that may be of the step, the newest first: pids are given in order until they start again."""
        last = tree.last_pid()
        if last and 0 <= last - self._first <= _FEW:
            return list(range(last, self._first, -1))
        return [pid for pid in reversed(tree.numbers()) if pid > self._first or last < self._first]

    def _has_all(self, pid: int) -> bool:
        folder = "/proc/%d/fd" % pid  # noqa: UP031 - a third of the time of an f-string's format
        try:
            # The last one is given when there is no other, or where it was asked for by its number.
            os.lstat(folder + "/" + str(self._limit - 1))
            return (os.stat(folder).st_size or self._count(pid, folder)) >= self._limit
        except OSError:
            self._stop_counting()
            return False

    def _count(self, pid: int, folder: str) -> int:
        """Count them one by one: before version 6.2 Linux did not give the number as the folder's size. A look counts
        as many as its time allows, and the next one goes on from there.
        """
        if self._counting is None or self._counting[0] != pid:
            self._stop_counting()
            self._counting = pid, os.scandir(folder), 0
        _, entries, count = self._counting
        for _entry in entries:
            count += 1
            if count >= self._limit:
                break
            if not count % _AT_ONCE and time.thread_time() > self._end:
                self._counting = pid, entries, count
                return 0
        self._stop_counting()
        return count

    def _stop_counting(self) -> None:
        if self._counting is not None:
            self._counting[1].close()
            self._counting = None
