"""Usage of a step, and the limit of its processor time.

The kernel tells it of each process that was waited for, with the children that this one had waited for. PID 1 inherits
and waits for every orphan, so the sum over all that it collects is the whole step. What nobody waited for (children of
a program that ignores SIGCHLD) is missing there; a cgroup counts it too.
"""

from __future__ import annotations

import os
import resource
import time
from _struct import Struct

from pytest_arl.agent import system, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from resource import struct_rusage
    from typing import Any

    from pytest_arl.agent.limits import Limits
    from pytest_arl.agent.loop import Loop, Timer

__all__ = ["CpuWatch", "Meter", "Sums", "live_seconds", "shown_limit"]

WIRE = Struct("!2d8q")
"""Usage of a program, in the order of ``pytest_arl.Usage``; -1 is not known. A later version may add to it."""


_BLOCK = 512  # bytes of ru_inblock and ru_oublock, whatever the disk's
_FIRST_PID = 300  # RESERVED_PIDS: where the kernel goes on after its largest pid
_NOISE_SECONDS = 0.01  # a cgroup's counter and a process's are brought up to date at different moments: at ticks
_NOISE_SHARE = 0.02
_LEAST_PAUSE = 0.005
_PAUSE_FOR_LOOK = 4  # times what a look took, which is long where many processes live
_MOST_PIDS = 4096
_TICKS = os.sysconf("SC_CLK_TCK")


class Sums:
    """Resource usage of processes that were waited for, added up."""

    __slots__ = ("involuntary", "processes", "read", "rss", "system", "user", "voluntary", "written")

    def __init__(self) -> None:
        self.user = self.system = 0.0
        self.rss = self.read = self.written = self.voluntary = self.involuntary = self.processes = 0

    def add(self, used: struct_rusage) -> None:
        """One process more."""
        self.user += used.ru_utime
        self.system += used.ru_stime
        self.rss = max(self.rss, used.ru_maxrss * 1024)
        self.read += used.ru_inblock * _BLOCK
        self.written += used.ru_oublock * _BLOCK
        self.voluntary += used.ru_nvcsw
        self.involuntary += used.ru_nivcsw
        self.processes += 1

    def merge(self, other: Sums) -> None:
        """All that another one has."""
        self.user += other.user
        self.system += other.system
        self.rss = max(self.rss, other.rss)
        self.read += other.read
        self.written += other.written
        self.voluntary += other.voluntary
        self.involuntary += other.involuntary
        self.processes += other.processes

    def figures(self) -> tuple[float | int, ...]:
        """All of it, for :meth:`take`."""
        some = self.user, self.system, self.rss, self.read, self.written
        return *some, self.voluntary, self.involuntary, self.processes

    def take(self, figures: Iterable[Any]) -> None:
        """Become what another one's :meth:`figures` say."""
        self.user, self.system, self.rss, self.read, self.written, *rest = figures
        self.voluntary, self.involuntary, self.processes = rest

    def used(
        self, peak: int | None = None, processes: int | None = None, oom_kills: int | None = None, missing: float = 0.0
    ) -> bytes:
        """Encode it. ``missing``: seconds that are not in here."""
        cpu = self.user + self.system
        in_user = missing * (self.user / cpu if cpu else 1.0)
        # A process begins with the size of what started it, until its exec and for its figure beyond: what is no larger
        # than the agent says nothing of the program.
        rss = self.rss if _is_larger_than_the_agent(self.rss) else -1
        return WIRE.pack(
            self.user + in_user,
            self.system + missing - in_user,
            rss,
            -1 if peak is None else peak,
            self.read,
            self.written,
            -1 if processes is None else processes,
            -1 if oom_kills is None else oom_kills,
            self.voluntary,
            self.involuntary,
        )


