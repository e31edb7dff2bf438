"""Sandboxes kept ready: ``warm`` in a pool's table."""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pytest_arl.errors import ArlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.backends.local.plan import Plan

__all__ = ["Ready", "WarmPools"]

_logger = logging.getLogger("pytest_arl")
_CLOSE_SECONDS = 10.0


class Ready(Protocol):
    """A sandbox that nobody has yet."""

    def alive(self) -> bool:
        """Whether it can be handed out."""

    def close(self) -> None:
        """End it."""


ReadyT = TypeVar("ReadyT", bound=Ready)


class WarmPools(Generic[ReadyT]):
    """Fills pools in a thread of its own, which starts nothing while anybody waits for a sandbox."""

    def __init__(self, make: Callable[[Plan], ReadyT], room: Callable[[int], bool]) -> None:
        """``make`` makes a sandbox; ``room(n)`` tells whether one more may be there beside ``n`` that are ready."""
        self._make = make
        self._room = room
        self._changed = threading.Condition()
        self._plans: dict[str, Plan] = {}
        self._ready: dict[str, deque[ReadyT]] = {}
        self._busy = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the caller makes a sandbox that somebody waits for, none is made for the shelf."""
        with self._changed:
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def take(self, plan: Plan) -> ReadyT | None:
        """One that is ready, or None. From now on the pool is kept filled, as far as it asks for that."""
        if not plan.pool.warm:
            return None
        stale: list[ReadyT] = []
        found = None
        with self._changed:
            if self._plans.get(plan.pool.name) is not plan:
                stale += self._ready.pop(plan.pool.name, ())
                self._plans[plan.pool.name] = plan
            ready = self._ready.setdefault(plan.pool.name, deque())
            while ready and found is None:
                one = ready.popleft()
                if one.alive():
                    found = one
                else:
                    stale.append(one)
            self._start()
            self._changed.notify_all()
        for one in stale:
            one.close()
        return found

    def count(self) -> int:
        """How many are ready, of all pools."""
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
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._fill, name="arl-warm", daemon=True)
            self._thread.start()

    def _next(self) -> Plan | None:
        for name, plan in self._plans.items():
            if len(self._ready[name]) < plan.pool.warm and self._room(self._count()):
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
            self._fill_one(plan)

    def _fill_one(self, plan: Plan) -> None:
        name = plan.pool.name
        try:
            one = self._make(plan)
        except (ArlError, OSError) as error:
            _logger.warning("pool %s is not kept warm: %s", name, error)
            with self._changed:
                self._plans.pop(name, None)  # until it is asked for again
            return
        with self._changed:
            wanted = not self._closed and self._plans.get(name) is plan
            if wanted:
                self._ready[name].append(one)
        if not wanted:
            one.close()

    def ready(self) -> list[ReadyT]:
        """Those that are ready, of all pools; for a forked child, which takes no lock."""
        return [one for shelf in self._ready.values() for one in shelf]

    def close(self) -> None:
        """End those that are ready, and the thread. Idempotent."""
        with self._changed:
            self._closed = True
            ready = self.ready()
            self._ready.clear()
            self._plans.clear()
            thread = self._thread
            self._changed.notify_all()
        for one in ready:
            one.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)
