"""Links in a download: each must lead to something in it, judged where it will lie.

A text alone does not say where a link leads. A ``..`` counts from where the names before it lead, and these may be
links: of the download, or in the folder that the download is merged into. Folders are never replaced by a later
download, links are. So a link may go up through real folders only, and through no link that was there before: what is
judged today stays true.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.host_files.nearby import Nearby

if TYPE_CHECKING:
    from collections.abc import Container

    from pytest_arl.host_files import Folder

__all__ = ["Links"]

_MOST_LOOKS = 1_000_000
_FOLDER, _END, _OLD_LINK = "a folder", "where a walk ends", "a link that was there before"


class Links:
    """The links of one download."""

    def __init__(self, remote: str, destination: Folder | None) -> None:
        self._remote = remote
        self._destination = destination
        self._names: set[bytes] = set()
        self._doubtful: list[bytes] = []
        self._looked = 0

    def add(self, where: bytes, target: bytes) -> None:
        """One more. UsageError if its text leads out of the download."""
        parts = _parts(target)
        depth = where.count(b"/")
        lowest = depth
        for part in parts:
            depth += -1 if part == b".." else 1
            lowest = min(lowest, depth)
        if not where or not target or b"\0" in target or target.startswith(b"/") or lowest < 0:
            raise self._refused(where, target)
        self._names.add(where)
        if self._destination is not None or b".." in parts[_leading(parts) :]:
            self._doubtful.append(where)

    def check(self, root: Folder, folders: Container[bytes]) -> None:
        """Walk the links whose texts do not say enough.

        Args:
            root: the download.
            folders: the folders in it.
        """
        with ExitStack() as stack:
            self._folders = folders
            self._here = _nearby(root, stack)
            self._there = None if self._destination is None else _nearby(self._destination, stack)
            for where in self._doubtful:
                parent, _, name = where.rpartition(b"/")
                target = os.readlink(name, dir_fd=self._here.folder(parent))
                if not self._stays(parent, _parts(target)):
                    raise self._refused(where, target)

    def _stays(self, here: bytes, parts: list[bytes]) -> bool:
        """True if a link in the folder ``here`` stays in the download."""
        # The path as one piece: put together anew for each part, it takes three times as long where folders are deep.
        for index, part in enumerate(parts):
            if part == b"..":
                if not here:
                    return False
                here = here.rpartition(b"/")[0]
                continue
            path = here + b"/" + part if here else part
            kind = self._kind(path, here, part)
            if kind == _OLD_LINK:
                return False
            if kind != _FOLDER:
                return b".." not in parts[index:]
            here = path
        return True

    def _kind(self, path: bytes, parent: bytes, name: bytes) -> str:
        """The entry that will be at that path (that name in that folder): of the download, or else what is there."""
        self._looked += 1
        if self._looked > _MOST_LOOKS:
            raise UsageError(f"download of {self._remote}: its links have more than {_MOST_LOOKS} parts together")
        if path in self._folders:
            return _FOLDER
        if path in self._names or (parent in self._folders and _look(self._here, parent, name) is not None):
            return _END
        state = None if self._there is None else _look(self._there, parent, name)
        if state is None:
            return _END
        return _FOLDER if stat.S_ISDIR(state.st_mode) else _OLD_LINK if stat.S_ISLNK(state.st_mode) else _END

    def _refused(self, where: bytes, target: bytes) -> UsageError:
        what = repr(os.fsdecode(where)) if where else "it"
        return UsageError(
            f"download of {self._remote}: {what} is a link to {os.fsdecode(target)!r}, outside of what is downloaded: "
            "remove the link in the sandbox first, or download less"
        )


def _parts(target: bytes) -> list[bytes]:
    return [part for part in target.split(b"/") if part not in (b"", b".")]


def _leading(parts: list[bytes]) -> int:
    """The number of leading parts that go up: from the folder that the link lies in, which is no link."""
    return next((index for index, part in enumerate(parts) if part != b".."), len(parts))


def _nearby(folder: Folder, stack: ExitStack) -> Nearby:
    nearby = Nearby(folder.fd)
    stack.callback(nearby.close)
    return nearby


def _look(nearby: Nearby, parent: bytes, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=nearby.folder(parent), follow_symlinks=False)
    except OSError:
        return None  # not there, or the folder is not
