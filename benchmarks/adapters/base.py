"""What every contender can do, one way or another."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ECHO", "Adapter", "Tickets"]

ECHO = ("echo", "hi")


class Tickets:
    """So many turns, handed out to whoever asks first."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """Whether there was one more."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


class Adapter(ABC):
    """A contender: makes boxes (its word for a sandbox may differ), runs programs in them.

    Attributes:
        steady: seconds to wait before a sandbox is asked for, for those who work in the background.
        timeout_unit: the shortest timeout, in seconds, that its API takes.
    """

    steady = 0.0
    timeout_unit = 0.1

    @abstractmethod
    def version(self) -> str:
        """Its version, and what isolates."""

    @abstractmethod
    def create(self) -> Any:
        """A box that is ready for work."""

    @abstractmethod
    def close(self, box: Any) -> None:
        """Give it back."""

    @abstractmethod
    def run(self, box: Any, argv: Sequence[str]) -> int:
        """Run a program to its end, which must be a success, and give the number of bytes it printed."""

    @abstractmethod
    def run_too_long(self, box: Any, argv: Sequence[str], timeout: float) -> bool:
        """Run a program that outlives ``timeout``, and say whether the contender noticed."""

    @abstractmethod
    def write(self, box: Any, name: str, content: str) -> None:
        """Write a file into the box's working folder."""

    def run_as_one(self, box: Any, argv: Sequence[str], count: int) -> None:
        """Run a program ``count`` times in one request, where there is such a thing."""
        raise NotImplementedError

    def lives(self, workers: int, steps: int, more: Callable[[], bool]) -> int:
        """Whole lives of boxes, ``workers`` at a time, while there are ``more``. Gives how many."""

        def work() -> int:
            count = 0
            while more():
                box = self.create()
                for _ in range(steps):
                    self.run(box, ECHO)
                self.close(box)
                count += 1
            return count

        with ThreadPoolExecutor(workers) as pool:
            return sum(future.result() for future in [pool.submit(work) for _ in range(workers)])

    def stop(self) -> None:  # noqa: B027 - most have nothing to do
        """Before the worker ends: what a program would do at its end."""
