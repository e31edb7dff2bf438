"""What a run of sandboxes can leave on this machine: found by looking at the machine, never by asking the library."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Traces", "below", "cgroup_folders", "left_of", "look_at", "sockets", "still_alive"]


@dataclass(frozen=True, slots=True)
class Traces:
    """What there is on this machine of one process and everything below it.

    Attributes:
        processes: each with the time of its start, so that a number used again is not taken for it.
        cgroups: folders of cgroups of ours that they are in, and those above them that are ours too.
        sockets: names of abstract sockets of ours.
        folders: what lies in its TMPDIR.
        mounts: lines of the mount table.
        agents: those of the processes that are PID 1 of a namespace.
    """

    processes: frozenset[tuple[int, str]] = frozenset()
    cgroups: frozenset[str] = frozenset()
    sockets: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    mounts: frozenset[str] = field(default_factory=frozenset)
    agents: frozenset[int] = frozenset()


def below(root: int) -> set[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))) is not None:
            children.setdefault(int(stat[1]), []).append(int(name))
    found: set[int] = set()
    stack = [root]
    while stack:
        pid = stack.pop()
        if pid not in found:
            found.add(pid)
            stack += children.get(pid, ())
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's stat from its state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


_CONTAINERS = ("/io.containerd.", "/kubelet/pods/", " /run/netns/", "/containers/storage/", "/var/lib/docker/")
"""In lines of mounts that come and go with the pods of a cluster on this machine."""


def _mounts() -> frozenset[str]:
    """Lines of the mount table, without those of containers that others start meanwhile."""
    lines = _lines("/proc/self/mountinfo")
    return frozenset(line for line in lines if not any(words in line for words in _CONTAINERS))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _is_agent(pid: int) -> bool:
    inner = next((line for line in _lines(f"/proc/{pid}/status") if line.startswith("NSpid:")), "").split()[1:]
    return len(inner) > 1 and inner[-1] == "1"


def cgroup_folders(pid: int) -> set[str]:
    """Folders of the cgroups with our name that a process is in, as far as they exist."""
    mounts = [line.split() for line in _lines("/proc/self/mountinfo") if " - cgroup" in line]
    found = set()
    for line in _lines(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        for fields in mounts:
            if set(controllers.split(",")) & set(fields[-1].split(",")) or (not controllers and "cgroup2" in fields):
                folder = Path(fields[4] + os.path.normpath(f"/{os.path.relpath(path, fields[3])}"))
                found |= {str(part) for part in (folder, *folder.parents) if _is_ours(part)}
    return found


def _is_ours(folder: Path) -> bool:
    return any(part.startswith("pytest-arl-") for part in folder.parts) and folder.is_dir()


def sockets() -> set[str]:
    """Abstract Unix sockets with our name on this machine."""
    return {line.split()[-1] for line in _lines("/proc/net/unix") if "pytest-arl" in line}


def _sockets_of(agents: set[int]) -> set[str]:
    """The sockets that hold the users of these agents: their names end in the number."""
    users = {line.split()[1] for pid in agents for line in _lines(f"/proc/{pid}/status") if line.startswith("Uid:")}
    return {name for name in sockets() if name.rpartition("/")[2] in users}


def look_at(root: int, folder: Path) -> Traces:
    """Everything there is of a process, whose TMPDIR is ``folder``, and of all below it."""
    pids = below(root)
    agents = {pid for pid in pids if _is_agent(pid)}
    return Traces(
        processes=frozenset(
            (pid, stat[19]) for pid in pids if (stat := _stat(pid)) is not None and stat[0] not in "ZX"
        ),
        cgroups=frozenset(path for pid in pids for path in cgroup_folders(pid)),
        sockets=frozenset(_sockets_of(agents)),
        folders=frozenset(str(path) for path in folder.iterdir()),
        mounts=_mounts(),
        agents=frozenset(agents),
    )


def still_alive(seen: Traces) -> set[int]:
    """Those of the processes that are still there, and the same."""
    return {
        pid
        for pid, start in seen.processes
        if (stat := _stat(pid)) is not None and stat[19] == start and stat[0] not in "ZX"
    }


def left_of(seen: Traces, before: Traces, folder: Path) -> dict[str, set[str]]:
    """What is still there of all that was seen, by kind; empty when nothing is."""
    now = {
        "processes": {
            f"{pid} {' '.join(_lines(f'/proc/{pid}/cmdline')).replace(chr(0), ' ')[:200]}" for pid in still_alive(seen)
        },
        "cgroups": {path for path in seen.cgroups if Path(path).exists()},
        "sockets": sockets() & (seen.sockets - before.sockets),
        "folders": {str(path) for path in folder.iterdir()} - before.folders,
        "mounts": {*_mounts()} & (seen.mounts - before.mounts),
    }
    return {kind: found for kind, found in now.items() if found}
