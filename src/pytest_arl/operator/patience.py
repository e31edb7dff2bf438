"""Patience with an agent that does not end a Task: links break, and a hostile agent breaks each.

An agent that is given a Task again attaches to what runs or answers from its record, so asking again costs little and
must have an end: a Task that hangs in a hostile agent would be asked for, and its operator be busy, for ever. The same
holds for links that end as soon as they are there, though nothing is asked.
"""

from __future__ import annotations

__all__ = ["MOST_IN_VAIN", "NO_TASK", "Patience"]

NO_TASK = ""
"""Counts attempts at no Task: links that ended before one was asked for."""

MOST_IN_VAIN = 8
"""Attempts in a row at one Task that come to nothing. With the pauses between them they take 20 s at least."""

_MOST_IN_A_ROW = 64
"""Attempts in a row at any Tasks: an agent may say of each of hundreds that another one runs."""

_LIVED_SECONDS = 60.0
"""An attempt that lasted so long was no attempt in vain: a long Task outlives any number of broken connections."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_GRACE_SECONDS = 10.0
"""Time for an agent that is asked after a Task's deadline, by which it has the end of it in its record."""


_MOST_TASKS = 256
"""Tasks whose attempts are counted at a time: an agent may say of each that another one runs."""


class _Attempts:
    """Attempts at one Task."""

    def __init__(self) -> None:
        self.vain = 0
        self.deadline: float | None = None


class Patience:
    """The attempts at the Tasks of one sandbox. Each has its own count, whatever is tried between them."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Attempts] = {}
        self._in_a_row = 0

    def deadline(self, task: str, moment: float, seconds: float) -> float:
        """The time until which to wait for a Task that may take ``seconds``: counted from the first attempt at it."""
        attempts = self._at(task)
        if attempts.deadline is None:
            attempts.deadline = moment + seconds
        return max(attempts.deadline, moment + min(seconds, _GRACE_SECONDS))

    def pause(self, task: str, lasted: float) -> float | None:
        """Seconds to wait after an attempt that lasted so long; None where it was one too many."""
        attempts = self._at(task)
        lived = lasted > _LIVED_SECONDS
        attempts.vain = 1 if lived else attempts.vain + 1
        self._in_a_row = 1 if lived else self._in_a_row + 1
        if attempts.vain > MOST_IN_VAIN or self._in_a_row > _MOST_IN_A_ROW:
            return None
        return min(_FIRST_PAUSE * 2.0 ** (attempts.vain - 1), _LONGEST_PAUSE)

    def over(self, task: str) -> None:
        """A Task has ended."""
        self._in_a_row = 0
        for each in (task, NO_TASK):
            self._tasks.pop(each, None)

    def _at(self, task: str) -> _Attempts:
        found = self._tasks.setdefault(task, _Attempts())
        if len(self._tasks) > _MOST_TASKS:
            del self._tasks[next(each for each in self._tasks if each != task)]
        return found
