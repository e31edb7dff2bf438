"""Memory that a name or a descriptor holds, whether a process maps it or not: /dev/shm, System V, memory files.

Descriptors can be many, and so can System V's segments. Both are read as far as one look's time allows, and the next
look goes on from there.
"""

from __future__ import annotations

import os

from pytest_arl.agent import ipc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

__all__ = ["Machine", "SharedMemory", "lines_of"]

_INODE = 1024  # bytes that the kernel takes for a file without content, about
_PIECE = 65536
_BLOCK = 512  # bytes, of st_blocks


class Machine:
    """Memory of this machine, in bytes.

    Attributes:
        total: all.
        available: what can still be had.
        shared: in all file systems in memory, shared mappings and segments there are.
    """

    def __init__(self) -> None:
        self._file = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        self.total = self.available = self.shared = 0
        self.look()

    def look(self) -> None:
        """Read the figures anew."""
        found = {}
        for line in os.pread(self._file, 4096, 0).splitlines():
            name, _, value = line.partition(b":")
            found[name] = value
            if name == b"Shmem":
                break
        self.total, self.available, self.shared = (
            int(found.get(name, b"0 kB").split()[0]) * 1024 for name in (b"MemTotal", b"MemAvailable", b"Shmem")
        )


class SharedMemory:
    """The bytes that the sandbox holds so.

    Attributes:
        segments: identifiers of System V segments, which are their inodes too.
        files: bytes in each memory file (memfd_create) that a process has open, by inode.
    """

    def __init__(self, folder: bytes | None) -> None:
        """``folder`` is the sandbox's /dev/shm."""
        self._folder = folder
        self._table = _open(b"/proc/sysvipc/shm")
        self._segment_bytes = 0
        self.segments: set[int] = set()
        self.files: dict[int, int] = {}

    @property
    def unpaged(self) -> int:
        """Bytes in messages and semaphores, which the kernel holds."""
        return ipc.kernel_bytes()

    def total(self) -> int:
        """All bytes, as far as the last walks know them."""
        return self.left() + self.unpaged + sum(self.files.values())

    def left(self) -> int:
        """Bytes that stay where no process lives: in /dev/shm, and in segments as far as the last walk knows them."""
        named = 0
        if self._folder is not None:
            try:
                state = os.statvfs(self._folder)
                named = (state.f_blocks - state.f_bfree) * state.f_frsize + (state.f_files - state.f_ffree) * _INODE
            except OSError:
                pass
        return named + self._segment_bytes

    def walk_segments(self, late: Callable[[], bool]) -> Generator[None, None, None]:
        """Read the table of System V's segments; they outlive their processes."""
        segments, segment_bytes = set(), 0
        for line in _lines(self._table, late):
            if line is None:
                yield
                continue
            row = line.split()
            if row and row[1].isdigit():  # else it is the heading
                segments.add(int(row[1]))
                segment_bytes += int(row[-2]) + int(row[-1])  # resident, and swapped out
        self.segments, self._segment_bytes = segments, segment_bytes

    def walk_files(self, pids: Iterable[int], late: Callable[[], bool]) -> Generator[None, None, None]:
        """Look for memory files among the descriptors of these processes."""
        found: dict[int, int] = {}
        for pid in pids:
            folder = "/proc/%d/fd" % pid  # noqa: UP031 - half the time
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        _add(found, folder + "/" + entry.name)
                        if late():
                            self.files |= found  # what is known by now counts
                            yield
            except OSError:
                continue  # it is gone, or lets nobody look
        self.files = found


def _add(found: dict[int, int], link: str) -> None:
    try:
        # Not stat at once: what a descriptor leads to may be on a file system that does not answer.
        if os.readlink(link).startswith("/memfd:"):
            state = os.stat(link)
            found[state.st_ino] = state.st_blocks * _BLOCK
    except OSError:
        pass  # it was closed


def lines_of(path: bytes, late: Callable[[], bool]) -> Generator[bytes | None, None, None]:
    """The lines of a file of /proc, and None where it is late."""
    file = _open(path)
    try:
        yield from _lines(file, late)
    finally:
        if file >= 0:
            os.close(file)


def _open(path: bytes) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _lines(file: int, late: Callable[[], bool]) -> Generator[bytes | None, None, None]:
    if file < 0:
        return
    rest = b""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        while piece := os.read(file, _PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if late():
                yield None
    except OSError:
        pass  # the process is gone
