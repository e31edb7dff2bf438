"""The plan of a pool: everything that its sandboxes are started with, but what differs from one to the next.

A plan is made once for a pool (its mounts and root folder are judged then) and started many times.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.agent_package import bundle
from pytest_arl.backends.local import identity, inherited_limits, interpreter
from pytest_arl.backends.local.cgroups import SPARE_PROCESSES, CgroupLimits
from pytest_arl.backends.local.layout import Argument, Content, HeldSource, Layout
from pytest_arl.backends.local.mounts import add_mounts
from pytest_arl.backends.local.namespaces import namespace_arguments
from pytest_arl.backends.local.roots import add_root, can_overlay, check_root
from pytest_arl.backends.local.seccomp import filter_bytes
from pytest_arl.backends.local.sockets import SocketWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.backends.local.mount_sources import Sources
    from pytest_arl.backends.local.probe import Host
    from pytest_arl.backends.local.survey import Survey
    from pytest_arl.pools import LocalPool

__all__ = ["HOME", "TMP", "WORKSPACE", "Plan", "make_plan"]

WORKSPACE = "/workspace"
HOME = "/home/arl"
TMP = "/tmp"  # noqa: S108 - the sandbox's own
_PRELOAD = "/etc/ld.so.preload"
"""Libraries named here in a root folder get into every program, by its loader and the agent's: into the agent too, and
as root while that still has capabilities.
"""
_ROOM = 1024 * 1024
"""Bytes for the folders of /arl."""
_NOTHING = "/dev/null"
_KEYRINGS = ("/proc/keys", "/proc/key-users")
"""No namespace sets keys apart: an ordinary user's own would be listed inside."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan by which sandboxes of one pool are started.

    Attributes:
        pool: the pool as it was when the plan was made.
        bwrap: the bubblewrap to use.
        arguments: its options, but for the descriptors of one sandbox.
        command: the agent's interpreter and its flags, inside.
        env: the steps' base environment.
        rlimits: resource limits by name, as the agent takes them.
        limits: for the cgroup.
        counted: the folders whose files have bounds of their own, and so are no memory.
        memory: bytes for the agent to watch over itself, where no cgroup does; else None.
        isolation: the tier.
        sources: who holds the folders and files of this machine that its sandboxes get.
        held: those of them that must be where they were, at each start.
        by_path: whether one of them is bound by path, for want of another way.
        shared: what its sandboxes can write, and where they see it.
        sockets: who looks for sockets in what its sandboxes see.
    """

    pool: LocalPool
    bwrap: str
    arguments: tuple[Argument, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    rlimits: Mapping[str, int]
    limits: CgroupLimits
    counted: tuple[str, ...]
    memory: int | None
    isolation: str
    sources: Sources
    held: tuple[HeldSource, ...]
    by_path: bool
    shared: Mapping[Path, str]
    sockets: SocketWatch

    def arguments_without(self, hidden: tuple[str, ...]) -> tuple[Argument, ...]:
        """The arguments, with /dev/null in the place of these files."""
        return self.arguments + tuple(word for path in hidden for word in ("--ro-bind", _NOTHING, path))

    def check(self) -> tuple[str, ...]:
        """Raise BackendUnavailable where something of this machine was replaced since the plan was made, or where a
        socket has appeared in what the pool names. Gives the paths of those that a sandbox must not see.
        """
        self.check_sources()
        return self.sockets.look()

    def check_sources(self) -> None:
        """Raise BackendUnavailable where something of this machine was replaced since the plan was made. What goes by
        another of its names now is looked up by that, as bubblewrap needs one that holds.
        """
        for held in self.held:
            self.sources.require(held.source, held.what)


def make_plan(pool: LocalPool, host: Host, survey: Survey) -> Plan:
    """Judge the pool and lay its sandboxes out. Raises UsageError, and BackendUnavailable."""
    __tracebackhide__ = True
    layout = Layout(survey.sources)
    bwrap = host.bwrap
    if pool.root is None:
        command = _lay_host(layout, pool, host, survey)
    else:
        bwrap, command = _lay_root(layout, pool, host, survey)
    rlimits = _rlimits(pool, cgroup=host.cgroups)
    inherited_limits.refuse_unreachable(pool, rlimits)
    arguments = namespace_arguments(privileged=host.privileged, network=pool.network)
    return Plan(
        pool=pool,
        bwrap=bwrap,
        arguments=(*arguments, *_agent_environment(), *layout.arguments, "--seccomp", Content(filter_bytes())),
        command=(*command, "-c", bundle.BOOT),
        env=_environment(pool),
        rlimits=rlimits,
        limits=CgroupLimits(pool.memory, pool.workspace + 2 * pool.tmp, pool.processes, pool.cpus),
        counted=(WORKSPACE, TMP, HOME, *(["/"] if "--tmp-overlay" in layout.arguments else [])),
        memory=None if host.cgroups else pool.memory,
        isolation=host.tier,
        sources=survey.sources,
        held=layout.held(),
        by_path="--overlay-src" in layout.arguments,
        shared=_shared(pool, survey),
        sockets=SocketWatch(layout.shown(), _given(pool, survey)),
    )


def _given(pool: LocalPool, survey: Survey) -> dict[str, str]:
    """Each path of this machine that the pool names, and the words for it in a message."""
    given = {}
    if pool.root is not None:
        given[survey.look_up(pool.root, pool.name).path] = f"pool {pool.name!r}: root {str(pool.root)!r}"
    for mount in pool.mounts:
        given[survey.look_up(mount.source, mount.text).path] = f"pool {pool.name!r}: mount {mount.text!r}"
    return given


def _agent_environment() -> tuple[str, ...]:
    return tuple(word for name, value in interpreter.ENVIRONMENT.items() for word in ("--setenv", name, value))


def _shared(pool: LocalPool, survey: Survey) -> dict[Path, str]:
    return {
        Path(survey.look_up(mount.source, mount.text).path): mount.target for mount in pool.mounts if mount.writable
    }


def _lay_host(layout: Layout, pool: LocalPool, host: Host, survey: Survey) -> tuple[str, ...]:
    """This machine's /usr and Python environment."""
    layout.programs()
    layout.alias("../tmp", "/var/tmp")  # noqa: S108 - the sandbox's own
    layout.folder("/run")
    for path, data in identity.identity_files(None).items():
        layout.file(path, data)
    identity.add_host_files(layout)
    if pool.network == "host":
        identity.add_resolver(layout)
    _add_own(layout, pool, host)
    interpreter.add_environment(layout)
    add_mounts(layout, pool, survey, as_other_user=host.privileged)
    _close(layout, read_only_root=True)
    return interpreter.host_command()


