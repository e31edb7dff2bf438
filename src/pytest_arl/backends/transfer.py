"""The host's end of files on their way in and out, and archives of them.

What a sandbox sends is not trusted: names are checked again, links may not lead out of what is downloaded, nothing
is followed, modes lose setuid, and there is a limit on bytes (a sparse file of 7 EiB costs a sandbox nothing) and
on entries.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from binascii import crc32
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from pytest_arl.agent import frames
from pytest_arl.channel import AgentError, Stream
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Archive", "receive_file", "receive_tree", "send_archive", "send_bytes", "send_tree"]

MOST_BYTES = 16 * 1024**3
MOST_ENTRIES = 1_000_000
_PIECE = frames.MAX_PAYLOAD
_ANSWER_SECONDS = 60.0
_IN_MEMORY = 1024 * 1024


class Archive:
    """The content of one folder of a sandbox, kept on this side in a file without a name."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.count = 0
        self._file: BinaryIO = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # type: ignore[assignment]  # noqa: SIM115 - closed by close()

    def fill(self, stream: Stream) -> None:
        """Take everything that the sandbox has in the folder."""
        limits = {"bytes": MOST_BYTES, "entries": MOST_ENTRIES}
        stream.send(frames.GET, {"path": self.root, "one_filesystem": True, **limits})
        for kind, value in _incoming(stream):
            body = frames.encode(value) if kind == frames.ENTRY else value
            self._file.write(frames.HEADER.pack(len(body), kind, 0))
            self._file.write(body)
            self.count += kind == frames.ENTRY

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Entries and their data, in order."""
        self._file.seek(0)
        while header := self._file.read(frames.HEADER.size):
            size, kind, _ = frames.HEADER.unpack(header)
            body = self._file.read(size)
            yield kind, frames.decode(body) if kind == frames.ENTRY else body

    def close(self) -> None:
        """Free the file."""
        self._file.close()


def receive_file(stream: Stream, path: bytes) -> bytes:
    """The content of one file."""
    stream.send(frames.GET, {"path": path, "bytes": MOST_BYTES, "entries": 1})
    content = bytearray()
    try:
        for kind, value in _incoming(stream):
            if kind == frames.DATA:
                content += value
            elif value["t"] != "f":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
    except AgentError as error:
        raise _named(error, path) from None
    return bytes(content)


def receive_tree(stream: Stream, path: bytes, local: Path) -> None:
    """Copy a file or folder of the sandbox to ``local``; into it, where it is a folder and a folder comes."""
    stream.send(frames.GET, {"path": path, "bytes": MOST_BYTES, "entries": MOST_ENTRIES})
    local.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".arl-", dir=local.parent) as folder:
        root = Path(folder) / "root"
        arrival = _Arrival(root, os.fsdecode(path))
        try:
            for kind, value in _incoming(stream):
                if kind == frames.ENTRY:
                    arrival.entry(value)
                else:
                    arrival.data(value)
            arrival.finish()
        except AgentError as error:
            raise _named(error, path) from None
        finally:
            arrival.close()
        _put_in_place(root, local)


def send_bytes(stream: Stream, path: bytes, content: bytes, mode: int) -> None:
    """Write one file in pieces."""
    stream.send(frames.PUT, {"path": path})
    entry = {"p": b"", "t": "f", "m": mode, "n": len(content), "at": time.time_ns()}
    stream.send(frames.ENTRY, entry)
    view = memoryview(content)
    for at in range(0, len(view), _PIECE):
        stream.send_data(view[at : at + _PIECE])
        if stream.pending():
            break
    _finish(stream, crc32(content), path)


def send_tree(stream: Stream, local: Path, remote: bytes) -> None:
    """Copy a file or folder in. The argument may be a link to it; links below are copied as links."""
    try:
        state = local.stat()
    except OSError as error:
        raise UsageError(f"upload: {local}: {error.strerror}") from None
    plan = list(_plan(local, b"", state))  # everything is looked at before anything is sent
    stream.send(frames.PUT, {"path": remote, "merge": True})
    crc = 0
    try:
        for entry, source in plan:
            stream.send(frames.ENTRY, entry)
            if source is not None:
                crc = _send_file(stream, source, int(entry["n"]), crc)
            if stream.pending():
                break
    except OSError:
        stream.send(frames.END, {"abort": True})
        stream.reply(time.monotonic() + _ANSWER_SECONDS)
        raise
    _finish(stream, crc, remote)


def send_archive(stream: Stream, archive: Archive, only: set[bytes] | None) -> None:
    """Put an archive's files back; only those paths (and the folders above them) where given."""
    wanted = None if only is None else _with_parents(only)
    if wanted is not None and archive.root not in wanted:
        return
    stream.send(frames.PUT, {"path": archive.root, "merge": True})
    crc = 0
    taking = False
    for kind, value in archive:
        if kind == frames.ENTRY:
            path = archive.root + b"/" + value["p"] if value["p"] else archive.root
            taking = wanted is None or path in wanted
            if taking:
                stream.send(frames.ENTRY, value)
        elif taking:
            crc = crc32(value, crc)
            stream.send_data(value)
    _finish(stream, crc, archive.root)


