"""One uid for each sandbox that root starts.

A uid that nobody else has gives a sandbox a process limit and signals of its own. It is reserved by binding an
abstract Unix socket named after it: nothing is left on disk, two runs cannot have the same, and the reservation
ends with the last descriptor (the sandbox inherits one, so that a uid is never given
out again while something still runs as it).
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from pytest_arl.errors import BackendUnavailable

__all__ = ["FIRST", "UidLease", "can_lease", "why_not"]

FIRST = 0x70000000
"""Far above what login.defs, subuid ranges and systemd hand out, below 2**31, which some tools cannot read."""
_COUNT = 0x0FFF0000
_TRIES = 4096


_NEEDED = {"CAP_CHOWN": 0, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8}
"""Capabilities by which the agent becomes another user, by number."""


def can_lease() -> bool:
    """True if this process is root and there are such users for it.

    Root of a container that has a user namespace is an ordinary user out there, and is treated as one.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    return all(_is_mapped(kind) for kind in ("uid", "gid")) or _is_root_outside()


def why_not() -> str:
    """The obstacle that keeps root from becoming another user here; empty where there is none."""
    if not all(_is_mapped(kind) for kind in ("uid", "gid")):
        return "this process is root in a user namespace without other users: run it as an ordinary user"
    has = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            has = int(line.split()[1], 16)
    missing = [name for name, number in _NEEDED.items() if not has & 1 << number]
    if missing:
        return f"this process is root without {', '.join(missing)}: run it as an ordinary user, or with those too"
    return ""


def _ranges(kind: str) -> list[tuple[int, int, int]]:
    """First id inside, first one outside, and how many there are of each."""
    rows = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines())
    return [(int(inside), int(outside), int(count)) for inside, outside, count in rows]


def _is_mapped(kind: str) -> bool:
    return any(first <= FIRST and first + count >= FIRST + _COUNT for first, _, count in _ranges(kind))


def _is_root_outside() -> bool:
    return any(inside == 0 and outside == 0 for inside, outside, _ in _ranges("uid"))


class UidLease:
    """A uid (and the gid of the same number) until :meth:`close`, which the holder calls once.

    Attributes:
        uid: the number.
        descriptor: what the sandbox inherits to hold the reservation on its side.
    """

    def __init__(self, uid: int, lock: socket.socket) -> None:
        self.uid = uid
        self._lock = lock
        self.descriptor = lock.fileno()

    @classmethod
    def take(cls, start: int | None = None) -> UidLease:
        """Reserve the first free uid from a random one on (or from ``start``)."""
        offset = random.randrange(_COUNT) if start is None else start - FIRST  # noqa: S311 - no secret
        for step in range(_TRIES):
            uid = FIRST + (offset + step) % _COUNT
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                lock.bind(f"\0pytest-arl/uid/{uid}")
            except OSError:
                lock.close()
            else:
                return cls(uid, lock)
        message = f"no free uid for a sandbox: {_TRIES} from {FIRST + offset} on are in use (process {os.getpid()})"
        raise BackendUnavailable(message)

    def close(self) -> None:
        """Give the uid back. Idempotent."""
        self._lock.close()
