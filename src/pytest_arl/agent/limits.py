"""The limit that a step ran into.

A limit is named where it is known to have been reached: where the kernel counted what it refused (cgroups), where a
folder is full, and where a look at the running step saw as many processes, descriptors or bytes as there may be.
No word that a program says counts.
"""

from __future__ import annotations

import errno
import time

from pytest_arl.agent import crowd, memory_sampler, system, tree, whole_memory
from pytest_arl.agent.descriptors import Descriptors
from pytest_arl.agent.folder_space import FolderSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_arl.agent.memory_watch import MemoryWatch

__all__ = ["SAMPLE_SECONDS", "Limits"]

SAMPLE_SECONDS = 0.05
_FIRST_LOOK_SECONDS = 0.005  # programs that fail at once do so early; each pause after it is twice the one before


class Limits:
    """The limits of one sandbox, and what a step did to them.

    ``folders`` are the writable folders and the pool's key that sizes each; ``memory`` is set (bytes) only where no
    cgroup bounds it, and ``files_count`` if files in these folders count in it; ``crowd_fd`` is open on the number of
    what lives in the cgroup where nothing bounds that.
    ``rlimits`` has the resource limits that bound the sandbox (NPROC) or one process (NOFILE) here.
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
        rlimits: dict[str, int],
        watch: MemoryWatch | None = None,
        files_count: bool = False,
    ) -> None:
        self._oom = None if oom_fd is None else system.Counter(oom_fd, b"oom_kill")
        self._watch = watch
        self._crowd_fd = crowd_fd
        self._pids = None if pids_fd is None else system.Counter(pids_fd, b"max")
        self._processes = processes
        self._room = FolderSpace(folders)
        tasks = rlimits.get("NPROC", -1)  # -1 is no limit; where a cgroup counts refusals, its counter decides
        self._crowd = crowd.Crowd(tasks) if tasks >= 0 and pids_fd is None else None
        # A container shows a cgroup where its kernel is the machine's. Where it is its own, nothing else counts them.
        self._uncounted = pids_fd is None and crowd_fd is None and not tree.tells_last_pid()
        # Where /proc shows another namespace, its pids are not those of our processes.
        seen = "NOFILE" in rlimits and tree.can_see_processes()
        self._descriptors = Descriptors(rlimits["NOFILE"]) if seen else None
        self._sampler = None if memory is None else self._memory_sampler(memory, files_count=files_count)
        self._spare = None if files_count else memory
        self._oom_before = 0
        self._kills: int | None = None
        self._pids_before = 0
        self._pids_last = 0
        self._crowded = 0
        self._settled = False
        self._pause = 0.0
        self._look_due = self._count_due = self._memory_due = 0.0

    def _memory_sampler(
        self, memory: int, *, files_count: bool
    ) -> memory_sampler.MemorySampler | whole_memory.WholeMemory:
        shm = self._room.path("shm")
        if tree.tells_last_pid() or not whole_memory.is_own():
            return memory_sampler.MemorySampler(memory, shm)
        return whole_memory.WholeMemory(memory, [] if files_count else self._room.others("shm"), shm)

    def begin(self, newest_pid: int, *, alone: bool) -> None:
        """A step starts: remember what the counters say. ``newest_pid`` is the one that was given last. ``alone``: no
        other program runs in the sandbox.
        """
        now = time.monotonic()
        self._kills = None
        if self._watch is not None:
            self._watch.begin()
        self._crowded = 0
        self._pause = _FIRST_LOOK_SECONDS
        self._look_due, self._count_due = now + self._pause, now + SAMPLE_SECONDS
        self._room.begin()
        if self._descriptors is not None:
            self._descriptors.begin(newest_pid)
        if self._crowd is not None:
            self._crowd.begin()
        if self._sampler is not None:
            self._sampler.begin()
            self._memory_due = now + self._sampler.next_look()
        if not (alone and self._settled):  # else nothing but the agent has run since the counters were read
            self._read_counters()
        self._settled = False

    def settle(self) -> None:
        """A task has ended: read the counters now, for the next step need not wait for it if it is alone then."""
        self._read_counters()
        self._settled = True

    def _read_counters(self) -> None:
        if self._oom is not None:
            self._oom_before = self._oom.value()
        if self._pids is not None:
            self._pids_before = self._pids_last = self._pids.value()

    def stop(self) -> None:
        """Count kills for memory a last time, as nothing of the step lives any more."""
        self._kills = self.oom_kills()

    def end(self) -> None:
        """The step is over; call after what is asked about it."""
        self._kills = None
        if self._watch is not None:
            self._watch.end()

    def sample(self) -> str | None:
        """The limit that a running step has outgrown and must be ended for, or None."""
        if self.memory_killed():
            return "memory"  # of what was killed something is left, as the kernel kills one process alone
        if self._crowd is not None and self._crowd.look():
            return "processes"
        now = time.monotonic()
        if now >= self._look_due:
            self._glance()
            self._pause = min(2 * self._pause, SAMPLE_SECONDS)
            self._look_due = now + self._pause
        if now >= self._count_due:
            self._count_due = now + SAMPLE_SECONDS
            if self._is_bombed():
                return "processes"
            crowded = None if self._spare is None else self._room.crowded(self._spare)
            if crowded is not None:
                return crowded
        if self._sampler is not None and now >= self._memory_due:
            over = self._sampler.over()
            self._memory_due = time.monotonic() + self._sampler.next_look()
            return "memory" if over else None
        return None

    def next_look(self) -> float:
        """Seconds until :meth:`sample` is to be called again."""
        due = min(self._look_due, self._count_due)
        if self._sampler is not None:
            due = min(due, self._memory_due)
        pause = max(0.0, due - time.monotonic())
        return pause if self._crowd is None else min(pause, self._crowd.next_look())

    def heard(self) -> None:
        """The step has written to stderr, which may say that it found no room: some programs clean up next."""
        if self._crowd is not None:
            self._crowd.look(rest=1.0)
        self._glance()

    def _glance(self) -> None:
        self._room.look()
        if self._descriptors is not None:
            self._descriptors.look()

    def ended(self) -> None:
        """Something of the sandbox has ended, and was not reaped yet: it may be the last time that all are there."""
        if self._crowd is not None:
            self._crowd.look(rest=0.0)

    def memory_peak(self) -> int | None:
        """The most bytes of memory that the sandbox held since the step began, as far as that is known."""
        if self._watch is not None:
            return self._watch.peak(killed=self.memory_killed())
        return None if self._sampler is None else self._sampler.peak()

    def _is_bombed(self) -> bool:
        """True if processes are started without end. Refused once may be a build tool finding its bounds; still
        refused 50 ms later is a fork bomb, which would go on for ever.
        """
        if self._crowd_fd is not None and self._is_crowded(self._crowd_fd):
            return True
        if self._uncounted and len(tree.numbers()) > self._processes and len(tree.processes()) > self._processes:
            return True
        if self._pids is None:
            return False
        refused = self._pids.value()
        self._crowded = self._crowded + 1 if refused > self._pids_last else 0
        self._pids_last = refused
        return self._crowded > 1

    def _is_crowded(self, crowd_fd: int) -> bool:
        """True if more processes live than may. The kernel's figure counts threads, of which there may be many."""
        return system.number(crowd_fd) > self._processes and len(tree.processes()) > self._processes

    def blame(self) -> str | None:
        """The limit that a step which failed ran into, or None."""
        if self.memory_killed():
            return "memory"
        if self.refused_processes():
            return "processes"
        full = self._room.look()
        if full is not None:
            return full
        return "files" if self._descriptors is not None and self._descriptors.reached else None

    def blame_error(self, error: OSError, path: bytes) -> str | None:
        """The limit that kept the agent itself from writing a file there, or None."""
        return "files" if error.errno == errno.EMFILE else self._room.refused(path, error.errno)

    def refused_processes(self) -> bool:
        """True if the sandbox was refused a process since the step began."""
        if self._crowd is not None and self._crowd.reached:
            return True
        return self._pids is not None and self._pids.value() > self._pids_before

    def memory_killed(self) -> bool:
        """True if something of the sandbox was killed for its memory since the step began: by the watcher, or by the
        kernel.
        """
        if self._kills is not None:
            return self._kills > 0
        if self._watch is not None and self._watch.kills_of_step():
            return True
        return self._oom is not None and self._oom.value() > self._oom_before

    def memory_kills(self) -> int:
        """The number of kills for memory since the sandbox was made."""
        watched = 0 if self._watch is None else self._watch.kills
        return watched + (0 if self._oom is None else self._oom.value())

    def oom_kills(self) -> int | None:
        """The number of kills for memory since the step began; None where nothing counts it."""
        if self._kills is not None or (self._watch is None and self._oom is None):
            return self._kills
        watched = 0 if self._watch is None else self._watch.kills_of_step()
        return watched + (0 if self._oom is None else self._oom.value() - self._oom_before)
