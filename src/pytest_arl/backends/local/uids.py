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

from pytest_arl.errors import BackendUnavailable

__all__ = ["UidLease"]

_FIRST = 0x70000000
"""Far above what login.defs, subuid ranges and systemd hand out, below 2**31, which some tools cannot read."""
_COUNT = 0x0FFF0000
_TRIES = 4096


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
        offset = random.randrange(_COUNT) if start is None else start - _FIRST  # noqa: S311 - no secret
        for step in range(_TRIES):
            uid = _FIRST + (offset + step) % _COUNT
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                lock.bind(f"\0pytest-arl/uid/{uid}")
            except OSError:
                lock.close()
            else:
                return cls(uid, lock)
        message = f"no free uid for a sandbox: {_TRIES} from {_FIRST + offset} on are in use (process {os.getpid()})"
        raise BackendUnavailable(message)

    def close(self) -> None:
        """Give the uid back. Idempotent."""
        self._lock.close()
