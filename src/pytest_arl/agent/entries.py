"""A file's time of change and its holes, as both ends of a transfer write and read them."""

from __future__ import annotations

import errno
import os

from pytest_arl.agent import exact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import Entry, EntryKey, Kind

__all__ = ["content", "entry", "has_holes", "mtime"]

_SECOND = 10**9
_WIRE = 2**63
"""An int of the wire is smaller than that, and larger than its negative: as nanoseconds, up to the year 2262."""
_MOST = (_WIRE - 1) * _SECOND


def entry(below: bytes, kind: Kind, mode: int | None, ns: int, size: int = 0) -> Entry:
    """The entry of one file, folder or link; whole seconds stand beside nanoseconds where these alone are too many."""
    made: Entry = {"p": below, "t": kind, "m": mode, "n": size, "at": ns}
    if not -_WIRE <= ns < _WIRE:
        made["seconds"], made["at"] = divmod(ns, _SECOND)
    return made


def mtime(entry: Said[EntryKey]) -> int:
    """An entry's time in nanoseconds, none that utime could not take. Inexact where it has none."""
    at = exact.integer(entry, "at", -_WIRE, _WIRE)
    if "seconds" not in entry:
        return at
    seconds = exact.integer(entry, "seconds", -_WIRE, _WIRE)
    return max(-_MOST, min(at + seconds * _SECOND, _MOST))


def has_holes(state: os.stat_result) -> bool:
    """True if a file takes less room than it has bytes: it has holes, or its file system packs them."""
    return state.st_blocks * 512 < state.st_size


def content(fd: int, size: int, piece: int) -> Iterator[bytes | int]:
    """A file's bytes in pieces, and the length of each hole as a number. OSError where it has shrunk."""
    at = 0
    while at < size:
        start = _seek(fd, at, os.SEEK_DATA, size)
        if start > at:
            yield start - at
        at = start
        end = _seek(fd, at, os.SEEK_HOLE, size) if at < size else size
        while at < end:
            data = os.pread(fd, min(end - at, piece), at)
            if not data:
                raise OSError(errno.EIO, "the file shrank while it was read")
            yield data
            at += len(data)


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    """The start of the next data or of the next hole, never before ``at``."""
    try:
        return max(at, min(os.lseek(fd, at, whence), size))
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole is left
            return size
        return at if whence == os.SEEK_DATA else size  # a file system that knows of no holes
