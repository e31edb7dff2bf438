"""Home folders of this machine's users."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_home", "known_homes"]

_ACCOUNTS = "/etc/passwd"
_LONGEST = 1024 * 1024
_FIRST_USER, _NOBODY = 1000, 65534
_TOPS = ("/home", "/var/home")
"""Folders in which homes lie side by side."""


def known_homes() -> set[str]:
    """Homes of root, of this user and of the people whom the machine itself knows, without links.

    Others, of a directory service, are not asked for: that can take minutes where its server is away.
    """
    homes = {"/root", *_TOPS, *(home for _, home in _accounts())}
    with suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    homes.add(os.environ.get("HOME", ""))
    parents: dict[str, str] = {}
    found = set()
    for home in map(canonical, filter(os.path.isabs, homes)):
        parent = os.path.dirname(home)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        found.add(_resolved(os.path.join(parents[parent], os.path.basename(home))))
    return found


def _resolved(home: str) -> str:
    """Resolve a folder without asking for its content, which would have an automounter fetch every home."""
    return canonical(os.path.realpath(home) if os.path.islink(home) else home)


def is_home(path: str) -> bool:
    """True if a folder beside homes is the home of somebody whom a directory service knows: it is that user's own."""
    if os.path.dirname(path) not in {os.path.realpath(top) for top in _TOPS}:
        return False
    owner = os.lstat(path)
    return stat.S_ISDIR(owner.st_mode) and owner.st_uid >= _FIRST_USER and owner.st_uid not in dict(_accounts())


def _accounts() -> Iterator[tuple[int, str]]:
    """Uid and home of root and of each person in the machine's own list."""
    with suppress(OSError), open(_ACCOUNTS, "rb") as file:
        for line in os.fsdecode(file.read(_LONGEST)).splitlines():
            fields = line.split(":")
            if len(fields) < 6 or not fields[2].isascii() or not fields[2].isdecimal():
                continue
            uid = int(fields[2])
            if uid == 0 or (uid >= _FIRST_USER and uid != _NOBODY):
                yield uid, fields[5]
