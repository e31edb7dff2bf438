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

__all__ = ["Places", "make_parents", "open_for_reading", "remove_tree", "replace_file", "write_all"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Places:
    """What a path of the host's means in the sandbox: relative ones are under the workspace."""

    def __init__(self, workspace: bytes) -> None:
        self._workspace = workspace

    def absolute(self, path: bytes) -> bytes:
        """The path from the root, its links not followed. OSError for one that no file can have."""
        if not path or b"\0" in path:
            raise OSError(errno.EINVAL, "a path is empty or holds a NUL byte")
        return os.path.join(self._workspace, path)

    def real(self, path: bytes) -> bytes:
        """The path from the root with every link resolved, that of its last part too."""
        return os.path.realpath(self.absolute(path))

    def real_parent(self, path: bytes) -> bytes:
        """The same, but a link in the last part is meant itself."""
        folder, name = os.path.split(self.absolute(path))
        if name in (b"", b".", b".."):
            return self.real(path)
        return os.path.join(os.path.realpath(folder), name)


def make_parents(path: bytes) -> None:
    """Make the folders above a resolved path, 0755."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        make_parents(folder)
        os.mkdir(folder, 0o755)


def open_for_reading(path: bytes) -> tuple[int, os.stat_result]:
    """Open a resolved path for reading: a regular file or a folder, and nothing of procfs."""
    try:
        fd = system.open_plain(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        fd = _open_own_unreadable(path)
    state = os.fstat(fd)
    problem = None
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        problem = OSError(errno.EINVAL, "neither a file nor a folder")
    elif state.st_dev == os.stat("/proc").st_dev:
        problem = OSError(errno.EACCES, "nothing of /proc is read from outside; run cat in the sandbox")
    if problem is not None:
        os.close(fd)
        raise problem
    return fd, state


def _open_own_unreadable(path: bytes) -> int:
    """Open a file whose mode forbids even its owner to read: its owner may change that, for the moment."""
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
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


def replace_file(path: bytes, content: bytes, mode: int | None) -> None:
    """Put a file at a resolved path: a reader sees the old one or the new one, never a part.

    ``mode`` None keeps the mode of the file that was there, or is 0644. OSError leaves everything as it was, but
    for new folders above.
    """
    make_parents(path)
    folder, name = os.path.split(path)
    parent = system.open_plain(folder, _DIRECTORY)
    temporary = b".arl-%d.tmp" % os.getpid()
    try:
        mode = _mode_for(name, parent) if mode is None else mode
        fd = _open_new(temporary, parent)
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


def _open_new(name: bytes, parent: int) -> int:
    """A new file. One of that name is a step's doing (a FIFO there would block us for ever), and goes."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o600, dir_fd=parent)
    except FileExistsError:
        os.unlink(name, dir_fd=parent)
        return os.open(name, flags, 0o600, dir_fd=parent)


def _check_size(fd: int, size: int) -> None:
    if os.fstat(fd).st_size != size:
        raise OSError(errno.EIO, "the file has not the size that was written")


def _mode_for(name: bytes, parent: int) -> int:
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return stat.S_IMODE(there.st_mode)


def remove_tree(path: bytes) -> None:
    """Remove a file, a link, or a folder with all it holds; its modes are no obstacle, its absence no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            names = [entry.path for entry in entries]
        for name in names:
            remove_tree(name)
        os.rmdir(path)
