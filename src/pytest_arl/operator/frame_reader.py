"""Cuts an agent's bytes into frames: so many at a time, and none made into values that nobody waits for.

What speaks from a pod may be anything. A frame is taken or passed over by its header, before any of it is held, and a
value has few items: five bytes of the wire become an object of 64 in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.agent import frames

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_ITEMS", "FrameReader"]

MOST_ITEMS = 256
"""Most items of all lists and dicts of a message. An agent's result of a step has some thirty."""


class FrameReader:
    """Bytes in, frames out. After a ProtocolError it is of no more use."""

    def __init__(self, wanted: Callable[[int, int, int], bool], take: Callable[[int, int, object], None]) -> None:
        """``wanted`` says of a frame's type, stream and size whether ``take`` is to get it: its type, its stream and
        its value, which is bytes for a raw one.
        """
        self._wanted = wanted
        self._take = take
        self._data = bytearray()
        self._at = 0
        self._header: tuple[int, int, int] | None = None
        self._passed = 0  # bytes still to come of a frame that nobody wants

    def feed(self, data: bytes) -> None:
        """Bytes as they come."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def step(self) -> bool:
        """Take one frame, or pass one over; False where none is complete."""
        left = len(self._data) - self._at
        if not left:
            self._data.clear()  # nothing is held for an agent that is silent
            self._at = 0
            return False
        if self._passed:
            some = min(self._passed, left)
            self._at += some
            self._passed -= some
            return not self._passed
        if self._header is None:
            if left < frames.HEADER.size:
                return False
            size, kind, stream = frames.HEADER.unpack_from(self._data, self._at)
            _check(size, kind)
            self._at += frames.HEADER.size
            left -= frames.HEADER.size
            if not self._wanted(kind, stream, size):
                self._passed = size
                return not size or self.step()
            self._header = size, kind, stream
        size, kind, stream = self._header
        if left < size:
            return False
        payload = bytes(memoryview(self._data)[self._at : self._at + size])
        self._at += size
        self._header = None
        self._take(kind, stream, frames.decode(payload, MOST_ITEMS) if kind >= frames.VALUE else payload)
        return True


def _check(size: int, kind: int) -> None:
    """ProtocolError for what no agent sends: all that one says to the operator fits into a frame."""
    if size > frames.MAX_PAYLOAD:
        raise frames.ProtocolError(f"a frame of {size} bytes is over the limit of {frames.MAX_PAYLOAD}")
    if not (frames.STDOUT <= kind <= frames.DATA or frames.VALUE <= kind <= frames.LAST):
        raise frames.ProtocolError(f"a frame of type {kind}")
