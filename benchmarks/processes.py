"""What /proc says of processes: who descends from whom, what they hold, what is left."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Process",
    "adopt_orphans",
    "cpu_seconds",
    "descendants",
    "folders_below",
    "kill",
    "marked",
    "peak_memory",
    "processes",
    "pss",
    "reap_orphans",
    "reset_peak_memory",
]

_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its parent, its state letter, the processor time it used, in seconds."""

    pid: int
    parent: int
    state: str
    seconds: float


def processes() -> dict[int, Process]:
    """Every process there is."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - strings, of thousands
        if name.isdigit():
            with suppress(OSError):
                text = Path("/proc", name, "stat").read_text(errors="replace")
                fields = text[text.rindex(")") + 2 :].split()
                seconds = (int(fields[11]) + int(fields[12])) / _TICK
                found[int(name)] = Process(int(name), int(fields[1]), fields[0], seconds)
    return found


def descendants(root: int) -> list[Process]:
    """Everything below a process, zombies too."""
    children: dict[int, list[Process]] = {}
    for process in processes().values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    stack = [root]
    while stack:
        below = children.get(stack.pop(), [])
        found += below
        stack += [process.pid for process in below]
    return found


def marked(marker: str) -> list[int]:
    """The living processes with these characters in their command line."""
    found = []
    for pid, process in processes().items():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if process.state != "Z" and pid != os.getpid() and marker.encode() in words:
                found.append(pid)
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL to processes that a benchmark started."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def pss(pid: int) -> int:
    """Bytes of memory, shared pages divided by those who share them. 0 for a process that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak_memory() -> int:
    """Bytes resident at this moment, which is the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The most bytes that were resident since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that what is left behind can be counted."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(but: set[int]) -> None:
    """Collect dead children that are none of ``but``, whose owner waits for them."""
    me = os.getpid()
    for process in processes().values():
        if process.parent == me and process.state == "Z" and process.pid not in but:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def folders_below(root: str, beginning: str) -> list[str]:
    """Folders whose name begins so, in a tree that changes while it is read."""
    return [f"{at}/{name}" for at, names, _ in os.walk(root) for name in names if name.startswith(beginning)]


def cpu_seconds() -> float:
    """Processor time of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
