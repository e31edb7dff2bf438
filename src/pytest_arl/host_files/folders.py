"""A folder that is open: make, look at, move and remove what is in it, by name."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.host_files.below import open_below

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Folder", "make_folders", "open_folder"]

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_DIRECTORY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """The descriptor of a folder, and its path as messages show it. Names are single names, never followed."""

    __slots__ = ("fd", "shown")

    def __init__(self, fd: int, shown: str) -> None:
        self.fd = fd
        self.shown = shown

    def close(self) -> None:
        """Let go of the descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def path(self, name: bytes) -> str:
        """The path of something below, for a message."""
        return str(Path(self.shown, os.fsdecode(name)))

    def below(self, below: bytes, flags: int = _OPEN) -> Folder:
        """A folder below this one, at a relative path without links."""
        return Folder(open_below(self.fd, below, flags | os.O_DIRECTORY), self.path(below))

    def look(self, name: bytes) -> os.stat_result | None:
        """The state of what has that name, a link's own; None where nothing has it."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[bytes]:
        """Everything in it."""
        descriptor = os.open(b".", _READ | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            with os.scandir(descriptor) as entries:
                return [os.fsencode(entry.name) for entry in entries]
        finally:
            os.close(descriptor)

    def make(self, name: bytes, mode: int = 0o777) -> None:
        """Make a folder. FileExistsError where the name is taken, by a link too."""
        os.mkdir(name, mode, dir_fd=self.fd)

    def make_or_open(self, name: bytes) -> Folder:
        """The folder of that name, made where it is missing. OSError for anything else there."""
        with suppress(FileExistsError):
            self.make(name)
        return self.below(name)

    def create(self, name: bytes, *, flags: int = 0) -> int:
        """A descriptor for writing of a new file. FileExistsError where the name is taken, by a link too."""
        return os.open(name, _CREATE | flags, 0o666, dir_fd=self.fd)

    def link_to(self, name: bytes) -> str:
        """The text of a link."""
        return os.fsdecode(os.readlink(name, dir_fd=self.fd))

    def move(self, name: bytes, to: Folder, new: bytes) -> None:
        """Give something another name, in the place of a file or link that has it."""
        try:
            os.rename(name, new, src_dir_fd=self.fd, dst_dir_fd=to.fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, to.path(new)) from None

    def remove(self, name: bytes) -> None:
        """Remove a file, a link, or a folder with everything in it; what cannot be removed stays."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except IsADirectoryError:
            with suppress(RecursionError):  # of what somebody else nested too deep for Python
                shutil.rmtree(name, ignore_errors=True, dir_fd=self.fd)
        except FileNotFoundError:
            pass


def open_folder(path: Path, *, make: bool = False) -> Folder:
    """The folder at a path that the caller of this package vouches for: links in it are followed, this once.

    With ``make``, what is missing is made.
    """
    return Folder(make_folders(path) if make else os.open(path, _OPEN), str(path))


def make_folders(path: Path) -> int:
    """A descriptor of a folder, which is made where it is missing, as are those above it."""
    here = os.open("/" if path.is_absolute() else ".", _OPEN)
    try:
        for part in path.parts[1:] if path.is_absolute() else path.parts:
            there = _step(here, part)
            os.close(here)
            here = there
    except OSError as error:
        os.close(here)
        raise OSError(error.errno, error.strerror, str(path)) from None
    return here


def _step(here: int, part: str) -> int:
    try:
        return os.open(part, _OPEN, dir_fd=here)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=here)
        return os.open(part, _OPEN | os.O_NOFOLLOW, dir_fd=here)


def is_folder(state: os.stat_result | None) -> bool:
    """True if there is a folder, and no link to one."""
    return state is not None and stat.S_ISDIR(state.st_mode)
