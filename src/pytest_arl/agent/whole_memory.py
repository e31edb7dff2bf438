"""Memory that a sandbox holds where the machine's is its own: all that is taken of it.

gVisor gives each pod a kernel. Of a process it tells little (neither RssAnon nor smaps_rollup), of its memory as a
whole everything: shared mappings, System V, memory files and files in memory, each once and in one moment.
"""

from __future__ import annotations

import os
import time

from pytest_arl.agent import system, tree
from pytest_arl.agent.folder_space import bytes_in
from pytest_arl.agent.shared_memory import SharedMemory

__all__ = ["WholeMemory", "is_own", "limit_of_container"]

_PROBE = 8 << 20
_INEXACT = 2 << 20
_TRIES, _LOOKS, _LOOK_SECONDS = 4, 10, 0.005
_BYTES_PER_SECOND = 8 << 30  # what a program takes if it does nothing else, about
_ROOM_TO_REMOVE = 16 << 20
_EBB_SECONDS = 0.5  # for what processes held that have ended: it is given back a little later
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks
_BUDGET, _LONGEST_FOR_BUDGET = 0.2, 0.01  # of the time; seconds, for a look takes longer where the agent has to wait
_KERNELS_OWN, _UNSEEN = 30 << 20, 96 << 20
"""Bytes of a container's memory that gVisor itself has; and that a program may take, at 1.5 GiB a second, until it is
seen and killed by an agent that has to wait for a processor, if that is no more than a quarter of it.
"""


_own: bool | None = None


def is_own() -> bool:
    """True if the machine's memory is this sandbox's: nothing is told of a process's own, and what this one takes is
    taken of the machine. It is found out once.
    """
    global _own  # noqa: PLW0603 - of the kernel, which stays
    if _own is None:
        _own = not tree.tells_last_pid() and not _tells_of_processes() and _is_taken_of_the_machine()
    return _own


def _is_taken_of_the_machine() -> bool:
    file = _open("/proc/meminfo")
    held = []  # until the end: what is given back is not free at once, and may be had again without being taken
    try:
        for _ in range(_TRIES):
            before = _taken(file)
            held.append(b"\1" * _PROBE)
            for _ in range(_LOOKS):
                if abs(_taken(file) - before - _PROBE) <= _INEXACT:
                    return True
                time.sleep(_LOOK_SECONDS)  # what was counted a few milliseconds ago is told again
        return False
    finally:
        os.close(file)


def limit_of_container() -> int | None:
    """Bytes that everything in a container may hold before its kernel has no room for itself; None where the kernel is
    the machine's.
    """
    if not is_own():
        return None
    file = _open("/proc/meminfo")
    total = _figures(file)[b"MemTotal"]
    os.close(file)
    return max(0, total - _KERNELS_OWN - min(_UNSEEN, total // 4))


class WholeMemory:
    """Memory of a machine that is held, less the agent's own."""

    def __init__(self, memory: int, uncounted: list[bytes], shm: bytes | None) -> None:
        """``memory`` is the limit in bytes; ``uncounted`` folders have limits of their own, and ``shm`` is /dev/shm.
        Nothing but the agent is here yet.
        """
        self._pool_memory = self._memory = memory
        self._uncounted = uncounted
        self._shared = SharedMemory(shm)
        # Open from here on: a step may leave the agent no descriptor.
        self._machine, self._process = _open("/proc/meminfo"), _open("/proc/self/statm")
        self._resident = self._own = 0
        self._resident = system.own_bytes(self._process)
        self._own = self._look()
        self._held = self._least = 0
        self._begun = self._spent = 0.0
        self._peak: int | None = None

    def begin(self) -> None:
        """A step starts."""
        # What a step left in shared memory must not end the one that removes it.
        left = min(self._shared.left(), self._pool_memory)
        self._memory = max(self._pool_memory, left + _ROOM_TO_REMOVE) if left else self._pool_memory
        self._peak = None
        self._begun = time.monotonic()
        self._held = self._least = self._look()

    def over(self) -> bool:
        """Look whether the sandbox holds more than it may."""
        began = time.monotonic()  # gVisor counts a thread's time in hundredths of a second
        self._held = held = self._look()
        self._least = min(self._least, held)
        if began < self._begun + _EBB_SECONDS:
            held -= self._least  # of which all may be an earlier step's
        self._peak = max(self._peak or 0, held)
        self._spent = time.monotonic() - began
        return held > self._memory

    def next_look(self) -> float:
        """Seconds until the next look is due."""
        room = (self._memory - self._held) / _BYTES_PER_SECOND
        return max(_SHORTEST, min(_LONGEST, room), min(_LONGEST_FOR_BUDGET, self._spent / _BUDGET))

    def peak(self) -> int | None:
        """The most bytes held at any look since the step began; None where there was no look."""
        return self._peak

    def _look(self) -> int:
        """Bytes held now."""
        grown = max(0, system.own_bytes(self._process) - self._resident)
        return max(0, _taken(self._machine) - bytes_in(self._uncounted) - self._own - grown)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _taken(file: int) -> int:
    """Bytes of the machine's memory that are neither free nor a copy of what files on a disk hold."""
    found = _figures(file)
    return found[b"MemTotal"] - found[b"MemFree"] - max(0, found[b"Cached"] - found[b"Shmem"])


def _figures(file: int) -> dict[bytes, int]:
    """Bytes, by their names in /proc/meminfo."""
    rows = [line.split() for line in os.pread(file, 8192, 0).splitlines()]
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows}


def _tells_of_processes() -> bool:
    file = _open("/proc/self/status")
    try:
        return b"\nRssAnon:" in os.read(file, 8192)
    finally:
        os.close(file)
