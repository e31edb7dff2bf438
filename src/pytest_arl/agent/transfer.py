"""Files and folders in and out, in pieces, with sizes and a checksum.

A transfer is a row of entries, each followed by its data: ``{"p": path below the transfer's root ("" is the root
itself), "t": "d" | "f" | "l", "m": mode, "n": size, "to": target of a link, "at": mtime in ns}``, and an END with
the CRC-32 of all data. A mode of None on the way in is that of the file to be replaced. What comes in is built beside
its destination and moved there when it is complete and checked, so that a transfer that fails leaves nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_arl.agent import files, frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Arrival", "Limit", "depart"]

_PIECE = frames.MAX_PAYLOAD


class Limit(Exception):
    """The transfer is larger than its receiver wants."""


class Arrival:
    """Files that come in, until ``finish``."""

    def __init__(self, destination: bytes, *, merge: bool) -> None:
        self._destination = destination
        files.make_parents(destination)
        inside = merge and os.path.isdir(destination)
        folder = destination if inside else os.path.dirname(destination)
        self._root = os.path.join(folder, files.temporary_name())
        self._fd = -1
        self._left = 0
        self._crc = 0
        self._count = 0
        self._folders: list[tuple[bytes, int, int]] = []

    def entry(self, entry: dict[str, Any]) -> None:
        """The next file, folder or link."""
        self._complete()
        path = self._below(entry["p"])
        kind, mode, mtime = entry["t"], entry["m"], entry["at"]
        if mode is None:
            mode = files.mode_of(self._destination)
        if not isinstance(mode, int) or not isinstance(mtime, int):
            raise OSError(errno.EINVAL, "an entry without mode or time")
        self._count += 1
        if kind == "d":
            os.mkdir(path, 0o700)
            self._folders.append((path, mode, mtime))
        elif kind == "l":
            os.symlink(entry["to"], path)
        else:
            size = entry["n"]
            if not isinstance(size, int):
                raise OSError(errno.EINVAL, "an entry without size")
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._left = size
            self._mode, self._mtime = mode, mtime

    def data(self, data: bytes) -> None:
        """More of the file that the last entry named."""
        if self._fd < 0 or len(data) > self._left:
            raise OSError(errno.EIO, "more data than the entry announced")
        files.write_all(self._fd, data)
        self._crc = _crc32(data, self._crc)
        self._left -= len(data)

    def finish(self, crc: int) -> int:
        """Everything has come: check it, move it to its place, and give the number of entries."""
        self._complete()
        if crc != self._crc:
            raise OSError(errno.EIO, "the checksum of what came in is wrong")
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
        """Leave nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        files.remove_tree(self._root)

    def _complete(self) -> None:
        if self._fd >= 0:
            if self._left:
                raise OSError(errno.EIO, "less data than the entry announced")
            os.fchmod(self._fd, self._mode)
            os.utime(self._fd, ns=(self._mtime, self._mtime))
            os.close(self._fd)
            self._fd = -1

    def _below(self, name: object) -> bytes:
        if not isinstance(name, bytes) or name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
            raise OSError(errno.EINVAL, "an entry that is not below the transfer's root")
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
        """What came and where it belongs, and what is in it where both are folders."""
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


def _crc32(data: bytes, crc: int) -> int:
    from binascii import crc32  # noqa: PLC0415 - loading it would cost every sandbox's start 0.2 ms

    return crc32(data, crc)


def depart(
    root: bytes, stream: int, *, most_bytes: int, most_entries: int, one_filesystem: bool = False
) -> Iterator[bytes]:
    """The frames of a transfer out of the sandbox, without what is mounted below ``root`` if ``one_filesystem``.

    The folders and links that lead to those mounts are left out too: they are not the sandbox's own, a step can have
    made nothing in them, and they cannot be written back.

    OSError and Limit end it.
    """
    count = total = crc = 0
    device = os.lstat(root).st_dev
    stack = [b""]
    with files.OpenedUp() as opened:
        while stack:
            below = stack.pop()
            path = root + b"/" + below if below else root
            state = _there(path, below)
            kind = None if state is None else _kind(state.st_mode)
            if kind is None and not below:
                raise OSError(errno.EINVAL, "neither a file nor a folder", path)
            if state is None or kind is None:
                continue  # a socket or a device means nothing elsewhere
            if one_filesystem and (state.st_dev != device or state.st_uid != os.getuid()):
                continue
            count += 1
            if count > most_entries:
                raise Limit("more than " + str(most_entries) + " files and folders")
            entry = {"p": below, "t": kind, "m": stat.S_IMODE(state.st_mode), "at": state.st_mtime_ns, "n": 0}
            if kind == "l":
                yield frames.message(frames.ENTRY, stream, entry | {"to": os.readlink(path)})
            elif kind == "d":
                opened.add(path, state)
                stack += sorted(_below(path, below), reverse=True)
                yield frames.message(frames.ENTRY, stream, entry)
            else:
                fd, state = files.open_for_reading(path)
                size = state.st_size
                try:
                    total += size
                    if total > most_bytes:
                        raise Limit("more than " + str(most_bytes) + " bytes")
                    yield frames.message(frames.ENTRY, stream, entry | {"n": size})
                    for data in _content(fd, size, path):
                        crc = _crc32(data, crc)
                        yield frames.frame(frames.DATA, stream, data)
                finally:
                    os.close(fd)
    yield frames.message(frames.END, stream, {"crc": crc, "n": count})


def _there(path: bytes, below: bytes) -> os.stat_result | None:
    """What there is; None where a running program has removed it since its folder was listed."""
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


def _content(fd: int, size: int, path: bytes) -> Iterator[bytes]:
    while size:
        data = os.read(fd, min(size, _PIECE))
        if not data:
            raise OSError(errno.EIO, "the file shrank while it was read", path)
        size -= len(data)
        yield data


def _kind(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return "f"
    if stat.S_ISDIR(mode):
        return "d"
    if stat.S_ISLNK(mode):
        return "l"
    return None
