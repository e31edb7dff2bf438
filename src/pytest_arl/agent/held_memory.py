"""Memory of processes, exactly: pages that several share are counted once, and files of the workspace not at all.

The kernel gives each process its part of what it shares. It walks over all pages for that, which takes milliseconds.
"""

from __future__ import annotations

import os
import time

from pytest_arl.agent import system
from pytest_arl.agent.shared_memory import lines_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_arl.agent.shared_memory import SharedMemory
    from pytest_arl.agent.tree import Stat

__all__ = ["PAGE", "anonymous_bytes", "held"]

PAGE = os.sysconf("SC_PAGE_SIZE")
_ROLLUP_BYTES = 4096
_STATUS_BYTES = 8192
_DETAIL_SECONDS = 0.5
"""A processor's time for the mappings one by one: who has very many of them is counted with all that is shared."""


class _Device:
    """The file system of memory files and shared mappings."""

    def __init__(self) -> None:
        self._name: bytes | None = None

    @property
    def name(self) -> bytes:
        """A mapping as in /proc/PID/maps."""
        if self._name is None:
            try:
                file = os.memfd_create("device")
            except OSError:
                return b"none"  # for want of a descriptor: then what has no name counts not at all
            device = os.fstat(file).st_dev
            os.close(file)
            self._name = b"%02x:%02x" % (os.major(device), os.minor(device))
        return self._name


_device = _Device()


def held(alive: dict[int, Stat], shared: SharedMemory, late: Callable[[], bool]) -> Generator[None, None, int]:
    """Bytes of anonymous and shared memory that these processes hold, and what nobody maps."""
    anonymous = mapped = 0
    rollups: dict[int, bytes] = {}
    for pid, each in alive.items():
        if late():
            yield
        same = system.same_memory(pid, each.parent) if each.parent in alive else False
        if same:
            continue  # between vfork and exec a child has its parent's memory, not as much again
        try:
            rollup = _read(b"/proc/%d/smaps_rollup" % pid, _ROLLUP_BYTES)
        except PermissionError:
            anonymous += _status(pid, b"RssAnon:", b"RssShmem:")  # who lets nobody look pays for all it has
            continue
        if not rollup or (same is None and _looks_like(rollup, rollups.get(each.parent))):
            continue
        rollups[pid] = rollup
        anonymous += _sum_of(rollup, b"Pss_Anon:", b"SwapPss:")
        mapped += _sum_of(rollup, b"Pss_Shmem:")
    yield from shared.walk_segments(late)
    yield from shared.walk_files(alive, late)
    total = anonymous + shared.total()
    if mapped:
        total += yield from _unnamed(list(rollups), mapped, shared, late)
    return total


def _looks_like(rollup: bytes, other: bytes | None) -> bool:
    """True if two are as of one memory. Their shares of what others have too change with each process that ends."""
    if other is None:
        return False
    ours, theirs = ([line for line in text.splitlines() if not line.startswith(b"Pss")] for text in (rollup, other))
    return ours == theirs


def anonymous_bytes(pid: int) -> tuple[int, int]:
    """Bytes of anonymous and of shared memory that a process has in its pages, whoever else has them."""
    return _status(pid, b"RssAnon:"), _status(pid, b"RssShmem:")


class _TooMuch(Exception):
    """There is more to look through than it is worth."""


def _unnamed(
    pids: list[int], mapped: int, shared: SharedMemory, late: Callable[[], bool]
) -> Generator[None, None, int]:
    """Bytes mapped from shared memory that has neither a descriptor nor a segment; ``mapped`` where it is too much
    to look through.
    """
    end = time.thread_time() + _DETAIL_SECONDS

    def too_late() -> bool:
        if time.thread_time() > end:
            raise _TooMuch
        return late()

    total = 0
    try:
        for pid in pids:
            if (yield from _maps_unnamed(pid, shared, too_late)):
                total += yield from _unnamed_of(pid, shared, too_late)
    except _TooMuch:
        return mapped
    return max(0, total)


def _maps_unnamed(pid: int, shared: SharedMemory, late: Callable[[], bool]) -> Generator[None, None, bool]:
    """True if a process maps such memory; names alone, without a walk over pages."""
    for line in lines_of(b"/proc/%d/maps" % pid, late):
        if line is None:
            yield
        elif _is_unnamed(line, shared):
            return True
    return False


def _unnamed_of(pid: int, shared: SharedMemory, late: Callable[[], bool]) -> Generator[None, None, int]:
    """A process's part of such memory."""
    total = 0
    counts = False
    for line in lines_of(b"/proc/%d/smaps" % pid, late):
        if line is None:
            yield
        elif line[:1].islower() or line[:1].isdigit():  # an address: all else is a name with a capital
            counts = _is_unnamed(line, shared)
        elif counts and line.startswith(b"Pss:"):
            total += int(line.split()[1]) * 1024
        elif counts and line.startswith(b"Anonymous:"):
            total -= int(line.split()[1]) * 1024  # copies of its own
    return total


def _is_unnamed(mapping: bytes, shared: SharedMemory) -> bool:
    if _device.name not in mapping:
        return False
    fields = mapping.split(None, 5)
    if fields[3] != _device.name:
        return False
    inode = int(fields[4])
    return inode not in shared.files and inode not in shared.segments


def _status(pid: int, *keys: bytes) -> int:
    return _sum_of(_read(b"/proc/%d/status" % pid, _STATUS_BYTES), *keys)


def _sum_of(text: bytes, *keys: bytes) -> int:
    """Bytes that these lines count in kB."""
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(keys))


def _read(path: bytes, size: int) -> bytes:
    """A small file of /proc; nothing where the process is gone. PermissionError where it lets nobody look."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, size)
        finally:
            os.close(file)
    except PermissionError:
        raise
    except OSError:
        return b""