class Meter:
    """Usage of the Command that runs now.

    Attributes:
        sums: over what ended of it.
        least: seconds of processor time that it is known to have used, whatever ``sums`` make of it: the limit that the
            cgroup's counter saw it pass.
    """

    def __init__(self, cpu_fd: int | None) -> None:
        """``cpu_fd`` is open on the file in which the sandbox's cgroup counts processor time."""
        self._cpu_fd = cpu_fd
        self._alone = True
        self._settled = False
        self._last_pid = self._newest_pid()
        self._started = 0
        self._cpu_before = 0.0
        self.sums = Sums()
        self.least = 0.0

    def begin(self, *, alone: bool) -> int:
        """A Command is about to start. ``alone``: no other program runs in the sandbox. Gives the pid that was given
        last.
        """
        self._alone = alone
        self.sums = Sums()
        self.least = 0.0
        self._started = 0
        if not (alone and self._settled):  # else nothing but the agent has run since the counters were read
            self._last_pid = self._newest_pid()
            if self._cpu_fd is not None:
                self._cpu_before = self._cgroup_seconds(self._cpu_fd)
        self._settled = False
        return self._last_pid

    def begin_background(self) -> int:
        """A program is about to start that outlives its step. Gives the pid that was given last."""
        self._settled = False
        return self._newest_pid()

    def count(self) -> None:
        """Look at how many processes were started, often enough that pids are not used up twice meanwhile."""
        newest = self._newest_pid()
        step = newest - self._last_pid
        self._started += step if step >= 0 else max(0, step + _pid_max() - _FIRST_PID)
        self._last_pid = newest

    def end(self, limits: Limits) -> tuple[bytes, float]:
        """The Command is over, and nothing of it lives: what it used, and how much processor time of that."""
        cpu = self.sums.user + self.sums.system
        unseen = max(0.0, self.least - cpu)
        if not self._alone:  # the sandbox's counters have the others too
            return self.sums.used(limits.memory_peak(), None, limits.oom_kills(), unseen), cpu + unseen
        self.count()
        self._settled = True
        missing = 0.0
        if self._cpu_fd is not None:
            before, self._cpu_before = self._cpu_before, self._cgroup_seconds(self._cpu_fd)
            missing = self._cpu_before - before - cpu
        if missing < _NOISE_SECONDS + _NOISE_SHARE * cpu:
            missing = 0.0
        missing = max(missing, unseen)
        processes = max(self._started, self.sums.processes) if self._last_pid else None  # or nobody tells of threads
        return self.sums.used(limits.memory_peak(), processes, limits.oom_kills(), missing), cpu + missing

    def seconds(self, supervisor: int) -> float:
        """Processor time that the Command has used by now; all of it is below ``supervisor`` if there is one."""
        if not self._alone:
            return self.sums.user + self.sums.system + (live_seconds(supervisor) if supervisor else 0.0)
        if self._cpu_fd is not None:
            return self._cgroup_seconds(self._cpu_fd) - self._cpu_before
        ended = self.sums.user + self.sums.system
        return ended + (live_seconds(0) if tree.can_see_processes() else _blind_seconds(self._newest_pid()))

    @staticmethod
    def _newest_pid() -> int:
        """The last one that this namespace gave to a process or thread; 0 where that cannot be known."""
        try:
            return tree.last_pid()
        except (OSError, ValueError, IndexError):
            return 0

    @staticmethod
    def _cgroup_seconds(fd: int) -> float:
        """Processor time of everything in the cgroup but this process itself."""
        return system.cpu_seconds(fd) - time.process_time()


class CpuWatch:
    """An end to a program that has used its processor time: looked at as often as it could get there."""

    def __init__(self, loop: Loop, limit: float, used: Callable[[], float], over: Callable[[], None]) -> None:
        self._loop = loop
        self._limit = limit
        self._used = used
        self._over = over
        self._processors = len(os.sched_getaffinity(0))
        self._timer: Timer = loop.call_at(time.monotonic() + self._pause(limit), self._look)

    def cancel(self) -> None:
        """It is over. Idempotent."""
        self._timer.cancel()

    def _pause(self, left: float) -> float:
        return max(left / self._processors, _LEAST_PAUSE)

    def _look(self) -> None:
        began = time.monotonic()
        used = self._used()
        if used > self._limit:
            self._over()
            return
        now = time.monotonic()
        pause = max(self._pause(self._limit - used), _PAUSE_FOR_LOOK * (now - began))
        self._timer = self._loop.call_at(now + pause, self._look)


def shown_limit(seconds: float) -> str:
    """A limit of processor time as results name it."""
    return "cpu time " + f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def live_seconds(root: int) -> float:
    """Processor time of what lives below ``root``, and of the children that these and ``root`` have waited for. 0 is
    everything but PID 1.
    """
    parents: tree.Processes = {}
    waited: dict[int, float] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open("/proc/" + name + "/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        # The command's name stands in parentheses and may hold any byte, a parenthesis too.
        fields = stat[stat.rindex(b")") + 2 :].split(b" ", 15)
        parents[int(name)] = int(fields[1])
        waited[int(name)] = (int(fields[13]) + int(fields[14])) / _TICKS
    counted = tree.below({root}, parents) if root else set(parents)
    return sum(_clock(pid) + waited[pid] for pid in counted) + waited.get(root, 0.0)


def _blind_seconds(newest: int) -> float:
    """The same of everything, where /proc shows another namespace: without the children that were waited for."""
    return sum(_clock(pid) for pid in range(max(2, newest - _MOST_PIDS), newest + 1))


def _clock(pid: int) -> float:
    """Processor time of a process by itself, exactly: /proc has it in hundredths of a second."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's name of a process's CPUCLOCK_SCHED
    except OSError:
        return 0.0


_own_rss = 0


def _is_larger_than_the_agent(rss: int) -> bool:
    global _own_rss  # noqa: PLW0603 - the most that it ever had only grows, so for many programs what is known will do
    if rss > _own_rss + _own_rss // 32:
        _own_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return rss > _own_rss + _own_rss // 32


def _pid_max() -> int:
    """The number of pids before they begin anew."""
    try:
        with open(b"/proc/sys/kernel/pid_max", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1 << 22
