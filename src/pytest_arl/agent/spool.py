"""The file that keeps output until no request for it can come any more.

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


class _Extent:
    """The place of an extent in the file (None: there was no room), and the number of its bytes that were written."""

    __slots__ = ("filled", "place")

    def __init__(self, place: int | None) -> None:
        self.place = place
        self.filled = 0


class Capture:
    """One stream of one step: everything it printed, as far as it is kept.

    ``keep_ends`` bytes of the beginning and of the end are given up last.

    Attributes:
        size: bytes produced.
    """

    __slots__ = ("_dropped", "_extents", "_head", "_memory", "_spool", "size")

    def __init__(self, spool: Spool, keep_ends: int) -> None:
        self._spool = spool
        self._memory: bytearray | None = bytearray()
        self._extents: list[_Extent] = []
        self._head = keep_ends // EXTENT + 1  # how many extents from the beginning are never given up
        self._dropped = 0  # how many after those are
        self.size = 0

    @property
    def lost(self) -> int:
        """Bytes that are kept no more: of the middle, or of the end where the disk filled up."""
        return 0 if self._memory is not None else self.size - sum(extent.filled for extent in self._extents)

    @property
    def inline(self) -> bytes | None:
        """All of it, where it is short enough for memory."""
        return None if self._memory is None else bytes(self._memory)

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes, about."""
        return 64 * len(self._extents) if self._memory is None else len(self._memory)

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
            inside = at % EXTENT
            piece = view[: EXTENT - inside]
            if not inside:
                self._extents.append(_Extent(self._room()))
            self._write(self._extents[-1], inside, piece)
            at += len(piece)
            view = view[len(piece) :]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``end``, in pieces; what is lost is left out, then or while it is read."""
        if self._memory is not None:
            if start < min(end, len(self._memory)):
                yield bytes(self._memory[start:end])
            return
        while start < end:
            extent, inside = self._extent(start), start % EXTENT
            size = 0 if extent is None else min(_PIECE, end - start, extent.filled - inside)
            if extent is None or extent.place is None or size <= 0:
                start += EXTENT - inside
                continue
            try:
                data = os.pread(self._spool.fd, size, extent.place + inside)
            except OSError:
                data = b""  # a disk that cannot be read
            if data:
                yield data
            start += size

    def release(self) -> None:
        """Give everything back. The capture is empty from here on."""
        self._spool.give([extent.place for extent in self._extents if extent.place is not None])
        self._extents = []
        self._memory = bytearray()
        self.size = 0

    def _extent(self, at: int) -> _Extent | None:
        index = at // EXTENT
        if index >= self._head:
            index -= self._dropped
            if index < self._head:
                return None
        return self._extents[index] if index < len(self._extents) else None

    def _write(self, extent: _Extent, inside: int, data: memoryview) -> None:
        """Write into one extent; what follows a failed write is lost up to its end, so that no hole is read."""
        while data and extent.place is not None and extent.filled == inside:
            try:
                written = os.pwrite(self._spool.fd, data, extent.place + inside)
            except OSError:
                self._spool.refuse_growth()
                return
            inside += written
            extent.filled = inside
            data = data[written:]

    def _room(self) -> int | None:
        """Room for one more extent, of the middle of this capture if there is no other."""
        place = self._spool.take()
        while place is None and len(self._extents) > 2 * self._head:
            place = self._extents.pop(self._head).place
            self._dropped += 1
        return place
