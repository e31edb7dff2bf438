"""Hard links: a file of the running environment may have a second name in a writable mount.

Installers that link from a cache (uv does so by default) make thousands of them; who writes to the cache then writes to
what pytest imports.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import fixed, inside, trace
from pytest_arl.backends.local.pins import refuse_closed
from pytest_arl.backends.local.survey import Kind
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pytest_arl.backends.local.mount_sources import MountSource
    from pytest_arl.backends.local.survey import Survey

__all__ = ["refuse_aliases"]

_KINDS = (Kind.PROGRAM, Kind.IMPORTS, Kind.METADATA, Kind.SETTINGS)


def refuse_aliases(
    survey: Survey, source: MountSource, read_only: Collection[str], what: str, *, as_other_user: bool
) -> None:
    """Raise UsageError where what a sandbox can write in a mount is also what this process reads or imports.

    Args:
        survey: what that is.
        source: the mount's.
        read_only: names in it that are pinned.
        what: the mount, for the message.
        as_other_user: whether the sandbox runs as a uid that owns nothing.
    """
    apart = {os.path.join(source.path, name) for name in read_only}
    linked = {
        (status.st_dev, status.st_ino): path
        for path, status in _files(source.path, apart, what)
        if status.st_nlink > 1 and _may_write(status, as_other_user=as_other_user)
    }
    for kept in survey.kept if linked else ():
        if kept.kind not in _KINDS:
            continue
        with suppress(OSError, RuntimeError):
            end = trace(kept.path).end
            if fixed(end) or inside(os.stat(end), source.path) is not None:
                continue
            for path, status in _files(end, set()):
                alias = linked.get((status.st_dev, status.st_ino))
                if alias is not None:
                    raise UsageError(
                        f"{what}: {alias} is the same file as {path} (a hard link), and that is {kept.kind.value}: "
                        "copy one of them (uv has `--link-mode=copy`), or mount it :ro"
                    )


def _may_write(status: os.stat_result, *, as_other_user: bool) -> bool:
    if as_other_user:
        return bool(status.st_mode & stat.S_IWOTH)
    return status.st_uid == os.geteuid() or bool(status.st_mode & (stat.S_IWOTH | stat.S_IWGRP))


def _files(top: str, without: set[str], writable: str | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files of a folder, or a file itself; links are not followed.

    Where a sandbox can write there, ``writable`` says whose it is: UsageError for a closed folder, which it could open.
    """
    status = os.lstat(top)
    if not stat.S_ISDIR(status.st_mode):
        yield top, status
        return
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.path in without:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and (found := _status(entry)) is not None:
                        yield entry.path, found
        except PermissionError:
            if writable is not None:
                refuse_closed(folder, writable)
        except OSError:
            pass  # it has just gone


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # it has just gone
