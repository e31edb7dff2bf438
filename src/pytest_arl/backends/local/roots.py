"""A pool's root folder: an unpacked image, which sandboxes see read-only or with their writes in memory.

Where bubblewrap can make overlays and a cgroup bounds the memory that they take, the root is an overlay. Elsewhere it
is put together in memory from the folder's entries, each bound read-only; a folder in which a mount point is missing is
put together in the same way, entry by entry, so that nothing is ever made in the root folder itself.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local.layout import Layout, check_components
from pytest_arl.backends.local.mounts import refuse_source, refuse_special_files
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.backends.local.mount_sources import MountSource
    from pytest_arl.backends.local.survey import Survey

__all__ = ["add_root", "can_overlay", "check_root"]

_SIGNS = ("bin", "etc", "lib", "lib64", "opt", "sbin", "srv", "usr", "var")
_REPLACED = ("dev", "proc")


def check_root(
    folder: Path, what: str, survey: Survey, folders: Iterable[str], files: Iterable[str], mounts: Iterable[str]
) -> MountSource:
    """The root folder. UsageError where it is none, holds what a sandbox must not reach, or has a link or a thing of
    the wrong kind where a mount point must be: a folder, a file, or either for a pool's mounts.
    """
    try:
        source = survey.look_up(folder, what)
    except (OSError, RuntimeError):
        raise UsageError(f"{what} does not exist") from None
    root = Path(source.path)
    if not source.is_folder():
        raise UsageError(f"{what} is not a folder: unpack the image's file system into one, and name that")
    if root == Path("/"):
        raise UsageError(f'{what} is this machine\'s own: write root = "host"')
    refuse_source(root, what)
    _check_shape(root, what)
    refuse_special_files(root, what, without=_REPLACED, devices=True)
    for target in (*folders, *files, *mounts):
        check_components(root, target, what)
        for above in list(Path(target).parents)[:-1]:
            _check_kind(root, str(above), what, folder=True)
    for target in folders:
        _check_kind(root, target, what, folder=True)
    for target in files:
        _check_kind(root, target, what, folder=False)
    return source


def _check_kind(root: Path, target: str, what: str, *, folder: bool) -> None:
    there = root / target.lstrip("/")
    try:
        mode = there.lstat().st_mode
    except OSError:
        return  # it will be made, in memory
    if stat.S_ISDIR(mode) != folder:
        is_, has = ("no folder", "folder") if folder else ("a folder", "file")
        raise UsageError(f"{what}: {there} is {is_}, and every sandbox has a {has} of its own there: remove it")


def _check_shape(root: Path, what: str) -> None:
    names = set(os.listdir(root))  # noqa: PTH208 - a string in, a string out
    if "oci-layout" in names or "manifest.json" in names:
        raise UsageError(
            f"{what} is an image that is not unpacked (layers, not files): unpack it, for example with `umoci unpack`"
        )
    if "rootfs" in names and not names.intersection(_SIGNS):
        raise UsageError(f"{what} is not a root file system; did you mean {str(root / 'rootfs')!r}?")
    programs = [name for name in names if (root / name).is_file() and os.access(root / name, os.X_OK)]
    if not names.intersection(_SIGNS) and not programs:
        raise UsageError(f"{what} is not a root file system: it has none of {', '.join(_SIGNS)}, and no programs")


def can_overlay(root: Path, targets: list[str]) -> bool:
    """True if the mount points can be made in an overlay: as an ordinary user only where the folders are one's own."""
    for target in targets:
        folder = root / target.lstrip("/")
        while not folder.exists():
            folder = folder.parent
        if folder.is_dir() and not os.access(folder, os.W_OK):
            return False
    return True


def add_root(layout: Layout, root: Path, what: str, targets: list[str]) -> None:
    """Put the root together from read-only binds, with room for every mount point."""
    _compose(layout, root, what, "", {target.lstrip("/") for target in targets})


def _compose(layout: Layout, folder: Path, what: str, inside: str, targets: set[str]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = f"{inside}/{entry.name}".lstrip("/")
        below = {target for target in targets if target.startswith(f"{path}/")}
        if path in targets or path in _REPLACED:
            continue  # covered by what is mounted there
        if entry.is_symlink():
            layout.symlink(str(Path(entry.path).readlink()), f"/{path}")
        elif all(_inside(folder, inside, target).exists() for target in below):
            layout.bind(Path(entry.path), f"/{path}", what)
        else:
            layout.folder(f"/{path}", stat.S_IMODE(entry.stat().st_mode) & 0o1777)
            _compose(layout, Path(entry.path), what, path, below)


def _inside(folder: Path, inside: str, target: str) -> Path:
    """A target's path on the host, from the folder that is being put together."""
    return folder / os.path.relpath(target, inside or ".")
