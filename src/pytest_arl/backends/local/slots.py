"""How many sandboxes may be open at once in this process: ``--arl-max-sandboxes``."""

from __future__ import annotations

import threading
import time
from collections import deque

from pytest_arl.errors import SandboxTimeout

__all__ = ["Slots"]


class Slots:
    """Counts the open sandboxes and lets callers in, in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._queue: deque[object] = deque()

    def take(self, most: int | None, deadline: float) -> None:
        """Count one more, as soon as fewer than ``most`` are open (None: at once). SandboxTimeout at ``deadline``."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or (most is not None and self._open >= most):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise SandboxTimeout(
                            f"no sandbox became free in time: {self._open} are open in this process, "
                            f"and --arl-max-sandboxes is {most}; close one, or allow more"
                        )
                    self._changed.wait(left)
                self._open += 1
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def free(self) -> None:
        """One is closed."""
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def room(self, most: int | None, beside: int) -> bool:
        """Whether another could be open beside those that are, and as many that stand ready."""
        with self._changed:
            return most is None or self._open + beside < most
