"""Files and folders in and out, in pieces, with sizes and a checksum.

A transfer is a row of entries, each followed by its data: ``{"p": path below the transfer's root ("" is the root
itself), "t": "d" | "f" | "l", "m": mode, "n": size, "to": target of a link, "at": mtime in ns}``, and an END with
the CRC-32 of all data. A hole comes as its length. A mode of None on the way in is that of the file to be replaced.
What comes in is built beside its destination and moved there when it is complete and checked, so that a transfer that
fails leaves nothing.
"""

from __future__ import annotations

import errno
import os

from pytest_arl.agent import entries, exact, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import EntryKey, HoleKey

__all__ = ["Arrival", "checksum"]

_KINDS = ("f", "d", "l")
_LONGEST_NAME = 1024 * 1024  # bytes of a path below the transfer's root: more than any folder is deep


class Arrival:
    """Files that come in, until ``finish``."""

    def __init__(self, destination: bytes, *, merge: bool) -> None:
        self._destination = destination
        files.make_parents(destination)
        inside = merge and os.path.isdir(destination)
        folder = destination if inside else os.path.dirname(destination)
        self._root = os.path.join(folder, files.temporary_name())
        self._fd = -1
        self._size = 0
        self._left = 0
        self._crc = 0
        self._count = 0
        self._folders: list[tuple[bytes, int, int]] = []

    def entry(self, entry: Said[EntryKey]) -> None:
        """The next file, folder or link."""
        self._complete()
        path = self._below(exact.data(entry, "p", _LONGEST_NAME))
        kind, mode = exact.word(entry, "t", _KINDS), exact.maybe(exact.integer, entry, "m", 0, 0o7777)
        mtime = entries.mtime(entry)
        if mode is None:
            mode = files.mode_of(self._destination)
        self._count += 1
        if kind == "d":
            os.mkdir(path, 0o700)
            self._folders.append((path, mode, mtime))
        elif kind == "l":
            os.symlink(exact.data(entry, "to", _LONGEST_NAME), path)
        else:
            size = exact.integer(entry, "n", 0, exact.LARGEST)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._size = self._left = size
            self._mode, self._mtime = mode, mtime

    def hole(self, request: Said[HoleKey]) -> None:
        """So many bytes of it are a hole."""
        size = exact.integer(request, "n", 1, exact.LARGEST)
        if self._fd < 0 or size > self._left:
            raise OSError(errno.EIO, "a hole outside the file")
        self._left -= size
        os.lseek(self._fd, size, os.SEEK_CUR)
        if not self._left:  # nothing is written behind it
            os.ftruncate(self._fd, self._size)

    def data(self, data: bytes) -> None:
        """More of the file that the last entry named."""
        if self._fd < 0 or len(data) > self._left:
            raise OSError(errno.EIO, "more data than the entry announced")
        files.write_all(self._fd, data)
        self._crc = checksum(data, self._crc)
        self._left -= len(data)

    def finish(self, crc: int) -> int:
        """Everything has come: check it, move it to its place, and give the number of entries."""
        self._complete()
        if crc != self._crc:
            raise OSError(errno.EIO, "the checksum of the received data is wrong")
        if not self._count:
            raise OSError(errno.EINVAL, "a transfer without entries")
        if _is_folder(self._root) and os.path.isdir(self._destination):
            self._check()
            self._merge()
            files.remove_tree(self._root)
        else:
            os.rename(self._root, self._destination)
        for path, mode, mtime in reversed(self._folders):
            final = self._destination + path[len(self._root) :]
            if os.lstat(final).st_uid == os.getuid():  # one that was there may be the sandbox's own
                os.chmod(final, mode)
                os.utime(final, ns=(mtime, mtime))
        return self._count

    def abandon(self) -> None:
        """Leave nothing, but for what a program of the sandbox does with it at the same time."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        try:
            files.remove_tree(self._root)
        except OSError:
            pass

    def _complete(self) -> None:
        if self._fd >= 0:
            if self._left:
                raise OSError(errno.EIO, "less data than the entry announced")
            os.fchmod(self._fd, self._mode)
            os.utime(self._fd, ns=(self._mtime, self._mtime))
            os.close(self._fd)
            self._fd = -1

    def _below(self, name: bytes) -> bytes:
        if name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
            raise OSError(errno.EINVAL, "an entry outside the transfer's root")
        return self._root + b"/" + name if name else self._root

    def _check(self) -> None:
        """Find out that nothing stands in the way before anything is moved."""
        for here, there in self._arrived():
            if _is_folder(here) and not _is_folder(there) and os.path.lexists(there):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), there)
            if _is_folder(there) and not _is_folder(here):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), there)

    def _merge(self) -> None:
        for here, there in self._arrived():
            if not _is_folder(there):
                os.rename(here, there)

    def _arrived(self) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of an arrived path and its destination, with their content where both are folders."""
        stack = [b""]
        while stack:
            below = stack.pop()
            for name in os.listdir(self._root + below):
                path = below + b"/" + name
                here, there = self._root + path, self._destination + path
                if _is_folder(here) and _is_folder(there):
                    stack.append(path)
                yield here, there


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def checksum(data: bytes, crc: int) -> int:
    """The CRC-32 of what was before and of this."""
    from binascii import crc32  # noqa: PLC0415 - loading it would cost every sandbox's start 0.2 ms

    return crc32(data, crc)
