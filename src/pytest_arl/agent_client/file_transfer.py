"""The host's end of files on their way in and out, and archives of them.

What a sandbox sends is not trusted: what is kept of it is counted (a sparse file of 7 EiB costs a sandbox nothing),
holes stay holes, and the rest is checked where it arrives. Files of this machine are reached through ``host_files``
only.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from binascii import crc32
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from pytest_arl.agent import entries, frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.arrivals import ROOT, Arrival
from pytest_arl.agent_client.budget import Share
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost
from pytest_arl.agent_client.exchange import ANSWER_SECONDS
from pytest_arl.errors import UsageError
from pytest_arl.text.units import format_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from pytest_arl.agent.message_types import Entry, Get, Kind
    from pytest_arl.agent_client.budget import Budget
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.host_files.destinations import Destination
    from pytest_arl.host_files.sources import Found, Source

__all__ = ["MOST_BYTES", "Archive", "receive_file", "receive_tree", "send_archive", "send_bytes", "send_tree"]

MOST_BYTES = 16 * 1024**3  # with holes
MOST_ENTRIES = 1_000_000
MOST_READ = 1024**3  # a file that is read into memory
_PIECE = frames.MAX_PAYLOAD
_IN_MEMORY = 1024 * 1024
# An agent that sends next to nothing for ever is given up, as one is that sends nothing.
_SLOWEST = 16 * 1024  # bytes in a second
_ENTRY_SECONDS = 0.002
# Frames beside two for each entry, and one for so many bytes: pieces of an agent's are as long as the file has content.
_FEW_FRAMES = 1024
_FRAME_BYTES = 512


class Archive:
    """The content of one folder of a sandbox, kept on this side in a file without a name."""

    def __init__(self, root: bytes, budget: Budget) -> None:
        self.root = root
        self.count = 0
        self._share = Share(budget, f"checkpoint of {os.fsdecode(root)}")
        self._file: BinaryIO = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed by close()

    def fill(self, stream: Stream) -> None:
        """Take everything that the sandbox has in the folder."""
        stream.send(frames.GET, _wanted(self.root, self._share.left, MOST_BYTES, one_filesystem=True))
        path = b""
        try:
            for kind, value in _incoming(stream):
                if kind == frames.ENTRY:
                    self.count += 1
                    path = value["p"]
                body = value if kind == frames.DATA else frames.encode(value)
                self._share.grow(frames.HEADER.size + len(body), path)
                self._file.write(frames.HEADER.pack(len(body), kind, 0))
                self._file.write(body)
        except AgentError as error:
            if error.errno == errno.EFBIG:
                raise self._share.refused(error.path, error.text) from None
            raise
        self._share.settle()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Entries and their data, in order."""
        self._file.seek(0)
        while header := self._file.read(frames.HEADER.size):
            size, kind, _ = frames.HEADER.unpack(header)
            body = self._file.read(size)
            yield kind, body if kind == frames.DATA else frames.decode(body)

    def close(self) -> None:
        """Free the file."""
        self._file.close()
        self._share.close()


def receive_file(stream: Stream, path: bytes, budget: Budget) -> bytes:
    """The content of one file, as large as the sandbox's budget at the most: it is read into memory."""
    most = min(MOST_READ, budget.most)
    stream.send(frames.GET, _wanted(path, most, most, entries=1))
    content = BytesIO()
    size: int | None = None
    try:
        for kind, value in _incoming(stream):
            if kind == frames.ENTRY:
                if value["t"] != "f":
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
                if size is not None:
                    raise stream.unexpected(ValueError("a second entry of one file"))
                size = value["n"]
                continue
            length = len(value) if kind == frames.DATA else value["n"]
            if content.tell() + length > min(size or 0, most):
                raise stream.unexpected(ValueError("more data than the entry announced"))
            if kind == frames.HOLE:
                content.seek(length - 1, os.SEEK_CUR)
            content.write(value if kind == frames.DATA else b"\0")
    except AgentError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(
                f"read: {os.fsdecode(path)} {error.text}; at most {format_quantity(most)} are read into memory: "
                f"use download() for large files{f', and {budget.cure}' if most < MOST_READ else ''}"
            ) from None
        raise _named(error, path) from None
    return content.getvalue()


