"""A download on its way into a new folder of this machine. What a sandbox says of it is not trusted."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pytest_arl.agent import entries
from pytest_arl.agent_client.arriving_links import Links
from pytest_arl.errors import UsageError
from pytest_arl.host_files import open_below
from pytest_arl.host_files.nearby import Nearby

if TYPE_CHECKING:
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import EntryKey
    from pytest_arl.agent_client.budget import Share
    from pytest_arl.host_files import Folder

__all__ = ["ROOT", "Arrival"]

ROOT = b"root"
"""The name that what comes has in the folder that it comes into."""
MOST_DEPTH = 256  # folders in folders: what removes such a tree later (shutil, pytest's tmp_path) has a limit too
ENTRY_BYTES = 1024
"""Bytes that a file, folder or link counts as, beside its content."""
_SLACK = 64 * 1024  # bytes that a file system may add to a file with holes
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Arrival:
    """Entries and data that come, until ``finish``."""

    def __init__(
        self,
        staging: Folder,
        remote: str,
        destination: Folder | None,
        share: Share,
        *,
        most_entries: int,
        most_bytes: int,
    ) -> None:
        """``destination`` is the folder that is there already, for what links in the download will lead to. ``share``
        counts what is kept.
        """
        self._staging = staging
        self._remote = remote
        self._share = share
        self._most = most_entries, most_bytes
        self._nearby = Nearby(staging.fd)
        self._folders: dict[bytes, int] = {}
        self._links = Links(remote, destination)
        self._fd = -1
        self._name = b""
        self._size = 0
        self._left = 0
        self._holes = 0
        self._bytes = 0
        self._entries = 0
        self._time = 0

    def entry(self, entry: Said[EntryKey]) -> None:
        """The next file, folder or link."""
        self._complete()
        folder, name = self._place(entry["p"])
        self._name = entry["p"]
        self._count(entry["n"])
        mode = entry["m"] & 0o777  # of which the kernel takes away what the umask of this process does
        if entry["t"] == "d":
            os.mkdir(name, mode | 0o700, dir_fd=folder)
            self._folders[entry["p"]] = entries.mtime(entry)
        elif entry["t"] == "l":
            self._links.add(entry["p"], entry["to"])
            os.symlink(entry["to"], name, dir_fd=folder)
        else:
            self._fd = os.open(name, _CREATE, mode, dir_fd=folder)
            self._size = self._left = entry["n"]
            self._holes, self._time = 0, entries.mtime(entry)

    def data(self, data: bytes) -> None:
        """More of the file that the last entry named."""
        if self._fd < 0 or len(data) > self._left:
            raise OSError(errno.EIO, "more data than the entry announced", self._remote)
        self._left -= len(data)
        self._share.grow(len(data), self._name)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def hole(self, size: int) -> None:
        """So many bytes of it are a hole."""
        if self._fd < 0 or size > self._left:
            raise OSError(errno.EIO, "a hole outside the file", self._remote)
        self._left -= size
        self._holes += size
        os.lseek(self._fd, size, os.SEEK_CUR)

    def finish(self) -> None:
        """Everything has come: look where links lead, give folders their times, those inside first."""
        self._complete()
        if b"" in self._folders:
            with self._staging.below(ROOT) as root:
                self._links.check(root, self._folders)
        for name, mtime in sorted(self._folders.items(), reverse=True):
            folder = open_below(self._staging.fd, _at(name), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.utime(folder, ns=(mtime, mtime))
            finally:
                os.close(folder)

    def close(self) -> None:
        """Let go of an unfinished file."""
        self._nearby.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _complete(self) -> None:
        if self._fd >= 0:
            if self._left:
                raise OSError(errno.EIO, "less data than the entry announced", self._remote)
            if self._holes:
                self._punch()
            os.utime(self._fd, ns=(self._time, self._time))
            os.close(self._fd)
            self._fd = -1

    def _punch(self) -> None:
        """Give the file its length, and count the holes where this file system fills them."""
        os.ftruncate(self._fd, self._size)
        filled = os.fstat(self._fd).st_blocks * 512 - (self._size - self._holes) - _SLACK
        if filled > 0:
            self._share.grow(filled, self._name)

    def _count(self, size: int) -> None:
        self._entries += 1
        self._bytes += size
        most, total = self._most
        if self._entries > most or self._bytes > total:
            raise UsageError(f"download of {self._remote}: more than {most} entries or {total >> 30} GiB")
        self._share.grow(ENTRY_BYTES, self._name)

    def _place(self, name: bytes) -> tuple[int, bytes]:
        """The destination of an entry: a folder that this transfer has made, and the name in it."""
        if not name:
            if self._entries:
                raise OSError(errno.EINVAL, "two entries for the root", self._remote)
            return self._staging.fd, ROOT
        parent, slash, last = name.rpartition(b"/")
        if bool(parent) != bool(slash) or parent not in self._folders or last in (b"", b".", b"..") or b"\0" in last:
            raise OSError(
                errno.EINVAL,
                f"the sandbox sent the name {os.fsdecode(name)!r}, which is outside the download",
                self._remote,
            )
        if name.count(b"/") >= MOST_DEPTH:
            raise UsageError(f"download of {self._remote}: folders are nested more than {MOST_DEPTH} deep")
        return self._nearby.folder(_at(parent)), last


def _at(name: bytes) -> bytes:
    return ROOT + b"/" + name if name else ROOT
