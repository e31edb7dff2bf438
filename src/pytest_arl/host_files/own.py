"""A folder that this side keeps things in for itself: its own, or made now."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.host_files.folders import Folder, open_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_own", "open_own"]


def open_own(path: Path, *, make: bool = True) -> Folder:
    """The folder at a path, made where it is missing. UsageError where it is a link or another user's."""
    if path.name in ("", ".."):
        folder = open_folder(path)
        check_own(os.fstat(folder.fd), folder, b"")
        return folder
    name = os.fsencode(path.name)
    with open_folder(path.parent, make=make) as parent:
        if make:
            with suppress(FileExistsError):
                parent.make(name)
        check_own(parent.look(name), parent, name)
        folder = parent.below(name)
    folder.shown = str(path)
    return folder


def check_own(state: os.stat_result | None, folder: Folder, name: bytes) -> None:
    """Raise UsageError for a link, and for what another user could change."""
    path = folder.path(name)
    if state is None:
        return
    if stat.S_ISLNK(state.st_mode):
        raise UsageError(f"{path} is a link to {folder.link_to(name)!r}: remove it, or name its target")
    if state.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to {_user(state.st_uid)}: name a folder in it that does not exist yet")


def _user(uid: int) -> str:
    with suppress(KeyError):
        return f"the user {pwd.getpwuid(uid).pw_name}"
    return f"the user with the id {uid}"
