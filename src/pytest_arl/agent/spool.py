"""Where output is kept until nobody can ask for it any more.

A capture keeps its first bytes in memory; a long one moves to the *spool*, one file without a name that
belongs to the sandbox and is dealt out in extents. The file is bounded: when it is full, a capture that is still
growing gives up its middle, never its beginning or its end.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["INLINE", "Capture", "Spool"]

INLINE = 64 * 1024
"""Bytes that a capture holds in memory: what a pipe holds by default, so most steps never see the file."""

EXTENT = 1024 * 1024
CAPACITY = 4 * 1024 * EXTENT
"""4 GiB for each sandbox, so that endless output ends neither the step nor the machine's disk."""

_PIECE = 252 * 1024  # with what goes before it, at most one frame


class Spool:
    """A file dealt out in extents of 1 MiB."""

    def __init__(self, fd: int | None, capacity: int = CAPACITY) -> None:
        self.fd = os.memfd_create("arl-spool", os.MFD_CLOEXEC) if fd is None else fd
        self._free: list[int] = []
        self._extents = 0
        self._most = capacity // EXTENT
        self.make_room: Callable[[], bool] = lambda: False
        """Asked when the file is full: free what can be spared and say whether anything was."""

    def take(self) -> int | None:
        """An extent's offset, or None where all are in use."""
        while not self._free and self._extents >= self._most:
            if not self.make_room():
                return None
        if self._free:
            return self._free.pop()
        self._extents += 1
        return (self._extents - 1) * EXTENT

    def refuse_growth(self) -> None:
        """The disk is full: never grow beyond what there is."""
        self._most = self._extents

    def give(self, extents: list[int]) -> None:
        """Take extents back."""
        self._free += extents


class Capture:
    """One stream of one step: everything it printed, as far as it is kept.

    Attributes:
        size: bytes produced.
    """

    __slots__ = ("_dropped", "_extents", "_head", "_memory", "_missing", "_spool", "size")

    def __init__(self, spool: Spool, keep_ends: int) -> None:
        self._spool = spool
        self._memory: bytearray | None = bytearray()
        self._extents: list[int | None] = []  # None: there was no room
        self._head = keep_ends // EXTENT + 1
        self._dropped = 0
        self._missing = 0
        self.size = 0

    @property
    def lost(self) -> int:
        """Bytes that are kept no more: of the middle, or of the end where the disk filled up."""
        return self._dropped * EXTENT + self._missing

    @property
    def inline(self) -> bytes | None:
        """All of it, where it is short enough for memory."""
        return None if self._memory is None else bytes(self._memory)

    def append(self, data: bytes) -> None:
        """Keep more."""
        at = self.size
        self.size = at + len(data)
        if self._memory is not None:
            if self.size <= INLINE:
                self._memory += data
                return
            data, at = bytes(self._memory) + data, 0
            self._memory = None
        view = memoryview(data)
        while view:
            room = EXTENT - at % EXTENT
            self._write(at, view[:room])
            at += len(view[:room])
            view = view[room:]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``end``, in pieces; what is lost is left out."""
        if self._memory is not None:
            if start < end:
                yield bytes(self._memory[start:end])
            return
        while start < end:
            place = self._place(start)
            if place is None:
                start = (start // EXTENT + 1) * EXTENT
                continue
            size = min(_PIECE, end - start, EXTENT - start % EXTENT)
            yield os.pread(self._spool.fd, size, place)
            start += size

    def release(self) -> None:
        """Give everything back. The capture is empty from here on."""
        self._spool.give([extent for extent in self._extents if extent is not None])
        self._extents = []
        self._memory = bytearray()
        self.size = 0

    def _place(self, at: int) -> int | None:
        index = at // EXTENT
        if index >= self._head:
            index -= self._dropped
            if index < self._head:
                return None
        extent = self._extents[index]
        return None if extent is None else extent + at % EXTENT

    def _write(self, at: int, data: memoryview) -> None:
        """Write within one extent."""
        if at % EXTENT == 0 and at // EXTENT - self._dropped >= len(self._extents):
            self._grow()
        place = self._place(at)
        while data:
            try:
                written = os.pwrite(self._spool.fd, data, place) if place is not None else 0
            except OSError:
                self._spool.refuse_growth()
                written = 0
            if place is None or not written:
                self._missing += len(data)
                return
            place += written
            data = data[written:]

    def _grow(self) -> None:
        extent = self._spool.take()
        if extent is None and len(self._extents) > 2 * self._head:
            extent = self._extents.pop(self._head)
            self._dropped += 1
        self._extents.append(extent)
