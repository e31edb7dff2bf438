"""Files and folders on their way out of the sandbox."""

from __future__ import annotations

import errno
import os
import stat

from pytest_arl.agent import entries, files, frames
from pytest_arl.agent.transfer import checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_arl.agent.message_types import Entry, Hole, Kind, TransferEnd

__all__ = ["Departure"]

_PIECE = frames.MAX_PAYLOAD


class Departure:
    """A file, or a folder with everything in it."""

    def __init__(self, root: bytes, stream: int, *, most_data: int, most_size: int, most_entries: int) -> None:
        """Bytes without holes, bytes with them, and files, folders and links."""
        self._root = root
        self._stream = stream
        self._data = most_data
        self._size = most_size
        self._most = most_entries
        self._count = 0
        self._crc = 0

    def frames(self, *, one_filesystem: bool = False) -> Generator[bytes, None, None]:
        """All of it, without what is mounted below the root if ``one_filesystem``. OSError ends it: EFBIG where it is
        more than was wanted.

        The folders and links that lead to those mounts are left out too: they are not the sandbox's own, a step can
        have made nothing in them, and they cannot be written back.
        """
        device = os.lstat(self._root).st_dev
        stack = [b""]
        with files.OpenedUp() as opened:
            while stack:
                below = stack.pop()
                path = self._root + b"/" + below if below else self._root
                state = _there(path, below)
                kind = None if state is None else _kind(state.st_mode)
                if kind is None and not below:
                    raise OSError(errno.EINVAL, "neither a file nor a folder", path)
                if state is None or kind is None:
                    continue  # a socket or a device means nothing elsewhere
                if one_filesystem and (state.st_dev != device or state.st_uid != os.getuid()):
                    continue
                entry = self._entry(below, path, kind, state)
                if kind == "f":
                    yield from self._file(path, entry)
                    continue
                if kind == "d":
                    opened.add(path, state)
                    stack += sorted(_below(path, below), reverse=True)
                yield frames.message(frames.ENTRY, self._stream, entry)
        end: TransferEnd = {"crc": self._crc, "n": self._count}
        yield frames.message(frames.END, self._stream, end)

    def _entry(self, below: bytes, path: bytes, kind: Kind, state: os.stat_result) -> Entry:
        self._count += 1
        if self._count > self._most:
            raise OSError(errno.EFBIG, "exceeds the limit of " + str(self._most) + " files and folders", path)
        entry = entries.entry(below, kind, stat.S_IMODE(state.st_mode), state.st_mtime_ns)
        if kind == "l":
            entry["to"] = os.readlink(path)
        return entry

    def _file(self, path: bytes, entry: Entry) -> Generator[bytes, None, None]:
        fd, state = files.open_for_reading(path)
        try:
            self._announce(state, path)
            entry["n"] = state.st_size
            yield frames.message(frames.ENTRY, self._stream, entry)
            if entries.has_holes(state):
                yield from self._sparse(fd, state.st_size, path)
            else:
                yield from self._dense(fd, state.st_size, path)
        finally:
            os.close(fd)

    def _announce(self, state: os.stat_result, path: bytes) -> None:
        """A file is next. OSError where it is known to be too much before any of it is sent."""
        self._size -= state.st_size
        if self._size < 0 or (state.st_size > self._data and not entries.has_holes(state)):
            raise OSError(errno.EFBIG, "has " + str(state.st_size) + " bytes", path)

    def _dense(self, fd: int, size: int, path: bytes) -> Generator[bytes, None, None]:
        self._data -= size
        while size:
            data = os.read(fd, min(size, _PIECE))
            if not data:
                raise OSError(errno.EIO, "the file shrank while it was read", path)
            self._crc = checksum(data, self._crc)
            yield frames.frame(frames.DATA, self._stream, data)
            size -= len(data)

    def _sparse(self, fd: int, size: int, path: bytes) -> Generator[bytes, None, None]:
        for piece in entries.content(fd, size, _PIECE):
            if isinstance(piece, int):
                hole: Hole = {"n": piece}
                yield frames.message(frames.HOLE, self._stream, hole)
                continue
            self._data -= len(piece)
            if self._data < 0:
                raise OSError(errno.EFBIG, "has " + str(size) + " bytes, not all in holes", path)
            self._crc = checksum(piece, self._crc)
            yield frames.frame(frames.DATA, self._stream, piece)


def _there(path: bytes, below: bytes) -> os.stat_result | None:
    """The state of what is there; None where a running program has removed it since its folder was listed."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        if not below:
            raise
        return None


def _below(path: bytes, below: bytes) -> list[bytes]:
    fd, _ = files.open_for_reading(path)
    try:
        names = [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)
    return [below + b"/" + name for name in names] if below else names


def _kind(mode: int) -> Kind | None:
    if stat.S_ISREG(mode):
        return "f"
    if stat.S_ISDIR(mode):
        return "d"
    if stat.S_ISLNK(mode):
        return "l"
    return None
