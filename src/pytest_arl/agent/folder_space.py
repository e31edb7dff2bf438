"""The writable folders: which of them is full."""

from __future__ import annotations

import errno
import os

__all__ = ["FolderSpace", "bytes_in"]

_INODE = 1024  # bytes that the kernel takes for a file without content, about
_NO_ROOM = errno.ENOSPC, errno.EDQUOT


class FolderSpace:
    """The sandbox's own file systems, and the pool's key that sizes each."""

    def __init__(self, folders: list[tuple[bytes, str]]) -> None:
        self._folders = [(path, key) for path, key in folders if os.path.isdir(path)]
        self._full: str | None = None

    def path(self, key: str) -> bytes | None:
        """The folder that a key sizes."""
        return next((path for path, each in self._folders if each == key), None)

    def others(self, key: str) -> list[bytes]:
        """The folders that other keys size."""
        return [path for path, each in self._folders if each != key]

    def begin(self) -> None:
        """A step starts."""
        self._full = None

    def look(self) -> str | None:
        """The key of a folder that is full, or was at a look since the step began."""
        if self._full is None:
            for path, key in self._folders:
                if _is_full(path):
                    self._full = key
                    break
        return self._full

    def crowded(self, spare: int) -> str | None:
        """The key of a folder whose files take, without their content, the folder's size and ``spare`` bytes more of
        the kernel's memory: nothing else bounds their number.
        """
        for path, key in self._folders:
            try:
                state = os.statvfs(path)
            except OSError:
                continue
            if state.f_blocks and (state.f_files - state.f_ffree) * _INODE > state.f_blocks * state.f_frsize + spare:
                return key
        return None

    def refused(self, path: bytes, code: int | None) -> str | None:
        """The key of the folder in which there was no room for a file: where a write failed with that errno."""
        if code not in _NO_ROOM:
            return None
        device = _device(path)
        return next((key for folder, key in self._folders if _device(folder) == device), None)


def _device(path: bytes) -> int | None:
    """The file system that a path is on, or would be."""
    while path:
        try:
            return os.stat(path).st_dev
        except OSError:
            path = os.path.dirname(path) if path != b"/" else b""
    return None


def _is_full(folder: bytes) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False  # a step has removed it
    return bool(state.f_blocks and (state.f_bavail == 0 or (state.f_files and state.f_favail == 0)))


def bytes_in(folders: list[bytes]) -> int:
    """Bytes that the files of these file systems take."""
    total = 0
    for folder in folders:
        try:
            state = os.statvfs(folder)
        except OSError:
            continue
        total += (state.f_blocks - state.f_bfree) * state.f_frsize
    return total
