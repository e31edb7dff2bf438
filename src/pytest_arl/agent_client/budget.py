"""A bound on the bytes of one sandbox that this machine keeps.

What a file takes in a sandbox and what it takes here are two things: a hole, a file that is gone again, a stream that
was printed cost a sandbox nothing. So its pool says how much is enough.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.text.units import format_quantity

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Budget", "Share"]

_STEP = 2**20
"""Bytes that a share takes at once, so that it seldom has to ask."""


class Budget:
    """The bytes of one sandbox that are kept here. Thread-safe.

    Attributes:
        most: how many they may be.
        cure: what to do where that is not enough.
    """

    def __init__(self, most: int, cure: str) -> None:
        self.most = most
        self.cure = cure
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def left(self) -> int:
        """The number of bytes that are left."""
        return self.most - self._bytes

    def take(self, size: int, more: int = 0) -> int:
        """Count so many, and some ``more`` where there is room; how many were counted, 0 where it is too many."""
        with self._lock:
            left = self.most - self._bytes
            taken = 0 if size > left else min(size + more, left)
            self._bytes += taken
            return taken

    def give(self, size: int) -> None:
        """So many are kept no longer."""
        with self._lock:
            self._bytes -= size


class Share:
    """The bytes that one transfer keeps. Its ``with`` block gives all of it back where it fails."""

    def __init__(self, budget: Budget, what: str) -> None:
        """``what`` is done, for the message."""
        self._budget = budget
        self._what = what
        self._taken = 0
        self._spare = 0

    @property
    def left(self) -> int:
        """The number of bytes that it may still keep."""
        return self._budget.left + self._spare

    def grow(self, size: int, path: bytes) -> None:
        """So many bytes more. UsageError where they are too many; it names what they are of."""
        self._spare -= size
        if self._spare >= 0:
            return
        taken = self._budget.take(-self._spare, _STEP)
        if not taken:
            self._spare += size
            raise self.refused(path, f"takes {size} bytes more")
        self._taken += taken
        self._spare += taken

    def refused(self, path: bytes, said: str) -> UsageError:
        """The error for something that is too much, with what is to be said of it."""
        shown = repr(path.decode("utf-8", "backslashreplace")) if path else "it"
        budget, before = self._budget, self._budget.left + self._taken
        return UsageError(
            f"{self._what}: {shown} {said}, but of the {format_quantity(budget.most)} that this machine keeps of "
            f"a sandbox only {format_quantity(before)} were left: {budget.cure}"
        )

    def settle(self) -> None:
        """Give back what was taken in advance: nothing more comes."""
        self._budget.give(self._spare)
        self._taken -= self._spare
        self._spare = 0

    def close(self) -> None:
        """Give everything back: nothing of it is kept any longer. Idempotent."""
        self._budget.give(self._taken)
        self._taken = self._spare = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.settle()
        else:
            self.close()
