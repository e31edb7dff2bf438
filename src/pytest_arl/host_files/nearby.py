"""The folder below another one that was used last, kept open: what is done to a tree is done folder by folder."""

from __future__ import annotations

import os

from pytest_arl.host_files.below import open_below

__all__ = ["Nearby"]

_OPEN = os.O_PATH | os.O_DIRECTORY


class Nearby:
    """Descriptors of folders below ``root``, one at a time. Each is good until the next one is asked for."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._below = b""
        self._fd = -1

    def folder(self, below: bytes) -> int:
        """The folder at that relative path, through no link."""
        if not below:
            return self._root
        if below != self._below or self._fd < 0:
            self.close()
            self._fd, self._below = open_below(self._root, below, _OPEN), below
        return self._fd

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
