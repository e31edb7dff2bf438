"""How long an agent is asked again that does not end a Task: links break, and a hostile agent breaks each.

An agent that is given a Task again attaches to what runs or answers from its record, so asking again costs little and
must have an end: a Task that hangs in a hostile agent would be asked for, and its operator be busy, for ever.
"""

from __future__ import annotations

__all__ = ["MOST_IN_VAIN", "Patience"]

MOST_IN_VAIN = 8
"""Attempts in a row at one Task that come to nothing. With the pauses between them they take 20 s at least."""

_LIVED_SECONDS = 60.0
"""An attempt that lasted so long was no attempt in vain: a long Task outlives any number of broken connections."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_GRACE_SECONDS = 10.0
"""For an agent that is asked after a Task's deadline, by which it has the end of it in its record."""


class Patience:
    """The attempts at one Task at a time, which is what an agent runs."""

    def __init__(self) -> None:
        self._task = ""
        self._vain = 0
        self._deadline: float | None = None

    def deadline(self, task: str, moment: float, seconds: float) -> float:
        """Until when to wait for a Task that may take ``seconds``: counted from the first attempt at it."""
        self._turn_to(task)
        if self._deadline is None:
            self._deadline = moment + seconds
        return max(self._deadline, moment + min(seconds, _GRACE_SECONDS))

    def pause(self, task: str, lasted: float) -> float | None:
        """Seconds to wait after an attempt that lasted so long; None where it was one too many."""
        self._turn_to(task)
        self._vain = 1 if lasted > _LIVED_SECONDS else self._vain + 1
        if self._vain > MOST_IN_VAIN:
            return None
        return min(_FIRST_PAUSE * 2.0 ** (self._vain - 1), _LONGEST_PAUSE)

    def _turn_to(self, task: str) -> None:
        if task != self._task:
            self._task, self._vain, self._deadline = task, 0, None
