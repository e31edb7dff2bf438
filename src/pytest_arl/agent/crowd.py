"""Processes and threads where no cgroup counts refused forks: whether the sandbox has all that it may.

RLIMIT_NPROC refuses a fork and counts nothing, so that reaching it must be seen. Every task takes a pid: as long as
fewer were given since the last count than there was room for then, nothing has to be counted.
"""

from __future__ import annotations

import time

from pytest_arl.agent import tree

__all__ = ["Crowd"]

_TASKS_PER_SECOND = 50_000  # what a program starts if it does nothing else, about
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks
_FAR_BUDGET, _BUDGET = 0.1, 0.5  # of a processor, for counting: with more than half of the room left, and with less
_TRIES = 3
_WINDOW = 0.05  # seconds: a program that is refused once may go on, one that is refused for ever is ended
_BUSY = 0.2  # of a processor, in the kernel, that forks in vain take at least


class Crowd:
    """Counter of the kernel's tasks that live in the sandbox, the agent's own included.

    Attributes:
        reached: whether there were as many as there may be, at some look since the step began.
    """

    def __init__(self, limit: int) -> None:
        """``limit`` is the resource limit, which the sandbox has for itself."""
        self._limit = limit
        self._told = tree.tells_last_pid()  # else every look counts
        self._count = 1
        self._counted_at = tree.last_pid()
        self._looked_at = self._cost = 0.0
        self._since: tuple[float, int, float] | None = None
        self._system_time = 0.0
        self.reached = False

    def begin(self) -> None:
        """A step starts."""
        self.reached = False
        self._since = None
        self._cost = 0.0

    def look(self, *, rest: float | None = None) -> bool:
        """Look once: whether forks have been refused for so long that the program will not stop trying.

        ``rest`` is how long after the last count it is too early for another, in times of what that took; None is as
        long as a budget wants.
        """
        last = tree.last_pid()
        given = last - self._counted_at
        now = time.monotonic()
        if self._told and 0 <= given < self._limit - self._count:
            self._since = None
            return False
        if now < self._looked_at + (self._rest() if rest is None else rest * self._cost):
            return False
        crowded = self._is_full()
        self._looked_at = time.monotonic()
        self._cost = self._looked_at - now
        if not crowded:
            self._since = None
            return False
        self.reached = True
        if self._since is None:
            self._since = now, last, self._system_time
        began, first, system_time = self._since
        if now - began < _WINDOW:
            return False
        # Nobody is refused where all there are only wait for something, or work without a system call.
        self._since = now, last, self._system_time
        return last != first or self._system_time - system_time >= (now - began) * _BUSY

    def next_look(self) -> float:
        """Seconds until it may have become full."""
        room = self._limit - self._count - (tree.last_pid() - self._counted_at)
        return max(_SHORTEST, self._rest(), min(_LONGEST, room / _TASKS_PER_SECOND))

    def _rest(self) -> float:
        """Seconds between two counts."""
        return self._cost / (_FAR_BUDGET if self._count < self._limit / 2 else _BUDGET)

    def _is_full(self) -> bool:
        """Count, and again where tasks came meanwhile: of those, both the old and the new may have been counted."""
        for _ in range(_TRIES):
            before = tree.last_pid()
            self._count, self._system_time = tree.tasks()
            self._counted_at = tree.last_pid()
            if self._count < self._limit:
                return False
            if self._counted_at == before:
                break
        return True
