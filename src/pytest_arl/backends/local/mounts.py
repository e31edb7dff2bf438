"""Rules for the folders of this machine that a pool may mount, judged before anything is started.

What a mount can give away is not obvious: a socket or FIFO in a read-only mount still connects to whoever serves it, a
writable mount with a ``.git`` lets a sandbox plant hooks that run on the host. Each refusal is a UsageError with the
way out.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local.aliases import refuse_aliases
from pytest_arl.backends.local.homes import is_home, known_homes
from pytest_arl.backends.local.interpreter import part_of_agent
from pytest_arl.backends.local.paths import canonical
from pytest_arl.backends.local.pins import REPOSITORIES, find_pins, refuse_closed
from pytest_arl.errors import UsageError
from pytest_arl.host_files.late_imports import freeze_imports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.backends.local.layout import Layout
    from pytest_arl.backends.local.mount_sources import MountSource
    from pytest_arl.backends.local.survey import Survey
    from pytest_arl.pools import LocalPool, Mount

__all__ = ["RESERVED", "add_mounts", "refuse_source", "refuse_special_files"]

RESERVED = ("/arl", "/dev", "/proc", "/sys")
"""Folders that cannot be a mount's target, and nothing below them."""
_LOADER = ("/etc/ld.so.preload", "/etc/ld.so.cache")
"""Files by which the loader finds libraries for every program, the agent included, whatever that is told."""
_OWN = ("/", "/workspace", "/tmp", "/home", "/home/arl", "/etc")  # noqa: S108 - the sandbox's own
_HOSTS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_KERNEL = ("/dev", "/proc", "/sys")
_KINDS = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "FIFO", stat.S_IFBLK: "block device", stat.S_IFCHR: "character device"}


def add_mounts(layout: Layout, pool: LocalPool, survey: Survey, *, as_other_user: bool) -> None:
    """Check and bind the pool's mounts, outer ones first.

    Args:
        layout: where to.
        pool: whose.
        survey: what they mean.
        as_other_user: whether the sandbox runs as a uid that owns nothing, as it does where pytest is root.
    """
    seen: set[str] = set()
    for mount in sorted(pool.mounts, key=lambda mount: (mount.target.count("/"), mount.target)):
        what = f"pool {pool.name!r}: mount {mount.text!r}"
        source = _check_source(mount, pool, survey, what)
        _check_target(mount.target, pool, what)
        if mount.target in seen:
            raise UsageError(f"{what}: another mount has the target {mount.target} already")
        seen.add(mount.target)
        layout.check_target(mount.target, what)
        if pool.root is None and layout.hides_host(mount.target):
            _refuse_agent(mount.target, what)
        path = Path(source.path)
        repositories = refuse_special_files(path, what, writable=mount.writable)
        if as_other_user:
            _check_rights(path, what, writable=mount.writable)
        layout.pin(mount.target, what)
        layout.hold(source, mount.target, what, writable=mount.writable)
        if mount.writable:
            pins = find_pins(survey, pool, mount, source, repositories, what)
            read_only = [pin.name for pin in pins if not pin.writable]
            refuse_aliases(survey, source, read_only, what, as_other_user=as_other_user)
            freeze_imports(source.status, source.path)
            for pin in pins:
                target = f"{mount.target}/{pin.name}"
                layout.pin(target, what)
                layout.bind(path / pin.name, target, what, writable=pin.writable, held=True)


def refuse_source(source: Path, what: str) -> None:
    """Raise UsageError for the folders that hold everything: /, /run, /tmp, homes, and what is above them."""
    for kept in (*map(os.path.realpath, ("/run", "/tmp")), *known_homes()):  # noqa: S108 - the sandbox's own
        if source == Path(kept) or source in Path(kept).parents:
            _refuse_everything(source, what)
    with suppress(OSError):
        if is_home(str(source)):
            _refuse_everything(source, what)
    for top in _KERNEL:
        if source.is_relative_to(top):
            raise UsageError(f"{what}: {source} belongs to the kernel of this machine, which no sandbox may see")


def _refuse_everything(source: Path, what: str) -> None:
    raise UsageError(f"{what}: {source} contains more of this machine than a sandbox may see: name a folder below it")


