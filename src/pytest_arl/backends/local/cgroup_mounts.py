"""Mounts of cgroups, and the cgroups of this process, read from /proc."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CgroupMount", "is_root", "memberships", "mounts"]


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy.

    Attributes:
        root: the cgroup that is seen at ``point``.
        kind: ``cgroup`` (version 1) or ``cgroup2``.
        options: those of the file system: in version 1 its controllers.
        read_only: whether nothing can be changed here.
    """

    root: str
    point: Path
    kind: str
    options: frozenset[str]
    read_only: bool

    def folder(self, path: str) -> Path | None:
        """The folder of a cgroup of /proc/PID/cgroup; None where this mount does not show it.

        Seen from a cgroup namespace, what lies outside of it is called ``/..``, and names no more than the distance.
        """
        root = self.root.rstrip("/")
        if ".." in root.split("/") or ".." in path.split("/"):
            return None
        if path == root or path.startswith(f"{root}/"):
            return self.point / path[len(root) :].strip("/")
        return self.point / path.strip("/")  # a bind mount of the whole, made in another namespace


def mounts(proc: Path) -> list[CgroupMount]:
    """Mounts that this process sees: of several at one place, the last one hides the others."""
    found = {}
    for line in (proc / "self/mountinfo").read_text().splitlines():
        fields, separator, rest = line.partition(" - ")
        if not separator:
            continue
        kind, _, options = rest.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            words = fields.split()
            root, point = (_unescape(text) for text in words[3:5])
            read_only = "ro" in words[5].split(",")
            found[point] = CgroupMount(root, Path(point), kind, frozenset(options.split(",")), read_only)
    return list(found.values())


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def is_root(proc: Path) -> bool:
    """True if this process is root, be it by another number in a user namespace: then what is root's seems its own."""
    uid = os.geteuid()
    with suppress(OSError):
        for line in (proc / "self/uid_map").read_text().splitlines():
            inside, outside, count = map(int, line.split())
            if inside <= uid < inside + count and outside + uid - inside == 0:
                return True
    return uid == 0


def memberships(proc: Path, pid: str = "self") -> dict[str, str]:
    """A process's cgroup by controller; version 2's under the empty name."""
    paths = {}
    for line in (proc / pid / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths
