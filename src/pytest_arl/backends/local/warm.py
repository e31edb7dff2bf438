"""Sandboxes kept ready: ``warm`` in a pool's table."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pytest_arl.errors import ArlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.backends.local.plan import Plan

__all__ = ["Ready", "WarmPools"]

_logger = logging.getLogger("pytest_arl")
_CLOSE_SECONDS = 10.0
_MOST_THREADS = 4


class Ready(Protocol):
    """A sandbox that nobody has yet."""

    def alive(self) -> bool:
        """True if it can be handed out."""

    def close(self) -> None:
        """End it."""


ReadyT = TypeVar("ReadyT", bound=Ready)


class WarmPools(Generic[ReadyT]):
    """Fills pools in threads of its own, which start nothing while somebody makes a sandbox for himself.

    Whoever finds a shelf empty while one is being made for it waits for that one: it is begun already.
    """

    def __init__(self, make: Callable[[Plan], ReadyT], room: Callable[[int], bool]) -> None:
        """``make`` makes a sandbox; ``room(n)`` tells whether one more may be there beside ``n`` that nobody has."""
        self._make = make
        self._room = room
        self._changed = threading.Condition()
        self._plans: dict[str, Plan] = {}
        self._ready: dict[str, deque[ReadyT]] = {}
        self._coming: Counter[int] = Counter()
        """The number that are being made, and below the number of those who wait, by the identity of the plan."""
        self._waiting: Counter[int] = Counter()
        self._busy = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Make none for the shelf while the caller makes a sandbox that is waited for."""
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def take(self, plan: Plan, deadline: float) -> ReadyT | None:
        """One that is ready, or soon will be; or None. From now on the pool is kept filled."""
        if not plan.pool.warm:
            return None
        stale: list[ReadyT] = []
        with self._changed:
            if self._plans.get(plan.pool.name) is not plan:
                stale += self._ready.pop(plan.pool.name, ())
                self._plans[plan.pool.name] = plan
            self._ready.setdefault(plan.pool.name, deque())
            found = self._pop(plan, stale)
            self._start()
            self._changed.notify_all()
            if found is None and self._coming[id(plan)] > self._waiting[id(plan)]:
                found = self._await(plan, stale, deadline)
        for one in stale:
            one.close()
        return found

    def _pop(self, plan: Plan, stale: list[ReadyT]) -> ReadyT | None:
        if self._plans.get(plan.pool.name) is not plan:
            return None
        ready = self._ready[plan.pool.name]
        while ready:
            one = ready.popleft()
            if one.alive():
                return one
            stale.append(one)
        return None

    def _await(self, plan: Plan, stale: list[ReadyT], deadline: float) -> ReadyT | None:
        """Wait for one that is being made, while there are as many of those as there are who wait."""
        self._waiting[id(plan)] += 1
        self._changed.notify_all()  # what we take leaves room for another
        try:
            while self._coming[id(plan)] >= self._waiting[id(plan)] and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
                found = self._pop(plan, stale)
                if found is not None:
                    return found
            return None
        finally:
            self._waiting[id(plan)] -= 1

    def count(self) -> int:
        """The number that are ready, of all pools."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(len(ready) for ready in self._ready.values())

    def give_up_one(self) -> None:
        """Make room for a sandbox of another pool."""
        with self._changed:
            shelves = [ready for ready in self._ready.values() if ready]
            one = shelves[0].pop() if shelves else None
        if one is not None:
            one.close()

    def _start(self) -> None:
        """Start as many threads as can work at once: more would only slow each other down."""
        wanted = min(sum(plan.pool.warm for plan in self._plans.values()), len(os.sched_getaffinity(0)), _MOST_THREADS)
        while len(self._threads) < wanted and not self._closed:
            thread = threading.Thread(target=self._fill, name="arl-warm", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _next(self) -> Plan | None:
        for name, plan in self._plans.items():
            promised = self._coming[id(plan)] - self._waiting[id(plan)]
            if len(self._ready[name]) + promised < plan.pool.warm and self._room(self._count() + self._coming.total()):
                return plan
        return None

    def _fill(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (self._busy or self._next() is None):
                    self._changed.wait()
                plan = None if self._closed else self._next()
                if plan is None:
                    return
                self._coming[id(plan)] += 1
            self._fill_one(plan)

    def _fill_one(self, plan: Plan) -> None:
        name = plan.pool.name
        made: list[ReadyT] = []
        try:
            made.append(self._make(plan))
        except (ArlError, OSError) as error:
            _logger.warning("pool %s is not kept warm: %s", name, error)
        with self._changed:
            self._coming -= Counter([id(plan)])  # and forget those that are none
            if not made and self._plans.get(name) is plan:
                del self._plans[name]  # until it is asked for again
            if not self._closed and self._plans.get(name) is plan:
                self._ready[name] += made
                made = []
            self._changed.notify_all()
        for one in made:
            one.close()

    def ready(self) -> list[ReadyT]:
        """The ready ones of all pools; for a forked child, which takes no lock."""
        return [one for shelf in self._ready.values() for one in shelf]

    def close(self) -> None:
        """End those that are ready, and the threads. Idempotent."""
        with self._changed:
            self._closed = True
            ready = self.ready()
            self._ready.clear()
            self._plans.clear()
            self._changed.notify_all()
        for one in ready:
            one.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSE_SECONDS)
