"""Memory that a sandbox holds where no cgroup counts it: found by looking at its processes.

A look is cheap as long as all that is resident fits. Where it does not, because pages that several share are counted
for each, the exact figure is asked for. The fuller the sandbox the sooner the next look, within a budget of
processor time. A look that takes long is done in slices, so that the agent hears its peer and its timers meanwhile.
"""

from __future__ import annotations

import time

from pytest_arl.agent import tree
from pytest_arl.agent.held_memory import PAGE, anonymous_bytes, held
from pytest_arl.agent.shared_memory import Machine, SharedMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_arl.agent.tree import Stat

__all__ = ["MemorySampler"]

_BYTES_PER_SECOND = 8 << 30  # what a program takes if it does nothing else, about
_SLACK = 4 << 20
_ROOM_TO_REMOVE = 16 << 20
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks
_BUDGET, _FAR_BUDGET = 0.2, 0.05  # of a processor: near the limit, and with more than half of it left
_SLICE_SECONDS = 0.01  # a processor's time
_EXACT_SECONDS = 0.25  # an exact figure this old is a base to reckon from
_STOP_SECONDS = 0.5
_ESTIMATE_SECONDS = 0.2  # between two exact figures that only the peak is for
_GROWTH = 1 << 20  # bytes by which shared memory grows before it is looked for
_NEAR = 0.9  # of the limit: a guess above it is worth a stop
_HIGHER = 256 << 10  # bytes: a bound by so much above the last makes a new peak likely
_SCARCE = 0.1  # of the machine's memory