def receive_tree(stream: Stream, path: bytes, destination: Destination, budget: Budget) -> None:
    """Copy a file or folder of the sandbox to its destination; into it, where it is a folder and a folder comes."""
    with destination.staging() as folder, Share(budget, f"download of {os.fsdecode(path)}") as share:
        stream.send(frames.GET, _wanted(path, share.left, MOST_BYTES))
        arrival = Arrival(
            folder,
            os.fsdecode(path),
            destination.folder,
            share,
            most_entries=MOST_ENTRIES,
            most_bytes=MOST_BYTES,
        )
        try:
            for kind, value in _incoming(stream):
                if kind == frames.ENTRY:
                    arrival.entry(value)
                elif kind == frames.HOLE:
                    arrival.hole(value["n"])
                else:
                    arrival.data(value)
            arrival.finish()
        except AgentError as error:
            if error.errno == errno.EFBIG:
                raise share.refused(error.path, error.text) from None
            raise _named(error, path) from None
        finally:
            arrival.close()
        destination.put(folder, ROOT)


def _wanted(path: bytes, data: int, size: int, *, entries: int = MOST_ENTRIES, one_filesystem: bool = False) -> Get:
    return messages.get(path, data=data, size=size, entries=entries, one_filesystem=one_filesystem)


def send_bytes(stream: Stream, path: bytes, content: bytes, mode: int | None) -> None:
    """Write one file in pieces. ``mode`` None is that of the file that is there."""
    with _Departure(stream, path, merge=False) as departure:
        departure.entry(entries.entry(b"", "f", mode, time.time_ns(), len(content)))
        view = memoryview(content)
        for at in range(0, len(view), _PIECE):
            departure.data(view[at : at + _PIECE])


def send_tree(stream: Stream, source: Source, remote: bytes) -> None:
    """Copy a file or folder in. Links in a folder are copied as links."""
    plan = list(source.everything())  # everything is looked at before anything is sent
    with _Departure(stream, remote, merge=True) as departure:
        for found in plan:
            if stat.S_ISREG(found.state.st_mode):
                _send_file(departure, source, found)
            elif found.target is not None:
                link = _entry(found, found.state, "l")
                link["to"] = found.target
                departure.entry(link)
            else:
                departure.entry(_entry(found, found.state, "d"))


def send_archive(stream: Stream, archive: Archive, only: set[bytes] | None) -> None:
    """Put an archive's files back; only those paths (and the folders above them) where given."""
    wanted = None if only is None else _with_parents(only)
    if not archive.count or (wanted is not None and archive.root not in wanted):
        return
    taking = False
    with _Departure(stream, archive.root, merge=True) as departure:
        for kind, value in archive:
            if kind == frames.ENTRY:
                path = archive.root + b"/" + value["p"] if value["p"] else archive.root
                taking = wanted is None or path in wanted
                if taking:
                    departure.entry(value)
            elif taking and kind == frames.HOLE:
                departure.hole(value["n"])
            elif taking:
                departure.data(value)


class _Refused(Exception):
    """The sandbox has answered before everything was sent."""


