"""Which limit a step ran into.

With a cgroup the kernel counts what it refused, and the counters are believed. Without one the agent looks at what
lives in the sandbox 20 times a second, since nothing else bounds shared memory and tmpfs there. What only
the program itself learned (EMFILE, ENOSPC) is read from the last lines it wrote to stderr.
"""

from __future__ import annotations

import os

from pytest_arl.agent import system, tree

__all__ = ["SAMPLE_SECONDS", "Limits"]

SAMPLE_SECONDS = 0.05
_INODE = 1024  # bytes that the kernel takes for a file without content, about
_SEMAPHORE = 64  # bytes: a line of the processor's cache
_SCARCE = 0.1  # of the machine's memory
_SAID = (
    (b"Too many open files", "files"),
    (b"No space left on device", "workspace"),
    (b"Cannot allocate memory", "memory"),
    (b"MemoryError", "memory"),
    (b"bad_alloc", "memory"),
    (b"Resource temporarily unavailable", "processes"),
    (b"Cannot fork", "processes"),  # dash
    (b"can't start new thread", "processes"),
)


class Limits:
    """The limits of one sandbox, and what a step did to them.

    ``folders`` are the writable folders and the pool's key that sizes each; ``memory`` is set (bytes) only where no
    cgroup bounds it; ``crowd_fd`` is open on the number of what lives in the cgroup where nothing bounds that.
    """

    def __init__(
        self,
        *,
        oom_fd: int | None,
        pids_fd: int | None,
        memory: int | None,
        processes: int,
        folders: list[tuple[bytes, str]],
        crowd_fd: int | None = None,
    ) -> None:
        self._oom_fd = oom_fd
        self._crowd_fd = crowd_fd
        self._pids_fd = pids_fd
        self._memory = memory
        self._processes = processes
        self._folders = [(path, key) for path, key in folders if os.path.isdir(path)]
        self._oom_before = 0
        self._pids_before = 0
        self._pids_last = 0
        self._crowded = 0
        self._scarce = 0 if memory is None else int(_sum_of(b"/proc/meminfo", b"MemTotal:") * _SCARCE)
        self._available = 0

    def begin(self) -> None:
        """A step starts: remember what the counters say."""
        self._crowded = 0
        self._available = _available() if self._scarce else 0
        if self._oom_fd is not None:
            self._oom_before = system.counter(self._oom_fd, b"oom_kill")
        if self._pids_fd is not None:
            self._pids_before = self._pids_last = system.counter(self._pids_fd, b"max")

    def sample(self) -> str | None:
        """The limit that a running step has outgrown and must be ended for, or None."""
        alive = None
        if self._crowd_fd is not None and self._is_crowded(self._crowd_fd):
            return "processes"
        if self._pids_fd is not None:
            refused = system.counter(self._pids_fd, b"max")
            crowded = refused > self._pids_last
            self._pids_last = refused
        else:
            alive = tree.processes() if self._memory is not None else None
            crowded = alive is not None and len(alive) >= self._processes - 2
        # Once may be a build tool finding its bounds; still refused 50 ms later is a fork bomb, which would go on
        # for ever.
        self._crowded = self._crowded + 1 if crowded else 0
        if self._crowded > 1:
            return "processes"
        if self._memory is None or alive is None:
            return None
        outgrown = self._used(alive) > self._memory or self._drains_the_machine(self._memory)
        return "memory" if outgrown else None

    def _is_crowded(self, crowd_fd: int) -> bool:
        """Whether more processes live than may. The kernel's figure counts threads, of which there may be many."""
        return system.number(crowd_fd) > self._processes and len(tree.processes()) > self._processes

    def _drains_the_machine(self, memory: int) -> bool:
        """Whether memory ran short out there while the step ran, by more than the sandbox may have. What it holds in
        sockets, pipes and memory files that no process shows is seen nowhere else.
        """
        available = _available()
        return 0 < available < self._scarce and self._available - available > memory

    def blame(self, stderr_end: bytes) -> str | None:
        """The limit that a step which failed ran into, or None."""
        if self.memory_killed():
            return "memory"
        if self.refused_processes():
            return "processes"
        for path, key in self._folders:
            if _is_full(path):
                return key
        for text, key in _SAID:
            if text in stderr_end:
                return key
        return None

    def refused_processes(self) -> bool:
        """Whether the sandbox was refused a process since the step began."""
        return self._pids_fd is not None and system.counter(self._pids_fd, b"max") > self._pids_before

    def memory_killed(self) -> bool:
        """Whether the kernel has killed something of the sandbox for its memory since the step began."""
        return self._oom_fd is not None and system.counter(self._oom_fd, b"oom_kill") > self._oom_before

    def _used(self, alive: tree.Processes) -> int:
        """Bytes of memory that the sandbox holds now, files in its tmpfs folders included."""
        files = _kept_in_files([path for path, _ in self._folders]) + _system_v_bytes() + _unmapped_bytes(alive)
        total = files + sum(_sum_of(b"/proc/%d/status" % pid, b"RssAnon:", b"RssShmem:") for pid in alive)
        if self._memory is not None and total > self._memory:
            # Pages that processes share, with each other or with files, were counted more than once: ask for the
            # exact, slow figures.
            private = shared = 0
            for pid in alive:
                anonymous, in_files = _proportional(pid)
                private += anonymous
                shared += in_files
            total = private + max(files, shared)
        return total


def _is_full(folder: bytes) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False  # a step has removed it
    return bool(state.f_blocks and (state.f_bavail == 0 or (state.f_files and state.f_favail == 0)))


def _kept_in_files(folders: list[bytes]) -> int:
    total = 0
    seen = set()
    for path in folders:
        try:
            device, state = os.stat(path).st_dev, os.statvfs(path)
        except OSError:
            continue  # as above
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