def _lay_root(layout: Layout, pool: LocalPool, host: Host, survey: Survey) -> tuple[str, tuple[str, ...]]:
    """A root folder, with the agent's interpreter beside it. Gives the bubblewrap to use too."""
    assert pool.root is not None
    folders = [WORKSPACE, HOME, TMP, interpreter.ARL, "/dev", "/proc"]
    files = [*identity.identity_files(None)]
    if pool.network == "host":
        files.append("/etc/resolv.conf")
    preload = os.path.lexists(pool.root / _PRELOAD.lstrip("/"))
    if preload:
        files.append(_PRELOAD)
    mounts = [mount.target for mount in pool.mounts]
    what = f"pool {pool.name!r}: root {str(pool.root)!r}"
    source = check_root(pool.root, what, survey, folders, files, mounts)
    targets = [*folders, *files, *mounts]
    root = Path(source.path)
    overlay = host.overlay_bwrap() if host.cgroups and can_overlay(root, targets) else None
    if overlay is not None:
        layout.overlay(source, what)
    else:
        add_root(layout, root, what, targets)
    for path, data in identity.identity_files(root).items():
        layout.cover(path, data)
    if preload:
        layout.cover(_PRELOAD, b"")
    if pool.network == "host":
        identity.add_resolver(layout)
    _add_own(layout, pool, host)
    # Before anything is put there: whatever the root folder has below this name would be part of the agent.
    layout.tmpfs(interpreter.ARL, _ROOM, 0o755)
    command = interpreter.add_companion(layout)
    add_mounts(layout, pool, survey, as_other_user=host.privileged)
    layout.finish("--remount-ro", interpreter.ARL)
    _close(layout, read_only_root=overlay is None)
    return overlay or host.bwrap, command


def _add_own(layout: Layout, pool: LocalPool, host: Host) -> None:
    """Add the folders that every sandbox has of its own, each with a bound."""
    layout.proc(outer=host.outer_proc)
    layout.dev()
    layout.tmpfs("/dev/shm", pool.memory, 0o1777)  # noqa: S108 - the sandbox's own
    layout.tmpfs(TMP, pool.tmp, 0o1777)
    layout.tmpfs(HOME, pool.tmp, 0o755)
    layout.tmpfs(WORKSPACE, pool.workspace, 0o755)


def _close(layout: Layout, *, read_only_root: bool) -> None:
    """Last: what bubblewrap leaves writable of its own making."""
    layout.kernel_settings()
    layout.finish("--remount-ro", "/dev")
    for keys in _KEYRINGS:
        if Path(keys).exists():
            layout.finish("--ro-bind", _NOTHING, keys)
    layout.close_passages()
    if read_only_root:
        layout.finish("--remount-ro", "/")
    layout.finish("--chdir", WORKSPACE)


def _environment(pool: LocalPool) -> dict[str, str]:
    return {
        "PATH": interpreter.search_path(host=pool.root is None),
        "HOME": HOME,
        "USER": identity.USER,
        "LOGNAME": identity.USER,
        "LANG": "C.UTF-8",
        **pool.env,
    }


def _rlimits(pool: LocalPool, *, cgroup: bool) -> dict[str, int]:
    """Resource limits: a second line beside a cgroup, and without one the only bound of a single process."""
    stack = inherited_limits.UNLIMITED if pool.stack is None else pool.stack
    limits = {**inherited_limits.FIXED, "NOFILE": pool.files, "STACK": stack}
    if not cgroup:
        limits["NPROC"] = pool.processes + SPARE_PROCESSES
    return limits
