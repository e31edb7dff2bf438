"""A file or folder of this machine that goes into a sandbox: read by descriptors, no link followed."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.errors import UsageError
from pytest_arl.host_files.below import open_below
from pytest_arl.host_files.named_links import link_refused
from pytest_arl.host_files.nearby import Nearby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Found", "Source"]

_LOOK = os.O_PATH | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that took the file's place since it was looked at must not be waited for.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """Something to copy.

    Attributes:
        below: its path in the source; empty for the source itself.
        state: when it was found; a link's own.
        target: of a link.
    """

    below: bytes
    state: os.stat_result
    target: bytes | None


class Source:
    """A file or folder that is open. UsageError where it is a link, or is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = self._open()
        except OSError as error:
            raise UsageError(f"upload: {path}: {error.strerror}") from None
        self._state = os.fstat(self._fd)
        self._nearby = Nearby(self._fd)

    def _open(self) -> int:
        if self._path.name in ("", ".."):
            return os.open(self._path, _LOOK | os.O_DIRECTORY)
        parent = os.open(self._path.parent, _LOOK | os.O_DIRECTORY)
        try:
            name = self._path.name
            state = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(state.st_mode):
                raise link_refused("upload", self._path, os.readlink(name, dir_fd=parent))
            if stat.S_ISDIR(state.st_mode):
                return os.open(name, _LOOK | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            if not stat.S_ISREG(state.st_mode):
                raise self._special(b"")
            return os.open(name, _READ, dir_fd=parent)
        finally:
            os.close(parent)

    def close(self) -> None:
        """Let go of its descriptors."""
        self._nearby.close()
        os.close(self._fd)

    def everything(self) -> Iterator[Found]:
        """The source and all that is in it, folders before what they hold. UsageError for what cannot be copied."""
        pending = [Found(b"", self._state, None)]
        while pending:
            found = pending.pop()
            yield found
            if stat.S_ISDIR(found.state.st_mode):
                pending += reversed(self._in(found.below))

    def _in(self, folder: bytes) -> list[Found]:
        with self._naming(folder):
            descriptor = open_below(self._fd, folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(descriptor) as entries:
                    return [self._found(folder, entry, descriptor) for entry in sorted(entries, key=_name)]
            finally:
                os.close(descriptor)

    def _found(self, folder: bytes, entry: os.DirEntry[str], descriptor: int) -> Found:
        name = os.fsencode(entry.name)
        below = folder + b"/" + name if folder else name
        state = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFLNK:
            return Found(below, state, os.readlink(name, dir_fd=descriptor))
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise self._special(below)
        return Found(below, state, None)

    @contextmanager
    def reading(self, found: Found) -> Iterator[tuple[int, os.stat_result]]:
        """A descriptor of a file that was found, and its state now."""
        if not found.below:
            os.lseek(self._fd, 0, os.SEEK_SET)  # it may be read once more, on another connection
            yield self._fd, os.fstat(self._fd)
            return
        folder, _, name = found.below.rpartition(b"/")
        with self._naming(found.below):
            descriptor = os.open(name, _READ, dir_fd=self._nearby.folder(folder))
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise self._special(found.below)
            yield descriptor, state
        finally:
            os.close(descriptor)

    def path(self, below: bytes) -> Path:
        """The path of something in it, for a message."""
        return self._path / os.fsdecode(below) if below else self._path

    @contextmanager
    def _naming(self, below: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path(below))) from None

    def _special(self, below: bytes) -> UsageError:
        return UsageError(
            f"upload: {self.path(below)} is neither a file, a folder nor a link, so it cannot be copied; leave it out"
        )


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
