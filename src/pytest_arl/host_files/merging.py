"""Move a folder's content into another folder that is there, folder by folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.host_files.folders import is_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.host_files.folders import Folder

__all__ = ["merge"]

_READ = os.O_RDONLY


def merge(root: Folder, into: Folder) -> None:
    """Move everything in ``root``: files and links take the place of files and links, and folders are merged.

    UsageError, before anything is moved, where a folder and something else have the same name.
    """
    for below, names in list(_moves(root, into)):
        with root.below(below) as here, into.below(below) as there:
            for name in names:
                here.move(name, there, name)


def _moves(root: Folder, into: Folder) -> Iterator[tuple[bytes, list[bytes]]]:
    """Folders that both sides have, and the names in each that are to be moved."""
    pending = [b""]
    while pending:
        below = pending.pop()
        with root.below(below, _READ) as here, into.below(below) as there:
            _same_file_system(here, there)
            names = []
            for name, comes in _entries(here):
                state = there.look(name)
                if comes and is_folder(state):
                    pending.append(below + b"/" + name if below else name)
                elif state is not None and (comes or is_folder(state)):
                    raise UsageError(
                        f"download: {there.path(name)} is in the way: a link, or a file in place of a folder: "
                        "remove it, or download to another place"
                    )
                else:
                    names.append(name)
        yield below, names


def _entries(folder: Folder) -> Iterator[tuple[bytes, bool]]:
    """Names, and whether each is a folder."""
    with os.scandir(folder.fd) as entries:
        for entry in entries:
            yield os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)


def _same_file_system(here: Folder, there: Folder) -> None:
    if os.fstat(here.fd).st_dev != os.fstat(there.fd).st_dev:
        raise UsageError(
            f"download: {there.shown} is on another file system than the folder above it, so files cannot be "
            "moved there atomically: download its content separately"
        )
