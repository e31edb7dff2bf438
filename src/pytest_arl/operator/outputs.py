"""Room for the output of Tasks that run: a namespace's share of the operator's memory, whatever their steps print.

What is not held is not lost: the agent has it, and the client asks it for what a status lacks.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_arl.operator.progress import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LEAST", "MOST_OF_A_NAMESPACE", "Outputs"]

MOST_OF_A_NAMESPACE = 16 * 1024 * 1024
"""Bytes for all Tasks of a namespace that run. Those that began before the others came may hold more, together not four
times as much with the 200 Sandboxes of the quota in docs/cluster.md.
"""

LEAST = 16 * 1024
"""Bytes for each, however many they are."""


class Outputs:
    """The Tasks that run, by namespace."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    @contextmanager
    def running(self, namespace: str) -> Iterator[None]:
        """Count a Task while the block runs."""
        self._running[namespace] += 1
        try:
            yield
        finally:
            self._running[namespace] -= 1
            if not self._running[namespace]:
                del self._running[namespace]

    def most(self, namespace: str) -> int:
        """Bytes that one Task of a namespace may hold."""
        return max(LEAST, min(MOST_BYTES, MOST_OF_A_NAMESPACE // max(1, self._running[namespace])))
