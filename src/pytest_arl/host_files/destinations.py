"""The destination of a download, opened once, and the folder beside it that holds the data until it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.host_files.folders import Folder, is_folder, open_folder
from pytest_arl.host_files.merging import merge
from pytest_arl.host_files.named_links import link_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Destination"]

_STAGING = b".arl-download-"
_LOCKS_MISSING = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Destination:
    """The path that a download is to have: a new name in a folder, or a folder that is there.

    UsageError where it is a link to a folder: a repository may have brought it.
    """

    def __init__(self, path: Path) -> None:
        self._shown = str(path)
        self._name = b""
        self._parent: Folder | None = None
        self.folder: Folder | None = None
        """The existing folder into which the download is merged."""
        with ExitStack() as stack:
            if path.name in ("", ".."):
                self.folder = open_folder(path)
            else:
                self._name = os.fsencode(path.name)
                self._parent = stack.enter_context(open_folder(path.parent, make=True))
                self.folder = self._open()
            stack.pop_all()

    def _open(self) -> Folder | None:
        """The folder that is there; None where there is none. UsageError for a link to one."""
        if self._parent is None:
            return self.folder
        state = self._parent.look(self._name)
        if state is not None and stat.S_ISLNK(state.st_mode) and self._leads_to_folder():
            raise link_refused("download", Path(self._shown), self._parent.link_to(self._name))
        if not is_folder(state):
            return None
        folder = self._parent.below(self._name)
        folder.shown = self._shown
        return folder

    def _leads_to_folder(self) -> bool:
        assert self._parent is not None
        with suppress(OSError):
            return stat.S_ISDIR(os.stat(self._name, dir_fd=self._parent.fd).st_mode)
        return False

    def close(self) -> None:
        """Let go of its descriptors."""
        for folder in (self.folder, self._parent):
            if folder is not None:
                folder.close()

    @contextmanager
    def staging(self) -> Iterator[Folder]:
        """A new folder on the destination's file system, so that what is complete can be moved at once.

        It is locked while it is used: one without a lock was left by a process that was killed, and goes now.
        """
        beside = self.folder or self._parent
        assert beside is not None
        _sweep(beside)
        name, folder, lock = _new(beside)
        try:
            yield folder
        finally:
            folder.close()
            beside.remove(name)
            if lock >= 0:
                os.close(lock)

    def put(self, staging: Folder, name: bytes) -> None:
        """Move what came to where it belongs; nothing is moved where something is in the way."""
        if self.folder is None:
            self.folder = self._open()  # somebody may have made one meanwhile
        if is_folder(staging.look(name)):
            if self.folder is not None:
                with staging.below(name) as root:
                    merge(root, self.folder)
                return
            assert self._parent is not None
            if self._parent.look(self._name) is not None:
                raise UsageError(f"download: {self._shown} is in the way of a folder")
        elif self.folder is not None:
            raise UsageError(
                f"download: {self._shown} is a folder; name the file that is to be written, such as "
                f"{Path(self._shown, 'result.txt')}"
            )
        assert self._parent is not None
        staging.move(name, self._parent, self._name)


def _sweep(beside: Folder) -> None:
    """Remove what downloads left that were killed: ours only, and none that is in use."""
    with suppress(OSError):
        for name in beside.names():
            if name.startswith(_STAGING):
                with suppress(OSError):
                    lock = _lock(beside, name)
                    try:
                        if os.fstat(lock).st_uid == os.geteuid():
                            beside.remove(name)
                    finally:
                        os.close(lock)


def _new(beside: Folder) -> tuple[bytes, Folder, int]:
    """A new folder, and the descriptor that holds its lock, or -1 on a file system without locks."""
    while True:
        name = _STAGING + secrets.token_hex(6).encode()
        try:
            beside.make(name, 0o700)
            lock = _lock(beside, name)
        except (FileExistsError, BlockingIOError, FileNotFoundError):
            continue  # another download here took it for one that was left
        except OSError as error:
            if error.errno not in _LOCKS_MISSING:
                raise
            lock = -1  # nobody takes it either
        return name, beside.below(name), lock


def _lock(beside: Folder, name: bytes) -> int:
    """A descriptor that holds the folder's lock. BlockingIOError where another holds it, FileNotFoundError where it
    is gone.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=beside.fd)
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = beside.look(name)
        if there is not None and os.path.samestat(os.fstat(descriptor), there):
            stack.pop_all()
            return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), beside.path(name))