def _with_parents(paths: set[bytes]) -> set[bytes]:
    found = set(paths)
    for path in paths:
        while path := os.path.dirname(path).rstrip(b"/"):  # noqa: PTH120 - bytes
            found.add(path)
    return found


def _incoming(stream: Stream) -> Iterator[tuple[int, Any]]:
    """Entries and data until the end, checked by their checksum."""
    crc = 0
    while True:
        kind, value = stream.receive()
        if kind == frames.END:
            if value["crc"] != crc:
                raise OSError(errno.EIO, "the checksum of what came out of the sandbox is wrong")
            return
        if kind == frames.DATA:
            crc = crc32(value, crc)
        yield kind, value


def _finish(stream: Stream, crc: int, path: bytes) -> None:
    stream.send(frames.END, {"crc": crc})
    try:
        stream.reply(time.monotonic() + _ANSWER_SECONDS)
    except AgentError as error:
        raise _named(error, path) from None


def _named(error: AgentError, path: bytes) -> Exception:
    """An OSError that names the path as the caller knows it."""
    if not error.errno:
        return UsageError(f"{os.fsdecode(path)}: {error.text}")
    return OSError(error.errno, error.text, os.fsdecode(path))


def _plan(local: Path, below: bytes, state: os.stat_result) -> Iterator[tuple[dict[str, Any], Path | None]]:
    entry: dict[str, Any] = {"p": below, "m": stat.S_IMODE(state.st_mode), "at": state.st_mtime_ns, "n": 0}
    if stat.S_ISLNK(state.st_mode):
        yield {**entry, "t": "l", "to": os.fsencode(local.readlink())}, None
    elif stat.S_ISREG(state.st_mode):
        yield {**entry, "t": "f", "n": state.st_size}, local
    elif stat.S_ISDIR(state.st_mode):
        yield {**entry, "t": "d"}, None
        for child in sorted(local.iterdir()):
            name = os.fsencode(child.name)
            yield from _plan(child, below + b"/" + name if below else name, child.lstat())
    else:
        raise UsageError(
            f"upload: {local} is neither a file, a folder nor a link, so it cannot be copied; leave it out"
        )


def _send_file(stream: Stream, source: Path, size: int, crc: int) -> int:
    with source.open("rb") as file:
        left = size
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise OSError(errno.EIO, "the file shrank while it was uploaded", str(source))
            crc = crc32(data, crc)
            stream.send_data(data)
            left -= len(data)
            if stream.pending():
                break
    return crc


