"""(In the janitor) One sandbox's cgroup: what it uses, and the kernel's own limit, which follows the files.

The limit is there for a watcher that is held up. In version 2 it is a brake (memory.high): whoever takes more waits a
little for each page, and nothing fails. In version 1 it kills, so it keeps a distance.
"""

from __future__ import annotations

import os

__all__ = ["MI", "SLACK", "CgroupFiles", "Version1", "Version2"]

MI = 1 << 20
SLACK = 8 * MI
_DISTANCE = 256 * MI
_RAISE_BY, _LOWER_BY = MI, 16 * MI  # a limit that is off by as much is written anew
_EBUSY = 16


class CgroupFiles:
    """Parts that both versions have in common.

    Attributes:
        events: a descriptor that polls ready (POLLPRI) when the brake was felt, or -1.
    """

    names: tuple[tuple[bytes, int], ...]
    held: tuple[bytes, ...]
    """The lines of the statistics that are anonymous and shared memory,"""
    pages: tuple[bytes, ...]
    """and those that, taken off the usage, leave what the kernel needs for itself."""

    def __init__(self, folder: bytes, memory: int, wall: int) -> None:
        """``memory`` may be held by processes, ``wall`` by all together. Raises OSError."""
        self._memory, self._wall = memory, wall
        self._files: list[int] = []
        try:
            for name, flags in self.names:
                self._files.append(os.open(folder + b"/" + name, flags | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise
        self._usage, self._stat, self._limit = self._files[:3]
        self._processes = folder + b"/cgroup.procs"
        self.events = -1
        self._bound = -1

    def usage(self) -> int:
        """Bytes of everything."""
        return int(os.pread(self._usage, 64, 0))

    def figures(self) -> tuple[int, int]:
        """Bytes of anonymous and shared memory, files in memory among them; and of the kernel."""
        text = os.pread(self._stat, 8192, 0)
        usage = self.usage()
        found = dict(line.split(b" ", 1) for line in text.splitlines())
        held = sum(int(found.get(name, 0)) for name in self.held)
        return held, max(0, usage - sum(int(found.get(name, 0)) for name in self.pages))

    def processes(self) -> set[int]:
        """The pids inside. Opened anew each time: version 1 gives an old list to whoever reads the same file again."""
        found = b""
        descriptor = os.open(self._processes, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(descriptor, 65536):
                found += piece
        finally:
            os.close(descriptor)
        return {int(pid) for pid in found.split()}

    def follow(self, beside: int, room: int) -> None:
        """Put the limit where ``memory`` and so many bytes of files and of the kernel ``beside`` it fit. ``room`` is
        what the files may still grow by.
        """
        raise NotImplementedError

    def relax(self) -> None:
        """Take the limit off: all may be there together."""
        raise NotImplementedError

    def left(self, usage: int) -> int:
        """Bytes until the kernel kills."""
        raise NotImplementedError

    def heard(self) -> None:
        """Read the events: only then a poll waits again."""

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []


class Version1(CgroupFiles):
    """As root."""

    names = (
        (b"memory.usage_in_bytes", os.O_RDONLY),
        (b"memory.stat", os.O_RDONLY),
        (b"memory.limit_in_bytes", os.O_WRONLY),
    )
    held = (b"total_rss", b"total_shmem", b"total_swap")
    pages = (b"total_rss", b"total_cache")

    def follow(self, beside: int, room: int) -> None:
        """The distance is what files may grow by while nobody looks. Where they cannot grow by more, nothing is killed
        that should not be.
        """
        distance = min(room + SLACK, max(_DISTANCE, self._memory // 4))
        wanted = min(self._wall, self._memory + beside + distance)
        if self._bound < 0 or not self._bound - _LOWER_BY < wanted < self._bound + _RAISE_BY:
            self._set(wanted)

    def relax(self) -> None:
        """As above."""
        if self._bound >= 0:
            self._set(self._wall)
            self._bound = -1

    def left(self, usage: int) -> int:
        """As above."""
        return (self._wall if self._bound < 0 else self._bound) - usage

    def _set(self, wanted: int) -> None:
        try:
            os.write(self._limit, b"%d" % wanted)
        except OSError as error:
            if error.errno != _EBUSY:  # more is used than that: it stays where it was
                raise
        else:
            self._bound = wanted


class Version2(CgroupFiles):
    """A cgroup in a part of the tree that is this user's."""

    names = (
        (b"memory.current", os.O_RDONLY),
        (b"memory.stat", os.O_RDONLY),
        (b"memory.high", os.O_WRONLY | os.O_NONBLOCK),
        (b"memory.events", os.O_RDONLY),
    )
    held = (b"anon", b"shmem")
    pages = (b"anon", b"file")

    def __init__(self, folder: bytes, memory: int, wall: int) -> None:
        super().__init__(folder, memory, wall)
        self.events = self._files[3]
        self.heard()

    def follow(self, beside: int, room: int) -> None:
        """A short way on, for nothing fails at a brake."""
        del room
        wanted = self._memory + beside + SLACK
        if self._bound < 0 or not self._bound - _LOWER_BY < wanted < self._bound + _RAISE_BY:
            os.write(self._limit, b"%d" % wanted)
            self._bound = wanted

    def relax(self) -> None:
        """As above."""
        if self._bound >= 0:
            os.write(self._limit, b"max")
            self._bound = -1

    def left(self, usage: int) -> int:
        """As above."""
        return self._wall - usage

    def heard(self) -> None:
        """As above."""
        os.pread(self.events, 512, 0)