def _check_source(mount: Mount, pool: LocalPool, survey: Survey, what: str) -> MountSource:
    try:
        source = survey.look_up(mount.source, what)
    except PermissionError as error:
        raise UsageError(f"{what}: {error.filename or mount.source} cannot be reached: {error.strerror}") from None
    except (OSError, RuntimeError):
        raise UsageError(f"{what}: {mount.source} does not exist (relative paths start at {pool.base_dir})") from None
    path = Path(source.path)
    base = canonical(os.path.realpath(pool.base_dir))
    if not mount.text.startswith(("/", "~")) and not path.is_relative_to(base):
        raise UsageError(
            f"{what}: leads out of {pool.base_dir}, to {path}: write the absolute path if that is intended"
        )
    refuse_source(path, what)
    if not source.is_folder() and not stat.S_ISREG(source.status.st_mode):
        raise UsageError(f"{what}: {path} is neither a folder nor a regular file")
    return source


def _check_target(target: str, pool: LocalPool, what: str) -> None:
    if any(target == top or target.startswith(f"{top}/") for top in RESERVED):
        raise UsageError(f"{what}: {target} is reserved for the sandbox itself: choose another target, such as /src")
    if target in _LOADER:
        raise UsageError(f"{what}: {target} controls what the agent in a sandbox loads: choose another target")
    refused = (*_OWN, *_HOSTS) if pool.root is None else _OWN
    if target in refused:
        raise UsageError(
            f"{what}: {target} is a folder of the sandbox: choose a target below it, or another, such as /src"
        )
    if pool.root is None and Path("/", Path(target).parts[1]).is_symlink() and f"/{Path(target).parts[1]}" in _HOSTS:
        raise UsageError(f"{what}: {target} leads through a symbolic link: write the path it leads to")


def _refuse_agent(target: str, what: str) -> None:
    part = part_of_agent(target)
    if part:
        raise UsageError(
            f"{what}: the sandbox's agent is loaded from {part}, which this would replace: choose another target, "
            "such as /src"
        )


def refuse_special_files(
    source: Path, what: str, *, without: tuple[str, ...] = (), devices: bool = False, writable: bool = False
) -> list[str]:
    """Raise UsageError where something that is no file, folder or link lies in ``source``.

    Args:
        source: a file or folder of the host.
        what: whose, for the message.
        without: names at the top that are not looked at.
        devices: whether device nodes are refused too.
        writable: whether folders of ours that nobody can look into are refused too: a sandbox could open them.

    Returns: the version control folders found, relative to ``source``.
    """
    refused = tuple(_KINDS) if devices else (stat.S_IFSOCK, stat.S_IFIFO)
    repositories = []
    for path, kind in _walk(source, without, what if writable else None):
        if kind in refused:
            raise UsageError(
                f"{what}: {path} is a {_KINDS[kind]}, and even a read-only mount lets a sandbox connect to it: "
                "remove it, or mount a folder without it"
            )
        if os.path.basename(path) in REPOSITORIES:  # noqa: PTH119 - a string in, a string out
            repositories.append(os.path.relpath(path, source))
    return repositories


def _walk(source: Path, without: tuple[str, ...], writable: str | None) -> Iterator[tuple[str, int]]:
    """Path and kind of everything below, links not followed. What cannot be read shows nothing to a sandbox either,
    unless that can write there: ``writable`` then says whose it is, for the UsageError.
    """
    pending = [str(source)] if source.is_dir() else []
    top = True
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not (top and entry.name in without) and (kind := _kind(entry)):
                        if kind == stat.S_IFDIR:
                            pending.append(entry.path)
                        yield entry.path, kind
        except PermissionError:
            if writable is not None:
                refuse_closed(folder, writable)
        except OSError:
            pass  # gone
        top = False


def _kind(entry: os.DirEntry[str]) -> int:
    """The kind of what has to be looked at; 0 for plain files and what has just gone."""
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG if entry.name in REPOSITORIES else 0
    with suppress(OSError):
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    return 0


def _check_rights(source: Path, what: str, *, writable: bool) -> None:
    """Check a mount's mode as root: a sandbox has a uid of its own then and may do what everybody may."""
    mode = source.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0) | (stat.S_IWOTH if writable else 0)
    if mode & needed != needed:
        verb, letters = ("write", "rwX") if writable else ("read", "rX")
        raise UsageError(
            f"{what}: pytest runs as root, so the sandbox runs as a user of its own, which cannot {verb} {source}: "
            f"`chmod -R o+{letters} {source}`, or run pytest as the user who owns it"
        )
