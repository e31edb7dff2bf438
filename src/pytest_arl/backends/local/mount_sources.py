"""Folders and files of this machine that sandboxes are given, each opened once and held.

A path is looked up while nobody could have changed it; from then on its descriptor counts. What code in a sandbox puts
at such a path later is never bound: bubblewrap gets the descriptor, and before each start the path is compared with it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import trace
from pytest_arl.errors import BackendUnavailable
from pytest_arl.text.untrusted import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MountSource", "Sources"]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "FIFO",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
_LONGEST = 120
"""Characters of a link that a sandbox may have made."""


class MountSource:
    """Something of this machine that is held open; its number is the owner's alone."""

    __slots__ = ("descriptor", "path", "status")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.status = os.fstat(descriptor)

    def is_folder(self) -> bool:
        """Or else a file."""
        return stat.S_ISDIR(self.status.st_mode)


class Sources:
    """Owns the descriptors of all sources of a backend."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._held: dict[str, MountSource] = {}
        self._closed = False

    def open(self, path: str) -> MountSource:
        """The source at a path that has no link in it; the one of before where it was asked for before.

        Raises OSError, also for a link on the way: then somebody has just put it there.
        """
        with self._lock:
            self._require_open()
            source = self._held.get(path)
            if source is None:
                try:
                    source = MountSource(path, _open_without_links(path))
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        raise BackendUnavailable(
                            f"{path} cannot be held open ({error.strerror}): each mount of a pool, and each "
                            "repository in it, takes a descriptor: raise `ulimit -n`, or mount less"
                        ) from None
                    raise
                self._stack.callback(os.close, source.descriptor)
                self._held[path] = source
            return source

    def lend(self, source: MountSource, share: Callable[[int], int]) -> int:
        """The result of ``share`` for a source's descriptor, which stays open meanwhile."""
        with self._lock:
            self._require_open()
            return share(source.descriptor)

    def change(self, source: MountSource) -> str:
        """The earlier and the present file at a source's path, in words; empty where they are the same."""
        with self._lock:
            self._require_open()
            # The kernel names the place where the opened thing is now, without links.
            if os.readlink(f"/proc/self/fd/{source.descriptor}") == source.path:
                return ""
            return self._look_again(source)

    def require(self, source: MountSource, what: str) -> None:
        """Raise BackendUnavailable where a source was replaced; ``what`` says whose it is."""
        if changed := self.change(source):
            raise BackendUnavailable(
                f"{what}: {source.path} has been replaced since this run looked it up: {changed}. Sandboxes never "
                "get the replacement: change the content of the folder instead of the folder, or start a new run"
            )

    def _look_again(self, source: MountSource) -> str:
        was = _name(source.status)
        try:
            descriptor = _open_without_links(source.path)
        except OSError:
            return f"it was {was} and is {_found(source.path)} now"
        try:
            status = os.fstat(descriptor)
            if not os.path.samestat(status, source.status):
                return f"it was {was} and is {_name(status, other=True)} now"
            # The same by another of its names, or a file system forgot the name: only bubblewrap needs one that holds.
            os.dup2(descriptor, source.descriptor, inheritable=False)
            return ""
        finally:
            os.close(descriptor)

    def _require_open(self) -> None:
        if self._closed:
            raise BackendUnavailable("the local backend is closed")

    def close(self) -> None:
        """Let go of all. Idempotent."""
        with self._lock:
            self._closed = True
            self._held.clear()
            self._stack.close()

    def forget(self) -> None:
        """Take a new lock in a forked child, where another thread's lock stays locked."""
        self._lock = threading.Lock()
        self.close()


def _open_without_links(path: str) -> int:
    """Name by name, for Python has no openat2(2)."""
    names = [name for name in path.split("/") if name]
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for at, name in enumerate(names, 1):
        folder = 0 if at == len(names) else os.O_DIRECTORY
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | folder, dir_fd=here)
        finally:
            os.close(here)
        here = descriptor
    if stat.S_ISLNK(os.fstat(here).st_mode):  # without O_DIRECTORY it is the link that is opened
        os.close(here)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return here


def _name(status: os.stat_result, *, other: bool = False) -> str:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "thing")
    return f"{'another' if other else 'a'} {kind} (inode {status.st_ino})"


def _found(path: str) -> str:
    """The obstacle that keeps a path from leading where it did."""
    here = ""
    for part in path.split("/")[1:]:
        here = f"{here}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(here).st_mode):
                text = shorten(repr(os.readlink(here)), _LONGEST)
                return f"a symbolic link to {text}" if here == path else f"behind the symbolic link {here} to {text}"
        except OSError:
            return "nothing"
    try:
        return _name(os.lstat(trace(path).end), other=True)
    except (OSError, RuntimeError):
        return "nothing"
