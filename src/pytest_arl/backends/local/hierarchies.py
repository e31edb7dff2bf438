"""Where this process may make cgroups of its own, found in /proc.

Version 1 is used as root, below this process's own cgroup of each hierarchy. Version 2 is used where a part of
the tree was delegated to this process (``systemd-run --user --scope -p Delegate=yes``, a container with a
cgroup namespace of its own). There, processes and child cgroups exclude each other, so this process (and whatever else
runs in the delegated cgroup) moves to a leaf called ``arl-host`` first.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Hierarchies", "NoCgroups", "find"]

_HOST_LEAF = "arl-host"
_DELEGATE = "`systemd-run {user}--scope -p Delegate=yes pytest ...` gives a cgroup of one's own"
_NEEDED = ("memory", "pids")
_OWNED = ("", "cgroup.procs", "cgroup.subtree_control")
"""What belongs to the user to whom a part of the tree is delegated."""
_WANTED = (*_NEEDED, "cpu")


class NoCgroups(Exception):
    """Cgroups cannot be used here; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Folders to make cgroups in.

    Attributes:
        version: 1 or 2.
        folders: by controller (``memory``, ``pids``, and ``cpu`` where there is one); all the same folder in version 2.
    """

    version: int
    folders: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str
    point: Path
    kind: str
    options: frozenset[str]


def find(proc: Path = Path("/proc"), *, root: bool | None = None) -> Hierarchies:
    """The hierarchies to use. Raises NoCgroups.

    Args:
        proc: the /proc to read (tests bring their own).
        root: whether this process is root; None asks the kernel.
    """
    as_root = os.geteuid() == 0 if root is None else root
    mounts = _mounts(proc)
    memberships = _memberships(proc)
    if any("memory" in mount.options for mount in mounts if mount.kind == "cgroup"):
        return _version_1(mounts, memberships, as_root=as_root)
    return _version_2(mounts, memberships)


def _mounts(proc: Path) -> list[_Mount]:
    found = []
    for line in (proc / "self/mountinfo").read_text().splitlines():
        fields, separator, rest = line.partition(" - ")
        if not separator:
            continue
        kind, _, options = rest.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = (_unescape(text) for text in fields.split()[3:5])
            found.append(_Mount(root, Path(point), kind, frozenset(options.split(","))))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _memberships(proc: Path) -> dict[str, str]:
    """This process's cgroup by controller; version 2's under the empty name."""
    paths = {}
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _folder(mount: _Mount, path: str) -> Path:
    """Where a cgroup of /proc/self/cgroup lies under a mount that may show only a part of the tree."""
    inside = os.path.relpath(path, mount.root) if path.startswith(mount.root) else path.lstrip("/")
    return mount.point / inside


def _version_1(mounts: list[_Mount], paths: dict[str, str], *, as_root: bool) -> Hierarchies:
    if not as_root:
        raise NoCgroups("cgroups of version 1 are root's alone")
    folders = {}
    for controller in _WANTED:
        for mount in mounts:
            if mount.kind == "cgroup" and controller in mount.options and controller in paths:
                folders[controller] = _folder(mount, paths[controller])
    for controller in _NEEDED:
        if controller not in folders or not os.access(folders[controller], os.W_OK):
            raise NoCgroups(f"this kernel's cgroup hierarchy has no {controller} controller that can be written")
    return Hierarchies(1, folders)


def _version_2(mounts: list[_Mount], paths: dict[str, str]) -> Hierarchies:
    mount = next((mount for mount in mounts if mount.kind == "cgroup2"), None)
    if mount is None or "" not in paths:
        raise NoCgroups("no cgroup file system is mounted")
    folder = _folder(mount, paths[""])
    if folder.name == _HOST_LEAF:
        folder = folder.parent
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
        message = (
            f"{folder} cannot be written; `systemd-run --user --scope -p Delegate=yes pytest ...` gives one that can"
        )
        raise NoCgroups(message)
    if not _delegated(folder, is_top=folder == mount.point):
        raise NoCgroups(f"{folder} is not delegated to this process; {_delegate()}")
    available = (folder / "cgroup.controllers").read_text().split()
    for controller in _NEEDED:
        if controller not in available:
            raise NoCgroups(f"{folder} does not have the {controller} controller")
    usable = [controller for controller in _WANTED if controller in available]
    _enable(folder, usable)
    return Hierarchies(2, dict.fromkeys(usable, folder))


def _delegate() -> str:
    return _DELEGATE.format(user="" if os.geteuid() == 0 else "--user ")


def _delegated(folder: Path, *, is_top: bool) -> bool:
    """Whether this part of the tree is ours to divide: a container's top, or ours by its owner or systemd's mark.

    systemd's user manager gives its units to their user without the mark; root owns everything, so for root the mark
    decides.
    """
    user = os.geteuid()
    if user != 0 and all((folder / name).stat().st_uid == user for name in _OWNED):
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return is_top


def _enable(folder: Path, controllers: list[str]) -> None:
    """Give child cgroups these controllers, once no process is left in the folder itself.

    Another worker of the same run may be doing the same.
    """
    control = folder / "cgroup.subtree_control"
    missing = [name for name in controllers if name not in control.read_text().split()]
    if not missing:
        return
    wanted = " ".join(f"+{name}" for name in missing)
    last: OSError | None = None
    for _ in range(5):  # a process may be started meanwhile in the folder that is being emptied
        try:
            control.write_text(wanted)
        except OSError as error:
            last = error
            _move_processes(folder, folder / _HOST_LEAF)
        else:
            return
    raise NoCgroups(f"the controllers {', '.join(missing)} cannot be enabled in {folder}: {last}")


def _move_processes(folder: Path, leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)