class _Departure:
    """Files on their way into a sandbox: complete and checked at the end of a ``with`` block, or not there at all."""

    def __init__(self, stream: Stream, path: bytes, *, merge: bool) -> None:
        self._stream = stream
        self._path = path
        self._merge = merge
        self._crc = 0

    def __enter__(self) -> Self:
        self._stream.send(frames.PUT, messages.put(self._path, merge=self._merge))
        return self

    def entry(self, entry: Entry) -> None:
        """The next file, folder or link."""
        self._stream.send(frames.ENTRY, entry)
        self._look()

    def data(self, data: bytes | memoryview) -> None:
        """More of the file that the last entry named."""
        self._crc = crc32(data, self._crc)
        self._stream.send_data(data)
        self._look()

    def hole(self, size: int) -> None:
        """So many bytes of it are a hole."""
        self._stream.send(frames.HOLE, messages.hole(size))
        self._look()

    def _look(self) -> None:
        if self._stream.pending():
            raise _Refused

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, _Refused):
            self._stream.send(frames.END, messages.transfer_end(self._crc))
            try:
                self._stream.reply(time.monotonic() + ANSWER_SECONDS)
            except AgentError as refusal:
                raise _named(refusal, self._path) from None
            return True
        with suppress(ChannelLost, AgentError):
            self._stream.send(frames.END, messages.stopped_transfer())
            if isinstance(error, Exception):  # else the caller is in a hurry: Ctrl-C
                self._stream.reply(time.monotonic() + ANSWER_SECONDS)
        return False


def _with_parents(paths: set[bytes]) -> set[bytes]:
    above: set[bytes] = set()
    for path in paths:
        # Each folder once: a sandbox may have very many files very deep.
        while (path := os.path.dirname(path).rstrip(b"/")) and path not in above:  # noqa: PTH120 - bytes
            above.add(path)
    return above | paths


def _incoming(stream: Stream) -> Iterator[tuple[int, Any]]:
    """Entries, data and holes until the end, checked by their checksum and their types."""
    crc = 0
    until = time.monotonic() + ANSWER_SECONDS
    allowed = float(_FEW_FRAMES)
    while True:
        kind, value = stream.receive(until)
        seconds, more = _allowance(kind, value)
        until += seconds
        allowed += more - 1
        if allowed < 0:
            raise stream.unexpected(ValueError("a file in too many small pieces"))
        if kind == frames.DATA:
            crc = crc32(value, crc)
        elif kind == frames.ENTRY:
            _checked(stream, messages.check_entry, value)
        elif kind == frames.HOLE:
            _checked(stream, messages.hole_size, value)
        elif kind == frames.END and isinstance(value, dict):
            if messages.transfer_checksum(value) != crc:
                raise OSError(errno.EIO, "the checksum of the data from the sandbox is wrong")
            return
        else:
            raise stream.unexpected(kind)
        yield kind, value


def _allowance(kind: int, value: Any) -> tuple[float, float]:
    """Seconds and frames that an agent may take for what follows, because of this one."""
    if kind == frames.DATA:
        return len(value) / _SLOWEST, len(value) / _FRAME_BYTES
    return (_ENTRY_SECONDS, 2) if kind == frames.ENTRY else (0, 0)


def _checked(stream: Stream, check: Callable[[object], object], value: object) -> None:
    try:
        check(value)
    except TypeError as error:
        raise stream.unexpected(error) from None


def _named(error: AgentError, path: bytes) -> Exception:
    """An OSError that names the path as the caller knows it."""
    if not error.errno:
        return UsageError(f"{os.fsdecode(path)}: {error.text}")
    return OSError(error.errno, error.text, os.fsdecode(path))


def _entry(found: Found, state: os.stat_result, kind: Kind, size: int = 0) -> Entry:
    return entries.entry(found.below, kind, stat.S_IMODE(state.st_mode), state.st_mtime_ns, size)


def _send_file(departure: _Departure, source: Source, found: Found) -> None:
    with source.reading(found) as (descriptor, state):
        departure.entry(_entry(found, state, "f", state.st_size))
        if entries.has_holes(state):
            for piece in entries.content(descriptor, state.st_size, _PIECE):
                departure.hole(piece) if isinstance(piece, int) else departure.data(piece)
            return
        left = state.st_size
        while left:
            data = os.read(descriptor, min(left, _PIECE))
            if not data:
                raise OSError(errno.EIO, "the file shrank while it was uploaded", str(source.path(found.below)))
            departure.data(data)
            left -= len(data)
