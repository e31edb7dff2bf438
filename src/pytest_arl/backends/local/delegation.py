"""The part of version 2's tree that was given to this process, if one was.

A cgroup is divided by nobody but its manager, which for nearly all of them is systemd. Given away (*delegated*) are:

- the top of what a container sees, where it may be written;
- a unit made with Delegate=yes. The system manager marks it by an attribute, which counts for root, whose every folder
  is. A user manager sets none: its units belong to their user, and it is asked which of them were meant to be divided;
- whatever belongs to an ordinary user elsewhere: who manages that tree without systemd has given it by chown.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_arl.backends.local.cgroup_mounts import CgroupMount
    from pytest_arl.backends.local.scopes import Systemd

__all__ = ["HOST_LEAF", "NEEDED", "NoCgroups", "Part", "find_part"]

HOST_LEAF = "arl-host"
"""The cgroup for the processes of a divided part."""
NEEDED = ("memory", "pids")
"""The controllers without which a cgroup is of no use here."""
_OWNED = ("", "cgroup.procs", "cgroup.subtree_control")
"""Files that belong to the user to whom a part is delegated."""
_MARKS = ("user.delegate", "trusted.delegate")


class NoCgroups(Exception):
    """Cgroups cannot be used here; the text says why.

    Attributes:
        cure: what would help; empty where that is not known.
    """

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Part:
    """A folder to divide, and how it came to be ours."""

    folder: Path
    way: str


def find_part(mount: CgroupMount, path: str, systemd: Systemd, *, as_root: bool) -> Part:
    """Our part, by way of our own cgroup. Raises NoCgroups."""
    own = mount.folder(path)
    if own is None:
        raise NoCgroups(f"{mount.point} belongs to another cgroup namespace and does not show this process's cgroup")
    places = _up_to_the_unit(mount.point, own)
    unit = places[-1]
    if not all(os.access(unit / name, os.W_OK) for name in _OWNED):
        raise NoCgroups(f"the cgroup {unit} cannot be written by this user")
    way = _way(mount, unit, path, systemd, as_root=as_root)
    for place in places:
        if place.name.startswith("user@"):  # the user manager's own: it divides that itself
            break
        available = (place / "cgroup.controllers").read_text().split()
        if all(name in available for name in NEEDED):
            return Part(place, way)
    raise NoCgroups(f"the cgroup {unit} does not have the controllers {' and '.join(NEEDED)}")


def _up_to_the_unit(top: Path, own: Path) -> list[Path]:
    """Our own cgroup and those above it, the last one a unit of systemd's; where there is none, our own alone.

    A leaf of ours is none to divide: what is beside it was divided already.
    """
    start = own.parent if own.name == HOST_LEAF and own != top else own
    places = []
    for place in (start, *start.parents):
        if place == top or top not in place.parents:
            break
        places.append(place)
        if _is_unit(place):
            return places
    return [start]


def _is_unit(folder: Path) -> bool:
    return folder.suffix in (".scope", ".service")


def _way(mount: CgroupMount, unit: Path, path: str, systemd: Systemd, *, as_root: bool) -> str:
    """The way in which it came to be ours. Raises NoCgroups."""
    if unit == mount.point:
        return "the top of what is seen here"
    for name in _MARKS:
        with suppress(OSError):
            if os.getxattr(unit, name) == b"1":
                return "delegated by systemd"
    if as_root:
        if not _is_unit(unit) and not systemd.booted:
            return "root's, where no systemd is"
        raise NoCgroups(f"the cgroup {unit} is not delegated")
    if any((unit / name).stat().st_uid != os.geteuid() for name in _OWNED):
        raise NoCgroups(f"the cgroup {unit} does not belong to this user")
    if _is_unit(unit) and systemd.booted and systemd.manages(path):
        answer = systemd.delegates(unit.name)
        if answer is None:
            raise NoCgroups(f"{systemd.name} does not say whether the cgroup {unit} is delegated")
        if not answer:
            raise NoCgroups(f"the cgroup {unit} is not delegated")
    return "delegated to this user"