class _Arrival:
    """A download on its way into a new folder of this machine."""

    def __init__(self, root: Path, remote: str) -> None:
        self._root = root
        self._remote = remote
        self._folders: dict[bytes, tuple[int, int]] = {}
        self._fd = -1
        self._left = 0
        self._bytes = 0
        self._entries = 0
        self._times = (0, 0)

    def entry(self, entry: dict[str, Any]) -> None:
        """The next file, folder or link."""
        self._complete()
        path = self._path(entry["p"])
        self._entries += 1
        self._bytes += entry["n"]
        if self._entries > MOST_ENTRIES or self._bytes > MOST_BYTES:
            raise UsageError(f"download of {self._remote}: more than {MOST_ENTRIES} entries or {MOST_BYTES >> 30} GiB")
        mode = entry["m"] & 0o777
        if entry["t"] == "d":
            path.mkdir(0o700)
            self._folders[entry["p"]] = (mode, entry["at"])
        elif entry["t"] == "l":
            self._link(path, entry)
        else:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(self._fd, mode)
            self._left, self._times = entry["n"], (entry["at"], entry["at"])

    def data(self, data: bytes) -> None:
        """More of the file that the last entry named."""
        if self._fd < 0 or len(data) > self._left:
            raise OSError(errno.EIO, "more data than the entry announced", self._remote)
        self._left -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> None:
        """Everything has come: give folders their modes and times, those inside first."""
        self._complete()
        for name, (mode, mtime) in sorted(self._folders.items(), reverse=True):
            path = self._root / os.fsdecode(name) if name else self._root
            os.utime(path, ns=(mtime, mtime))
            path.chmod(mode | 0o700)

    def close(self) -> None:
        """Let go of an unfinished file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _complete(self) -> None:
        if self._fd >= 0:
            if self._left:
                raise OSError(errno.EIO, "less data than the entry announced", self._remote)
            os.utime(self._fd, ns=self._times)
            self.close()

    def _path(self, name: bytes) -> Path:
        """Where an entry goes: below the root, in a folder that this transfer has made, so that no link is on the
        way.
        """
        if not name:
            if self._entries:
                raise OSError(errno.EINVAL, "two entries for the root", self._remote)
            return self._root
        parent, _, last = name.rpartition(b"/")
        if parent not in self._folders or last in (b"", b".", b"..") or b"\0" in last:
            raise OSError(
                errno.EINVAL,
                f"the sandbox sent the name {os.fsdecode(name)!r}, which is not below the download",
                self._remote,
            )
        return self._root / os.fsdecode(name)

    def _link(self, path: Path, entry: dict[str, Any]) -> None:
        target = os.fsdecode(entry["to"])
        where = os.fsdecode(entry["p"])
        depth = len(PurePosixPath(where).parent.parts)
        lowest = depth
        for part in PurePosixPath(target).parts:
            depth += -1 if part == ".." else 1
            lowest = min(lowest, depth)
        if target.startswith("/") or lowest < 0 or not where:
            raise UsageError(
                f"download of {self._remote}: {where or 'it'} is a link to {target!r}, outside of what is downloaded: "
                "remove the link in the sandbox first, or download less"
            )
        path.symlink_to(target)


def _put_in_place(root: Path, local: Path) -> None:
    if not local.is_dir() or not root.is_dir():
        if local.is_dir():
            raise UsageError(
                f"download: {local} is a folder; name the file that is to be written, such as {local}/result.txt"
            )
        root.replace(local)
        return
    for child in root.iterdir():
        target = local / child.name
        comes_folder = child.is_dir() and not child.is_symlink()
        if (
            target.is_dir() != comes_folder
            if target.exists() and not target.is_symlink()
            else target.is_symlink() and comes_folder
        ):
            raise UsageError(f"download: {target} is in the way: a link, or a file where a folder comes")
    for child in root.iterdir():
        target = local / child.name
        if target.is_dir() and not target.is_symlink():
            _put_in_place(child, target)
        else:
            with suppress(FileNotFoundError):
                target.unlink()
            shutil.move(child, target)
