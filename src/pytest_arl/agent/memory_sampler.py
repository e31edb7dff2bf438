"""Memory that a sandbox holds where no cgroup counts it: found by looking at its processes."""

from __future__ import annotations

import os

from pytest_arl.agent import tree

__all__ = ["MemorySampler"]

_LOOK_SECONDS = 0.05
_INODE = 1024  # bytes that the kernel takes for a file without content, about
_SEMAPHORE = 64  # bytes: a line of the processor's cache
_SCARCE = 0.1  # of the machine's memory


class MemorySampler:
    """What the processes of a sandbox hold, as far as looks at them can tell."""

    def __init__(self, memory: int, folders: list[bytes]) -> None:
        """``memory`` is the limit in bytes; ``folders`` are the sandbox's own file systems."""
        self._memory = memory
        self._folders = folders
        self._scarce = int(_sum_of(b"/proc/meminfo", b"MemTotal:") * _SCARCE)
        self._available = _available()
        self._peak: int | None = None

    def begin(self) -> None:
        """A step starts."""
        self._available = _available()
        self._peak = None

    def over(self) -> bool:
        """Look once: whether the sandbox holds more than it may."""
        used = self._used(tree.processes())
        self._peak = max(used, self._peak or 0)
        return used > self._memory or self._drains_the_machine()

    def next_look(self) -> float:
        """Seconds until the next look is due."""
        return _LOOK_SECONDS

    def peak(self) -> int | None:
        """The most bytes held at any look since the step began; None where there was no look."""
        return self._peak

    def _drains_the_machine(self) -> bool:
        """Whether memory ran short out there while the step ran, by more than the sandbox may have. What it holds in
        sockets, pipes and memory files that no process shows is seen nowhere else.
        """
        available = _available()
        return 0 < available < self._scarce and self._available - available > self._memory

    def _used(self, alive: tree.Processes) -> int:
        """Bytes of memory that the sandbox holds now, files in its tmpfs folders included."""
        files = _kept_in_files(self._folders) + _system_v_bytes() + _unmapped_bytes(alive)
        total = files + sum(_sum_of(b"/proc/%d/status" % pid, b"RssAnon:", b"RssShmem:") for pid in alive)
        if total > self._memory:
            # Pages that processes share, with each other or with files, were counted more than once: ask for the
            # exact, slow figures.
            private = shared = 0
            for pid in alive:
                anonymous, in_files = _proportional(pid)
                private += anonymous
                shared += in_files
            total = private + max(files, shared)
        return total


def _kept_in_files(folders: list[bytes]) -> int:
    total = 0
    seen = set()
    for path in folders:
        try:
            device, state = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue  # a step has removed it
        if device not in seen:
            seen.add(device)
            total += (state.f_blocks - state.f_bfree) * state.f_frsize + (state.f_files - state.f_ffree) * _INODE
    return total


def _system_v_bytes() -> int:
    """Bytes in segments, queues and semaphores, which outlive their processes."""
    total = 0
    for table, column, size in ((b"shm", -2, 1), (b"msg", 3, 1), (b"sem", 3, _SEMAPHORE)):
        try:
            with open(b"/proc/sysvipc/" + table, "rb") as file:
                total += sum(int(row.split()[column]) * size for row in file.read().splitlines()[1:])
        except OSError:
            continue
    return total


def _unmapped_bytes(alive: tree.Processes) -> int:
    """Bytes in memory files (memfd_create) that processes hold open: no mapping shows them."""
    seen: dict[tuple[int, int], int] = {}
    for pid in alive:
        folder = "/proc/%d/fd/" % pid  # noqa: UP031 - as above
        try:
            for name in os.listdir(folder):
                if os.readlink(folder + name).startswith("/memfd:"):
                    state = os.stat(folder + name)
                    seen[state.st_dev, state.st_ino] = state.st_blocks * 512
        except OSError:
            continue
    return sum(seen.values())


def _proportional(pid: int) -> tuple[int, int]:
    """A process's share of anonymous memory and of memory in files. One that lets nobody look pays for all it has."""
    try:
        rollup = b"/proc/%d/smaps_rollup" % pid
        return _sum_of(rollup, b"Pss_Anon:"), _sum_of(rollup, b"Pss_Shmem:")
    except PermissionError:
        status = b"/proc/%d/status" % pid
        return _sum_of(status, b"RssAnon:"), _sum_of(status, b"RssShmem:")


def _sum_of(path: bytes, *keys: bytes) -> int:
    """Bytes that these lines of a file of /proc count in kB; 0 where the process is gone."""
    total = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(keys):
                    total += int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def _available() -> int:
    """Bytes that this machine can still give."""
    return _sum_of(b"/proc/meminfo", b"MemAvailable:")
