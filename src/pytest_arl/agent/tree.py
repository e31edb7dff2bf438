"""Which processes live in the sandbox, and killing them: all, or all but what runs in the background."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os

__all__ = ["Processes", "below", "can_see_processes", "kill_all", "kill_below", "kill_one", "kill_outside", "processes"]

_THREADS = 17  # of /proc/PID/stat, counted from the state on

Processes = dict[int, int]
"""Each process and its parent."""


def can_see_processes() -> bool:
    """Whether /proc shows this namespace: in a container that masks it, it may show another one's."""
    try:
        return os.getpid() == int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return False


def processes() -> Processes:
    """Every process of the namespace but PID 1, with its parent."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        try:
            with open("/proc/" + name + "/stat", "rb") as file:
                stat = file.read()
        except OSError:
            continue
        # The command's name stands in parentheses and may hold any byte, a parenthesis too.
        fields = stat[stat.rindex(b")") + 2 :].split(b" ", _THREADS + 1)
        # A process whose first thread has ended shows as a zombie, and its other threads run on.
        if fields[0] not in b"ZX" or int(fields[_THREADS]) > 1:
            found[int(name)] = int(fields[1])
    return found


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
