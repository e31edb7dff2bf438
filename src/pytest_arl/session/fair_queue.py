"""A queue that lets its callers in in the order of asking, and bounds how many are inside.

threading.Lock wakes any of those that wait; a sandbox promises its callers their order. A Place makes leaving
idempotent, so that one ``leave`` in a ``finally`` is enough after an interrupt at any point while waiting or inside.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Abandoned", "Cancellation", "FairQueue", "Place"]

__tracebackhide__ = True


class Abandoned(BaseException):
    """The caller stopped waiting for its turn (an await was cancelled); only the waiting thread sees it."""


class Cancellation:
    """A request of a cancelled await to the thread that works for it.

    Attributes:
        requested: whether the await was cancelled.
        hook: ends what the thread does at the moment; called again until the thread is done, so that no instant
            between two hooks is missed.
    """

    __slots__ = ("hook", "requested")

    def __init__(self) -> None:
        self.requested = False
        self.hook: Callable[[], object] | None = None

    def watch(self, hook: Callable[[], object]) -> None:
        """Let ``hook`` end what comes next; raises Abandoned where that need not begin."""
        self.hook = hook
        if self.requested:
            raise Abandoned

    def cancel(self) -> None:
        """Ask the thread to end. Any thread, any number of times."""
        self.requested = True
        hook = self.hook
        if hook is not None:
            hook()


class Place:
    """One caller's place. Made before the ``try`` that enters with it, so that no interrupt can lose it."""

    __slots__ = ("abandoned", "gate", "thread")

    def __init__(self) -> None:
        self.abandoned = False
        self.thread = threading.get_ident()
        self.gate: threading.Lock | None = None


class FairQueue:
    """At most ``limit`` callers inside, in the order in which they asked; None is no limit."""

    def __init__(self, limit: int | None = 1) -> None:
        # Reentrant: a garbage collection inside may close a session, whose place is given back right here.
        self._mutex = threading.RLock()
        self._limit = limit
        self._for_one = limit == 1
        self._inside: set[Place] = set()
        self._waiting: deque[Place] = deque()

    def set_limit(self, limit: int | None) -> None:
        """Change how many may be inside; those that are stay."""
        with self._mutex:
            self._limit = limit
            self._let_in()

    def enter(self, place: Place, *, timeout: float = -1, cancellation: Cancellation | None = None) -> bool:
        """Wait for the turn of this place; False when ``timeout`` seconds pass first (-1 waits as long as it takes).

        Whatever happens, the caller leaves with the place afterwards.
        """
        with self._mutex:
            if self._for_one and any(other.thread == place.thread for other in self._inside):
                raise UsageError(
                    "deadlock: this thread is already running a task in this sandbox (called from on_output?)"
                )
            self._waiting.append(place)
            gate = place.gate = threading.Lock()
            gate.acquire()
            self._let_in()
        if cancellation is not None:
            cancellation.watch(lambda: self._abandon(place))
        entered = gate.acquire(timeout=timeout)
        if place.abandoned:
            raise Abandoned
        return entered

    def leave(self, place: Place) -> None:
        """Give the place, or the place in the queue, to the next. Idempotent."""
        with self._mutex:
            self._inside.discard(place)
            if place in self._waiting:
                self._waiting.remove(place)
            self._let_in()

    def _abandon(self, place: Place) -> None:
        with self._mutex:
            if place in self._waiting and place.gate is not None:
                place.abandoned = True
                self._waiting.remove(place)
                place.gate.release()

    def _let_in(self) -> None:
        while self._waiting and (self._limit is None or len(self._inside) < self._limit):
            place = self._waiting[0]
            self._inside.add(place)
            self._waiting.popleft()
            if place.gate is not None:
                place.gate.release()
