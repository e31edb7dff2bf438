"""Paths of this machine as a pool names them: where they lead, over which links, and what lies in what."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Way", "ancestry", "canonical", "closed_folder", "fixed", "inside", "trace"]

_MOST_LINKS = 40
"""The bound of the kernel."""
_FIRST_USER = 1000
"""Smaller uids belong to services of the machine."""


@dataclass(frozen=True, slots=True)
class Way:
    """A path that was followed.

    Attributes:
        end: where it leads, without a link.
        links: the symbolic links on the way, each by a path without a further one.
    """

    end: str
    links: tuple[str, ...]


def canonical(path: str | Path) -> str:
    """An absolute path in its one spelling; ``..`` is taken off as text.

    ``os.path.normpath`` keeps two leading slashes, as POSIX allows, and so two names for each path.
    """
    return "/" + os.path.normpath(path).lstrip("/")


def trace(path: str | Path) -> Way:
    """Follow an absolute path. Raises OSError where something on it does not exist, or links go in circles."""
    pending = [part for part in os.fspath(path).split("/") if part not in ("", ".")]
    here = "/"
    links: list[str] = []
    while pending:
        part = pending.pop(0)
        if part == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        if not stat.S_ISLNK(os.lstat(step).st_mode):
            here = step
            continue
        links.append(step)
        if len(links) > _MOST_LINKS:
            raise RuntimeError(f"too many symbolic links: {path}")
        text = os.readlink(step)
        here = "/" if text.startswith("/") else here
        pending = [word for word in text.split("/") if word not in ("", ".")] + pending
    return Way(here, tuple(links))


def ancestry(path: str) -> dict[tuple[int, int], str]:
    """The folders that hold a path without links, and the path itself, by device and inode.

    By these, not by name: a folder may be mounted at a second place of this machine.
    """
    found: dict[tuple[int, int], str] = {}
    here = path
    while True:
        status = os.lstat(here)
        found.setdefault((status.st_dev, status.st_ino), here)
        if here == "/":
            return found
        here = os.path.dirname(here)


def inside(folder: os.stat_result, path: str) -> str | None:
    """The path's name within a folder, "" where it is the folder itself; None where it is elsewhere, or gone.

    PermissionError where a folder on the way to it is closed to us: see :func:`closed_folder`.
    """
    try:
        top = ancestry(path).get((folder.st_dev, folder.st_ino))
    except PermissionError:
        raise
    except OSError:
        return None
    if top is None:
        return None
    return "" if top == path else os.path.relpath(path, top)


def closed_folder(path: str) -> str | None:
    """The folder whose mode has just kept us from a path, if it is ours; None where it is somebody else's.

    A sandbox of an ordinary user has the same rights: it can close a folder so that what must be kept in it is not
    seen, and open it again. Where nothing is closed any more, it is being changed
    just now, and the path itself comes back.
    """
    here = path
    while here != "/":
        with suppress(OSError):
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode) and not os.access(here, os.R_OK | os.X_OK):
                return here if status.st_uid == os.geteuid() else None
        here = os.path.dirname(here)
    return path


def fixed(path: str) -> bool:
    """True if no sandbox can ever change what a path without links leads to.

    A sandbox has this user's rights, and with root's those of a user who owns nothing: it cannot touch names in folders
    of the machine's own accounts that nobody else may write.
    """
    mine = os.geteuid()
    here = path
    while True:
        try:
            status = os.lstat(here)
        except OSError:
            return False
        foreign = status.st_uid == 0 or (status.st_uid < _FIRST_USER and status.st_uid != mine)
        if not foreign or status.st_mode & 0o022 or stat.S_ISLNK(status.st_mode):
            return False
        if here == "/":
            return True
        here = os.path.dirname(here)
