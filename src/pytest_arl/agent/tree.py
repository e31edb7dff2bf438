"""The processes that live in the sandbox, and how they are killed: all, or all but what runs in the background."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Processes",
    "Stat",
    "at_rest",
    "below",
    "can_see_processes",
    "go_on_without",
    "is_stopped",
    "kill_all",
    "kill_below",
    "kill_one",
    "kill_outside",
    "last_pid",
    "numbers",
    "processes",
    "stat",
    "stop_all",
    "tasks",
    "tells_last_pid",
]

_STAT_BYTES = 2048
# Fields of /proc/PID/stat, counted from the state on.
_PARENT, _FAULTS, _SYSTEM_TIME, _THREADS, _PAGES = 1, 7, 12, 17, 21
_TICK = 1 / os.sysconf("SC_CLK_TCK")

_load = -1

Processes = dict[int, int]
"""Each process and its parent."""


def can_see_processes() -> bool:
    """True if /proc shows this namespace: in a container that masks it, it may show another one's."""
    try:
        return os.getpid() == int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return False


class Stat:
    """A process as /proc shows it.

    Attributes:
        state: a letter.
        parent: its parent's pid.
        faults: page faults that needed no disk.
        system_time: seconds in the kernel.
        threads: how many live, or are zombies.
        pages: resident ones, those shared with others included.
    """

    __slots__ = ("faults", "pages", "parent", "state", "system_time", "threads")

    def __init__(self, fields: list[bytes]) -> None:
        self.state = fields[0]
        self.parent = int(fields[_PARENT])
        self.faults = int(fields[_FAULTS])
        self.system_time = int(fields[_SYSTEM_TIME]) * _TICK
        self.threads = int(fields[_THREADS])
        self.pages = int(fields[_PAGES])

    @property
    def alive(self) -> bool:
        """True if it runs. One whose first thread has ended shows as a zombie, and its other threads run on."""
        return self.state not in b"ZX" or self.threads > 1


def numbers() -> list[int]:
    """Every process of the namespace but PID 1, zombies included, in order, by the number that /proc has for it."""
    try:
        found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # the agent has no descriptor left: a look less
    own = _own_number()
    if own == 1:
        return [pid for pid in found if pid != 1]
    # Another namespace's: ours are all below PID 1, which inherits the orphans.
    parents = ((pid, stat(pid)) for pid in found)
    return sorted(below({own}, {pid: each.parent for pid, each in parents if each is not None}))


def _own_number() -> int:
    try:
        return int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return 0


def stat(pid: int) -> Stat | None:
    """A process as /proc shows it; None where it is gone."""
    try:
        file = os.open("/proc/%d/stat" % pid, os.O_RDONLY | os.O_CLOEXEC)  # noqa: UP031 - half the time
        try:
            line = os.read(file, _STAT_BYTES)
        finally:
            os.close(file)
    except OSError:
        return None
    # The command's name stands in parentheses and may hold any byte, a parenthesis too.
    return Stat(line[line.rindex(b")") + 2 :].split(b" ", _PAGES + 1))


def processes() -> Processes:
    """Every living process of the namespace but PID 1, with its parent."""
    found = ((pid, stat(pid)) for pid in numbers())
    return {pid: each.parent for pid, each in found if each is not None and each.alive}


def tasks() -> tuple[int, float]:
    """The number of processes and threads in the namespace, zombies and the agent included, and the seconds that they
    have spent in the kernel.
    """
    count, system_time = 1, 0.0
    for pid in numbers():
        each = stat(pid)
        if each is not None:
            count += each.threads
            system_time += each.system_time
    return count, system_time


def tells_last_pid() -> bool:
    """True if the kernel says which pid it gave last: Linux does, and gVisor's 0 is nobody's."""
    try:
        return last_pid() != 0
    except (OSError, ValueError, IndexError):
        return True


def last_pid() -> int:
    """The pid that was given last in this namespace, to a process or a thread."""
    global _load  # noqa: PLW0603 - opened once: each step asks a few times
    if _load < 0:
        _load = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    return int(os.pread(_load, 128, 0).rsplit(b" ", 1)[1])


def below(roots: set[int], among: Processes) -> set[int]:
    """The descendants of ``roots``."""
    children: dict[int, list[int]] = {}
    for pid, parent in among.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    stack = list(roots)
    while stack:
        for pid in children.get(stack.pop(), ()):
            if pid not in found:
                found.add(pid)
                stack.append(pid)
    return found


def kill_all() -> None:
    """SIGKILL to everything in the namespace but PID 1: one call, which no fork escapes."""
    _kill(-1)


def stop_all() -> None:
    """SIGSTOP to everything in the namespace but PID 1."""
    _signal_all(_signal.SIGSTOP)


def is_stopped(pid: int) -> bool:
    """True if a process is stopped now."""
    each = stat(pid)
    return each is not None and each.state == b"T"


def go_on_without(asleep: set[int]) -> None:
    """SIGCONT to everything in the namespace that was stopped but ``asleep``."""
    if not asleep or not can_see_processes():
        _signal_all(_signal.SIGCONT)
        return
    for pid in numbers():
        if pid not in asleep:
            try:
                os.kill(pid, _signal.SIGCONT)
            except OSError:
                pass


def at_rest(kill: Callable[[], None], awake: int) -> None:
    """Do some killing while nothing in the namespace runs, so that no fork escapes it.

    ``awake``: a process that goes on then, though it may have been stopped before.
    """
    asleep = {pid for pid in numbers() if is_stopped(pid)}
    stop_all()
    try:
        kill()
    finally:
        go_on_without(asleep - {awake})


def _signal_all(number: int) -> None:
    if os.getpid() != 1:
        raise RuntimeError("the agent stops only what is in a namespace of its own")  # -1 would be the whole machine
    try:
        os.kill(-1, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_outside(keep: set[int], spared: int) -> None:
    """SIGKILL once to everything that is neither in ``keep`` nor below it, nor is ``spared`` itself.

    What forks and exits all the time may be missed: that all is gone is for a supervisor to tell.
    """
    alive = processes()
    for pid in set(alive) - keep - below(keep, alive) - {spared}:
        _kill(pid)


def kill_below(root: int) -> None:
    """SIGKILL once to every descendant of ``root`` that is seen."""
    for pid in below({root}, processes()):
        _kill(pid)


def kill_one(pid: int) -> None:
    """SIGKILL to one process, which may be gone."""
    _kill(pid)


def _kill(pid: int) -> None:
    if os.getpid() != 1:
        raise RuntimeError("the agent kills only in a namespace of its own")  # -1 would be the whole machine
    try:
        os.kill(pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
