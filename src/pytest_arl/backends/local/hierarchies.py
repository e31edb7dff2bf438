"""Places where this process may make cgroups of its own, found in /proc.

Version 1 is used as root, below this process's own cgroup of each hierarchy. Version 2 is divided by whoever manages
the tree, usually systemd, and used where a part of it is ours (:mod:`pytest_arl.backends.local.delegation`). There,
processes and child cgroups exclude each other, so what runs in our part moves to a leaf called ``arl-host`` first.
Where no part is ours, systemd is asked for one (:mod:`pytest_arl.backends.local.scopes`).
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.cgroup_mounts import is_root, memberships, mounts
from pytest_arl.backends.local.delegation import HOST_LEAF, NEEDED, NoCgroups, find_part
from pytest_arl.backends.local.forkserver import ForkServer, NoForkServer
from pytest_arl.backends.local.scopes import NoScope, Systemd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.backends.local.cgroup_mounts import CgroupMount

__all__ = ["Hierarchies", "NoCgroups", "find", "serve"]

_WANTED = (*NEEDED, "cpu")
_COUNTING = "cpuacct"
"""Counts processor time in version 1; every cgroup of version 2 does."""
_WRITABLE = (
    "Start the container with a writable one (docker 28 or newer: `--cgroupns=private --security-opt "
    "writable-cgroups=true`; podman: `--security-opt unmask=/sys/fs/cgroup`; either: `--privileged`)"
)


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Folders to make cgroups in.

    Attributes:
        version: 1 or 2.
        folders: by controller (``memory``, ``pids``, and ``cpu`` and ``cpuacct`` where they are); all the same folder
            in version 2, which has no ``cpuacct``.
        way: how they came to be ours.
        server: what starts processes right inside, in version 2; None where processes are moved there.
    """

    version: int
    folders: Mapping[str, Path]
    way: str = ""
    server: ForkServer | None = None


_PROC = Path("/proc")
_in_use: list[Hierarchies] = []
"""The latest find, if any: a process has one server."""


def find(proc: Path = _PROC, *, root: bool | None = None, systemd: Systemd | None = None) -> Hierarchies:
    """The hierarchies to use: those of the server that lives, where one does. Raises NoCgroups.

    Args:
        proc: the /proc to read (tests bring their own).
        root: whether this process is root; None asks the kernel.
        systemd: the manager to ask; None is the real one.
    """
    if proc != _PROC:
        return _find(proc, root=root, systemd=systemd)
    for found in _in_use:
        if found.server is not None:
            if found.server.alive:
                return found
            found.server.close()
    _in_use[:] = [_find(proc, root=root, systemd=systemd)]
    return _in_use[0]


def _find(proc: Path, *, root: bool | None, systemd: Systemd | None) -> Hierarchies:
    as_root = is_root(proc) if root is None else root
    seen = mounts(proc)
    paths = memberships(proc)
    if any("memory" in mount.options for mount in seen if mount.kind == "cgroup"):
        return _version_1(seen, paths, as_root=as_root)
    mount = next((mount for mount in seen if mount.kind == "cgroup2"), None)
    if mount is None or "" not in paths:
        raise NoCgroups("no cgroup file system is mounted")
    if mount.read_only:
        raise NoCgroups(f"{mount.point} is mounted read-only", _WRITABLE)
    return _version_2(proc, mount, paths[""], systemd or Systemd(root=as_root), as_root=as_root)


def serve(found: Hierarchies) -> Hierarchies:
    """The same, or where their server is not there any more, what is found anew. Raises NoCgroups.

    A server may have been killed, or be the parent's of a forked process, and a scope of its own ends with it.
    """
    if found.server is None or found.server.alive:
        return found
    return find()


def _version_1(seen: list[CgroupMount], paths: dict[str, str], *, as_root: bool) -> Hierarchies:
    if not as_root:
        raise NoCgroups("only root can use cgroups of version 1")
    folders = {}
    for controller in (*_WANTED, _COUNTING):
        for mount in seen:
            if mount.kind == "cgroup" and controller in mount.options and controller in paths:
                folder = mount.folder(paths[controller])
                if folder is not None and (controller != _COUNTING or os.access(folder, os.W_OK)):
                    folders[controller] = folder
    for controller in NEEDED:
        if controller not in folders or not os.access(folders[controller], os.W_OK):
            raise NoCgroups(f"this kernel's cgroup hierarchy has no {controller} controller that can be written")
    return Hierarchies(1, folders, "root's, in version 1")


def _version_2(proc: Path, mount: CgroupMount, path: str, systemd: Systemd, *, as_root: bool) -> Hierarchies:
    try:
        part = find_part(mount, path, systemd, as_root=as_root)
        return _with_server(Hierarchies(2, _divide(part.folder), part.way))
    except (NoCgroups, OSError) as error:
        reason = str(error)
    try:
        server = systemd.scope(path)
    except NoScope as error:
        raise NoCgroups(f"{reason}, and {error}", error.cure) from None
    way = f"a scope from {systemd.name}"
    try:
        folders = _divide(_place(mount, memberships(proc, str(server.pid))[""]))
        _try(server, folders[NEEDED[0]])
    except (NoCgroups, OSError) as error:
        server.close()
        raise NoCgroups(f"{reason}, and {way} cannot be used: {error}") from None
    return Hierarchies(2, folders, way, server)


def _place(mount: CgroupMount, path: str) -> Path:
    folder = mount.folder(path)
    if folder is None:
        raise NoCgroups(f"{path} is not shown at {mount.point}")
    return folder


def _with_server(found: Hierarchies) -> Hierarchies:
    """Start a server where one can be had: without, a process is moved, which takes longer."""
    with suppress(NoForkServer):
        server = ForkServer.start()
        try:
            _try(server, found.folders[NEEDED[0]])
        except OSError:  # an old kernel, a container's filter of system calls
            server.close()
        else:
            return replace(found, server=server)
    return found


def _try(server: ForkServer, folder: Path) -> None:
    """Start something in a cgroup in there, a program that says nothing. Raises OSError."""
    trial = folder / f"arl-trial-{os.getpid()}-{secrets.token_hex(4)}"
    trial.mkdir()
    try:
        descriptor = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            spawner.carry_out(partial(server.spawn, ["/bin/true"], (), descriptor, descriptor)).wait()
        finally:
            os.close(descriptor)
    finally:
        trial.rmdir()


def _divide(folder: Path) -> dict[str, Path]:
    """Let controllers be used below a folder: the folder by controller. Raises NoCgroups."""
    available = (folder / "cgroup.controllers").read_text().split()
    for controller in NEEDED:
        if controller not in available:
            raise NoCgroups(f"{folder} does not have the {controller} controller")
    usable = [controller for controller in _WANTED if controller in available]
    _enable(folder, usable)
    return dict.fromkeys(usable, folder)


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
            _move_processes(folder, folder / HOST_LEAF)
        else:
            return
    raise NoCgroups(f"the controllers {', '.join(missing)} cannot be enabled in {folder}: {last}")


def _move_processes(folder: Path, leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)
    for pid in (folder / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (leaf / "cgroup.procs").write_text(pid)