class MemorySampler:
    """Memory that the processes of a sandbox hold, as far as looks at them can tell."""

    def __init__(self, memory: int, shm: bytes | None) -> None:
        """``memory`` is the limit in bytes, ``shm`` the sandbox's own /dev/shm."""
        self._pool_memory = self._memory = memory
        self._machine = Machine()
        self._shared = SharedMemory(shm)
        self._shared_when_walked = self._machine.shared
        self._available = self._machine.available
        self._bound = 0
        self._base: tuple[float, int, int, dict[int, Stat]] | None = None
        self._stopped_at = -1.0
        self._stopped = False
        self._asleep: set[int] = set()
        self._look: Generator[None, None, bool] | None = None
        self._slice_end = 0.0
        self._spent = 0.0
        self._unfinished = False
        self._peak: int | None = None
        self._bound_of_peak = 0
        self._estimated_at = -_ESTIMATE_SECONDS

    def begin(self) -> None:
        """A step starts."""
        self._go_on()
        self._look = None
        # What a step left in shared memory must not end the one that removes it.
        left = min(self._shared.left(), self._pool_memory)
        self._memory = max(self._pool_memory, left + _ROOM_TO_REMOVE) if left else self._pool_memory
        self._unfinished = False
        self._spent = 0.0
        self._machine.look()
        self._available = self._machine.available
        self._peak = None
        self._bound_of_peak = 0

    def over(self) -> bool:
        """Look, or go on with a look: whether the sandbox holds more than it may."""
        begin = time.thread_time()
        if self._look is None:
            self._look = self._looking()
            self._spent = 0.0
        self._slice_end = begin + _SLICE_SECONDS
        if self._stopped and time.monotonic() > self._stopped_at + _STOP_SECONDS:
            self._go_on()
        over = False
        try:
            next(self._look)
            self._unfinished = True
        except StopIteration as end:
            over = end.value
            self._look = None
            self._unfinished = False
        self._spent += time.thread_time() - begin
        return over

    def next_look(self) -> float:
        """Seconds until the next look is due."""
        if self._stopped:
            return 0.0
        if self._unfinished:
            return _SLICE_SECONDS / _BUDGET
        room = self._memory - self._bound
        pause = min(_LONGEST, (room + _SLACK) / _BYTES_PER_SECOND)
        if room > self._memory / 2:
            pause = max(pause, min(_LONGEST, self._spent / _FAR_BUDGET))
        return max(_SHORTEST, pause, self._spent / _BUDGET)

    def peak(self) -> int | None:
        """The most bytes held at any look since the step began; None where there was no look."""
        return self._peak

    def _late(self) -> bool:
        """True if this slice is used up."""
        return time.thread_time() > self._slice_end

    def _looking(self) -> Generator[None, None, bool]:
        """One look; it yields where it is late."""
        began = time.monotonic()
        alive = yield from self._alive()
        yield from self._shared.walk_segments(self._late)
        resident = sum(each.pages for each in alive.values()) * PAGE
        self._machine.look()
        bound = resident + self._machine.shared + self._shared.unpaged
        if bound > self._memory or self._machine.shared > self._shared_when_walked + _GROWTH:
            self._shared_when_walked = self._machine.shared
            yield from self._shared.walk_files(alive, self._late)
            bound = resident + self._shared.total()
        self._bound = bound = self._reckoned(began, bound, alive)
        if bound > self._memory:
            self._bound = yield from self._exact(began, alive)
            self._note(self._bound)
            if self._bound > self._memory:
                return True
            self._go_on()
        elif self._peak is None or bound > self._bound_of_peak + _HIGHER:
            self._bound_of_peak = bound
            self._note((yield from self._estimate(alive)))
        return self._drains_the_machine()

    def _alive(self) -> Generator[None, None, dict[int, Stat]]:
        alive = {}
        for pid in tree.numbers():
            each = tree.stat(pid)
            if each is not None and each.alive:
                alive[pid] = each
            if self._late():
                yield
        return alive

    def _reckoned(self, now: float, bound: int, alive: dict[int, Stat]) -> int:
        """The bound, or a lower one: what was held not long ago, and what can have come since.

        New pages are resident (huge ones by one fault), copies of shared ones are faults and do not show in what is
        resident. A new process starts with its parent's pages.
        """
        if bound <= self._memory or self._base is None or now > self._base[0] + _EXACT_SECONDS:
            return bound
        _, exact, shared, before = self._base
        pages = 0
        for pid, each in alive.items():
            last = before.get(pid)
            if last is not None:
                pages += max(each.pages - last.pages, each.faults - last.faults, 0)
            else:
                parent = alive.get(each.parent)
                pages += min(each.pages, max(each.pages - parent.pages if parent else each.pages, each.faults))
        return min(bound, exact + max(0, self._shared.total() - shared) + pages * PAGE)

    def _estimate(self, alive: dict[int, Stat]) -> Generator[None, None, int]:
        """The held memory, where that is well below the limit: near enough, and cheap as a rule."""
        anonymous, mapped = {}, 0
        for pid in alive:
            anonymous[pid], in_files = anonymous_bytes(pid)
            mapped += in_files
            if self._late():
                yield
        shared = self._shared.total()
        now = time.monotonic()
        if mapped > shared + _GROWTH and now > self._estimated_at + _ESTIMATE_SECONDS:
            self._estimated_at = now
            return (yield from held(alive, self._shared, self._late))
        total = shared
        for pid, each in alive.items():
            own, parents = anonymous[pid], anonymous.get(each.parent)
            total += own if parents is None else max(own - parents, min(each.faults * PAGE, own))
        return total

    def _guess(self, alive: dict[int, Stat]) -> int:
        """A fair guess: what each has beyond its parent, or has copied since its fork."""
        pages = 0
        for each in alive.values():
            parent = alive.get(each.parent)
            pages += each.pages if parent is None else max(each.pages - parent.pages, min(each.faults, each.pages))
        return self._shared.total() + pages * PAGE

    def _exact(self, now: float, alive: dict[int, Stat]) -> Generator[None, None, int]:
        """Bytes held now. Everything is stopped meanwhile where it seems to be too much: then nothing grows, and
        before anything is ended for it, since pages that move while they are counted may be counted twice.
        """
        figure = self._memory + 1
        quiet = self._stopped_at < 0 or now > self._stopped_at + _EXACT_SECONDS
        if not quiet or self._guess(alive) <= self._memory * _NEAR:
            figure = yield from held(alive, self._shared, self._late)
        if figure > self._memory:
            self._stop(alive)
            alive = yield from self._alive()
            figure = yield from held(alive, self._shared, self._late)
        self._base = now, figure, self._shared.total(), alive
        return figure

    def _stop(self, alive: dict[int, Stat]) -> None:
        self._asleep = {pid for pid, each in alive.items() if each.state in b"T" and tree.is_stopped(pid)}
        self._stopped, self._stopped_at = True, time.monotonic()
        tree.stop_all()

    def _go_on(self) -> None:
        """Let all go on but those that the program itself has stopped."""
        if self._stopped:
            tree.go_on_without(self._asleep)
            self._stopped = False

    def _note(self, figure: int) -> None:
        self._peak = max(self._peak or 0, figure)

    def _drains_the_machine(self) -> bool:
        """True if memory ran short out there while the step ran, by more than the sandbox may have. What it holds in
        sockets, pipes and shared memory that no process shows is seen nowhere else.
        """
        available = self._machine.available
        return 0 < available < self._machine.total * _SCARCE and self._available - available > self._memory
