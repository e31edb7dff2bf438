"""Sockets of this machine that lie in what a sandbox is shown.

Whoever can reach a socket's file connects to the process behind it, through a read-only mount too, and whatever network
the sandbox has. The kernel is asked before each start for the sockets that processes have bound to paths, which takes
as long as there are such sockets and not as long as there are files. Not found are those of another network namespace,
as of a container, and those that were bound by a relative path or renamed since; and one that is made while a sandbox
runs. All of these the kernel itself denies where it can (:func:`pytest_arl.agent.landlock.keep_from_sockets`).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["SocketWatch", "bound_paths"]

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ALL_STATES = 0xFFFFFFFF
"""A socket for datagrams that somebody has connected to counts as connected itself, and others reach it as before."""
_SHOW_NAME = 1
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_DONE_SIZE = 20
"""Bytes of the message that ends the answer."""
_NAMES = re.compile(rb"\0\0(/[^\0]+)")
"""Absolute paths in the answer: each follows the number of the attribute UNIX_DIAG_NAME, which is 0. What looks like
one and is none leads to no socket. To take every message apart would cost a millisecond where a desktop runs.
"""
_MOST_FOLDERS = 4096
_SECONDS = 5.0

Key = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A folder of this machine in a sandbox.

    Attributes:
        target: where the sandbox has it.
        what: the mount or root folder of the pool that it is, for a message; empty where it is the toolchain.
    """

    target: str
    what: str


class SocketWatch:
    """Looks, for one pool, whether there are sockets in what its sandboxes are shown.

    Attributes:
        seen: what :meth:`look` gave last, or None.
    """

    def __init__(self, shown: Iterable[tuple[str, str]], given: Mapping[str, str]) -> None:
        """``shown``: each folder by path, and where sandboxes have it; ``given``: those that the pool names, by path,
        and what they are.
        """
        self.seen: tuple[str, ...] | None = None
        self._sources: dict[Key, list[_Shown]] = {}
        for path, target in shown:
            self._add(path, _Shown(target, ""))
        for path, what in given.items():
            self._add(path, _Shown("", what))
        self._folders: dict[str, tuple[tuple[str, _Shown], ...]] = {}

    def _add(self, path: str, shown: _Shown) -> None:
        with suppress(OSError):
            status = os.stat(path)
            self._sources.setdefault((status.st_dev, status.st_ino), []).append(shown)

    def look(self) -> tuple[str, ...]:
        """Sockets in the toolchain, as paths in a sandbox. Raises BackendUnavailable for one in what the pool names."""
        found = set()
        for path in bound_paths():
            folder, name = os.path.split(path)
            for below, shown in self._places(folder):
                if not _is_socket(path):
                    continue
                if shown.what:
                    raise BackendUnavailable(
                        f"{shown.what}: {path} is a socket that was created during this run, and even a read-only "
                        "mount lets a sandbox connect to it: remove it, or mount a folder without it"
                    )
                found.add(os.path.normpath(os.path.join(shown.target, below, name)))
        self.seen = tuple(sorted(found))
        return self.seen

    def _places(self, folder: str) -> tuple[tuple[str, _Shown], ...]:
        """The folders above a socket that are shown, and the socket's folder within each; found out once."""
        places = self._folders.get(folder)
        if places is None:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            places = self._folders[folder] = tuple(self._find(folder))
        return places

    def _find(self, folder: str) -> Iterator[tuple[str, _Shown]]:
        here = end = os.path.realpath(folder)
        while True:
            with suppress(OSError):
                status = os.stat(here)
                for shown in self._sources.get((status.st_dev, status.st_ino), ()):
                    yield os.path.relpath(end, here), shown
            if here == "/":
                return
            here = os.path.dirname(here)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def bound_paths() -> list[str]:
    """The absolute paths to which sockets are bound in this process's network namespace, and that can be reached."""
    try:
        names = list(_ask())
    except OSError:  # a kernel without this module, or a filter of system calls
        names = _listed()
    return [os.fsdecode(name) for name in names if name.startswith(b"/")]


def _ask() -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diagnosis:
        diagnosis.settimeout(_SECONDS)
        request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME, 0, 0)
        diagnosis.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + request)
        while True:
            answer = diagnosis.recv(1 << 16)
            yield from _NAMES.findall(answer)
            if _HEADER.unpack_from(answer)[1] == _ERROR:
                raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
            if _HEADER.unpack_from(answer, len(answer) - _DONE_SIZE)[:2] == (_DONE_SIZE, _DONE):
                return


def _listed() -> list[bytes]:
    try:
        with open("/proc/net/unix", "rb") as file:
            rows = file.read().splitlines()
    except OSError:
        return []
    return [fields[7] for row in rows if len(fields := row.split(None, 7)) == 8]
