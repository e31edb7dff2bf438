"""Which limit a step ran into.

With a cgroup the kernel counts what it refused, and the counters are believed. Without one the agent looks at what
lives in the sandbox 20 times a second, since nothing else bounds shared memory and tmpfs there. What only
the program itself learned (EMFILE, ENOSPC) is read from the last lines it wrote to stderr.
"""

from __future__ import annotations

import os

from pytest_arl.agent import system, tree
from pytest_arl.agent.memory_sampler import MemorySampler

__all__ = ["SAMPLE_SECONDS", "Limits"]

SAMPLE_SECONDS = 0.05
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
        self._processes = processes
        self._folders = [(path, key) for path, key in folders if os.path.isdir(path)]
        self._sampler = None if memory is None else MemorySampler(memory, [path for path, _ in self._folders])
        self._oom_before = 0
        self._pids_before = 0
        self._pids_last = 0
        self._crowded = 0

    def begin(self) -> None:
        """A step starts: remember what the counters say."""
        self._crowded = 0
        if self._sampler is not None:
            self._sampler.begin()
        if self._oom_fd is not None:
            self._oom_before = system.counter(self._oom_fd, b"oom_kill")
        if self._pids_fd is not None:
            self._pids_before = self._pids_last = system.counter(self._pids_fd, b"max")

    def sample(self) -> str | None:
        """The limit that a running step has outgrown and must be ended for, or None."""
        if self._crowd_fd is not None and self._is_crowded(self._crowd_fd):
            return "processes"
        if self._pids_fd is not None:
            refused = system.counter(self._pids_fd, b"max")
            crowded = refused > self._pids_last
            self._pids_last = refused
        else:
            crowded = self._sampler is not None and len(tree.processes()) >= self._processes - 2
        # Once may be a build tool finding its bounds; still refused 50 ms later is a fork bomb, which would go on
        # for ever.
        self._crowded = self._crowded + 1 if crowded else 0
        if self._crowded > 1:
            return "processes"
        return "memory" if self._sampler is not None and self._sampler.over() else None

    def next_look(self) -> float:
        """Seconds until :meth:`sample` is to be called again."""
        return SAMPLE_SECONDS if self._sampler is None else self._sampler.next_look()

    def memory_peak(self) -> int | None:
        """The most bytes of memory that the sandbox held since the step began, as far as that is known."""
        return None if self._sampler is None else self._sampler.peak()

    def _is_crowded(self, crowd_fd: int) -> bool:
        """Whether more processes live than may. The kernel's figure counts threads, of which there may be many."""
        return system.number(crowd_fd) > self._processes and len(tree.processes()) > self._processes

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


def _is_full(folder: bytes) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False  # a step has removed it
    return bool(state.f_blocks and (state.f_bavail == 0 or (state.f_files and state.f_favail == 0)))
