"""One file at a time: find out what a path means, write it whole or not at all, read it.

The agent runs as the steps' user in their mounts, so that the kernel decides what may be touched. What it must look
out for itself are paths that lead to its *own* descriptors: a link such as /proc/self/fd/3. Every path is therefore
resolved to one without links first, and opened in a way that follows none (see ``system.open_plain``).
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_arl.agent import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "OpenedUp",
    "Places",
    "make_parents",
    "mode_of",
    "open_for_reading",
    "remove_tree",
    "replace_file",
    "temporary_name",
    "write_all",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Places:
    """A path of the host's in the sandbox: relative ones are under the workspace."""

    def __init__(self, workspace: bytes) -> None:
        self._workspace = workspace

    def absolute(self, path: bytes) -> bytes:
        """The path from the root, as it stands. OSError for one that no file can have."""
        if not path or b"\0" in path:
            raise OSError(errno.EINVAL, "a path is empty or holds a NUL byte")
        return os.path.join(self._workspace, path)

    def real(self, path: bytes) -> bytes:
        """The path from the root with every link resolved, that of its last part too.

        OSError for what the kernel would not walk either: Python has no bound on links, only one on recursion.
        """
        whole = self.absolute(path)
        try:
            os.stat(whole)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise
        try:
            return os.path.realpath(whole)
        except RecursionError:  # a link was changed meanwhile
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), whole) from None


def make_parents(path: bytes) -> None:
    """Make the folders above a resolved path, 0755."""
    missing = []
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)


def temporary_name() -> bytes:
    """A name that nothing has: what a step could know beforehand, it could put a FIFO at."""
    return b".arl-" + os.urandom(8).hex().encode() + b".tmp"


def open_for_reading(path: bytes) -> tuple[int, os.stat_result]:
    """Open a resolved path for reading: a regular file or a folder, and nothing of procfs."""
    try:
        fd = system.open_plain(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        fd = _open_own_unreadable(path)
    state = os.fstat(fd)
    problem = None
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        problem = errno.EINVAL, "neither a file nor a folder"
    elif path.startswith(b"/proc/") or state.st_dev == os.stat("/proc").st_dev:
        problem = errno.EACCES, "files in /proc cannot be read from outside the sandbox; run cat in it"
    if problem is not None:
        os.close(fd)
        raise OSError(*problem, path)
    return fd, state


def _open_own_unreadable(path: bytes) -> int:
    """Open a file whose mode forbids even its owner to read: its owner may change that, for the moment."""
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    os.chmod(path, state.st_mode | stat.S_IRUSR)
    try:
        return system.open_plain(path, os.O_RDONLY | os.O_NONBLOCK)
    finally:
        os.chmod(path, stat.S_IMODE(state.st_mode))


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: bytes, content: bytes | memoryview, mode: int | None) -> None:
    """Put a file at a resolved path: a reader sees the old one or the new one, never a part.

    ``mode`` None keeps the mode of the file that was there, or is 0644. OSError leaves everything as it was, but
    for new folders above.
    """
    if mode is not None and mode & ~0o7777:
        raise OSError(errno.EINVAL, "a mode must be a number from 0 to 0o7777")
    make_parents(path)
    folder, name = os.path.split(path)
    parent = system.open_plain(folder, _DIRECTORY)
    temporary = temporary_name()
    try:
        mode = mode_of(name, parent) if mode is None else mode
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            write_all(fd, content)
            os.fchmod(fd, mode)
            _check_size(fd, len(content))
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            os.unlink(temporary, dir_fd=parent)
            raise
        finally:
            os.close(fd)
    finally:
        os.close(parent)


def _check_size(fd: int, size: int) -> None:
    if os.fstat(fd).st_size != size:
        raise OSError(errno.EIO, "the file does not have the size that was written")


def mode_of(path: bytes, folder: int | None = None) -> int:
    """The mode of the file that is to be replaced, 0644 for a new one."""
    try:
        there = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return stat.S_IMODE(there.st_mode)


def remove_tree(path: bytes) -> None:
    """Remove a file, a link, or a folder with all it holds; its modes are no obstacle, its absence no error.

    Folders in it are moved up first, so that neither their depth nor the length of their paths is one.
    """
    if _removed(path):
        return
    folders = [path]
    for folder in folders:
        for name in os.listdir(folder):
            inner = folder + b"/" + name
            if not _removed(inner):
                moved = path + b"/" + temporary_name()
                os.rename(inner, moved)
                folders.append(moved)
    for folder in reversed(folders):
        os.rmdir(folder)


def _removed(path: bytes) -> bool:
    """Remove what is no folder; a folder is opened up."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise
        _open_up(path, mode)
        return False
    return True


def _open_up(folder: bytes, mode: int) -> None:
    if mode & 0o700 != 0o700:
        os.chmod(folder, stat.S_IMODE(mode) | 0o700)


class OpenedUp:
    """Folders whose modes forbid even their owner to work in them, changed until the end of a ``with`` block."""

    def __init__(self) -> None:
        self._modes: list[tuple[bytes, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder, mode in reversed(self._modes):
            try:
                os.chmod(folder, mode)
            except OSError:
                pass  # it was removed meanwhile

    def add(self, folder: bytes, state: os.stat_result) -> None:
        """Open up a folder, if it is the sandbox's own and needs it."""
        if state.st_mode & 0o700 != 0o700 and state.st_uid == os.getuid():
            _open_up(folder, state.st_mode)
            self._modes.append((folder, stat.S_IMODE(state.st_mode)))
