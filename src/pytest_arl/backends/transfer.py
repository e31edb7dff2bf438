"""The host's end of files on their way in and out, and archives of them.

What a sandbox sends is not trusted: names are checked again, links may not lead out of what is downloaded, nothing
is followed, modes lose setuid, and there is a limit on bytes (a sparse file of 7 EiB costs a sandbox nothing) and
on entries.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from binascii import crc32
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from pytest_arl.agent import frames
from pytest_arl.channel import AgentError, ChannelLost, Stream
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["Archive", "receive_file", "receive_tree", "send_archive", "send_bytes", "send_tree"]

MOST_BYTES = 16 * 1024**3
MOST_ENTRIES = 1_000_000
MOST_READ = 1024**3  # a file that is read into memory
MOST_DEPTH = 256  # folders in folders: what removes such a tree later (shutil, pytest's tmp_path) has a limit too
_STAGING = ".arl-download-"
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
    stream.send(frames.GET, {"path": path, "bytes": MOST_READ, "entries": 1})
    content = bytearray()
    size = 0
    try:
        for kind, value in _incoming(stream):
            if kind == frames.ENTRY:
                if value["t"] != "f":
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
                size = value["n"]
            else:
                content += value
                if len(content) > size:
                    raise stream.unexpected(ValueError("more data than the entry announced"))
    except AgentError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(f"read: {os.fsdecode(path)}: {error.text}; use download() for large files") from None
        raise _named(error, path) from None
    return bytes(content)


def receive_tree(stream: Stream, path: bytes, local: Path) -> None:
    """Copy a file or folder of the sandbox to ``local``; into it, where it is a folder and a folder comes."""
    stream.send(frames.GET, {"path": path, "bytes": MOST_BYTES, "entries": MOST_ENTRIES})
    local.parent.mkdir(parents=True, exist_ok=True)
    with _staging(local.parent) as folder:
        root = folder / "root"
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


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A folder beside the destination, so that what is complete can be moved there at once.

    It is locked while it is used: one without a lock was left by a process that was killed, and goes now.
    """
    for left in parent.glob(f"{_STAGING}*"):
        with suppress(OSError):
            lock = _lock(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    folder, lock = _new_staging(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _new_staging(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another download here took it for one that was left
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            return folder, -1  # a file system without locks, where nobody takes it either


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock. BlockingIOError where another holds it, FileNotFoundError where it
    is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.lstat()):
            stack.pop_all()
            return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def send_bytes(stream: Stream, path: bytes, content: bytes, mode: int | None) -> None:
    """Write one file in pieces. ``mode`` None is that of the file that is there."""
    with _Departure(stream, path, merge=False) as departure:
        departure.entry({"p": b"", "t": "f", "m": mode, "n": len(content), "at": time.time_ns()})
        view = memoryview(content)
        for at in range(0, len(view), _PIECE):
            departure.data(view[at : at + _PIECE])


def send_tree(stream: Stream, local: Path, remote: bytes) -> None:
    """Copy a file or folder in. The argument may be a link to it; links below are copied as links."""
    try:
        state = local.stat()
    except OSError as error:
        raise UsageError(f"upload: {local}: {error.strerror}") from None
    plan = list(_plan(local, b"", state))  # everything is looked at before anything is sent
    with _Departure(stream, remote, merge=True) as departure:
        for entry, source in plan:
            departure.entry(entry)
            if source is not None:
                _send_file(departure, source, int(entry["n"]), follow=source is local)


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
        self._stream.send(frames.PUT, {"path": self._path, "merge": self._merge})
        return self

    def entry(self, entry: dict[str, Any]) -> None:
        """The next file, folder or link."""
        self._stream.send(frames.ENTRY, entry)
        self._look()

    def data(self, data: bytes | memoryview) -> None:
        """More of the file that the last entry named."""
        self._crc = crc32(data, self._crc)
        self._stream.send_data(data)
        self._look()

    def _look(self) -> None:
        if self._stream.pending():
            raise _Refused

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, _Refused):
            self._stream.send(frames.END, {"crc": self._crc})
            try:
                self._stream.reply(time.monotonic() + _ANSWER_SECONDS)
            except AgentError as refusal:
                raise _named(refusal, self._path) from None
            return True
        with suppress(ChannelLost, AgentError):
            self._stream.send(frames.END, {"abort": True})
            if isinstance(error, Exception):  # else the caller is in a hurry: Ctrl-C
                self._stream.reply(time.monotonic() + _ANSWER_SECONDS)
        return False


def _with_parents(paths: set[bytes]) -> set[bytes]:
    found = set(paths)
    for path in paths:
        while path := os.path.dirname(path).rstrip(b"/"):  # noqa: PTH120 - bytes
            found.add(path)
    return found


def _incoming(stream: Stream) -> Iterator[tuple[int, Any]]:
    """Entries and data until the end, checked by their checksum and their types."""
    crc = 0
    while True:
        kind, value = stream.receive()
        if kind == frames.DATA:
            crc = crc32(value, crc)
        elif kind == frames.ENTRY:
            if not _is_entry(value):
                raise stream.unexpected(TypeError("an entry of a transfer"))
        elif kind == frames.END and isinstance(value, dict):
            if value.get("crc") != crc:
                raise OSError(errno.EIO, "the checksum of what came out of the sandbox is wrong")
            return
        else:
            raise stream.unexpected(kind)
        yield kind, value


def _is_entry(value: object) -> bool:
    """Whether a sandbox's entry is one: what it says of sizes and names is still only what it says."""
    if not isinstance(value, dict):
        return False
    numbers = value.get("m"), value.get("at"), value.get("n")
    return (
        isinstance(value.get("p"), bytes)
        and value.get("t") in {"f", "d", "l"}
        and all(type(number) is int for number in numbers)
        and value["n"] >= 0
        and (value["t"] != "l" or isinstance(value.get("to"), bytes))
    )


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


def _send_file(departure: _Departure, source: Path, size: int, *, follow: bool) -> None:
    # O_NONBLOCK: a FIFO that took the file's place since it was looked at must not be waited for.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    with open(source, "rb", opener=lambda path, _: os.open(path, flags)) as file:
        left = size
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise OSError(errno.EIO, "the file shrank while it was uploaded", str(source))
            departure.data(data)
            left -= len(data)


class _Arrival:
    """A download on its way into a new folder of this machine."""

    def __init__(self, root: Path, remote: str) -> None:
        self._root = root
        self._remote = remote
        self._folders: dict[bytes, tuple[int, int]] = {}
        self._links: list[Path] = []
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
        """Everything has come: look where links lead, give folders their modes and times, those inside first."""
        self._complete()
        self._check_links()
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
        parent, slash, last = name.rpartition(b"/")
        if bool(parent) != bool(slash) or parent not in self._folders or last in (b"", b".", b"..") or b"\0" in last:
            raise OSError(
                errno.EINVAL,
                f"the sandbox sent the name {os.fsdecode(name)!r}, which is not below the download",
                self._remote,
            )
        if name.count(b"/") >= MOST_DEPTH:
            raise UsageError(f"download of {self._remote}: folders in folders, more than {MOST_DEPTH} deep")
        return self._root / os.fsdecode(name)

    def _link(self, path: Path, entry: dict[str, Any]) -> None:
        """Make a link, if it does not obviously lead out: :meth:`finish` looks where it really leads."""
        target, where = os.fsdecode(entry["to"]), os.fsdecode(entry["p"])
        parts = PurePosixPath(target).parts
        depth = lowest = len(PurePosixPath(where).parent.parts)
        for part in parts:
            depth += -1 if part == ".." else 1
            lowest = min(lowest, depth)
        if not where or not parts or "\0" in target or parts[0] == "/" or lowest < 0:
            raise self._leads_out(where, target)
        path.symlink_to(target)
        if ".." in parts:
            self._links.append(path)

    def _check_links(self) -> None:
        """A ``..`` counts from where the names before it lead, which may be links themselves."""
        root = os.path.realpath(self._root)
        for path in self._links:
            parts = path.readlink().parts
            up = Path(*parts[: len(parts) - parts[::-1].index("..")])
            try:
                real = os.path.realpath(path.parent / up, strict=True)
            except OSError:
                real = ""  # through what is not part of the download, and may be there another time
            if real != root and not real.startswith(root + "/"):
                raise self._leads_out(str(path.relative_to(self._root)), str(path.readlink()))

    def _leads_out(self, where: str, target: str) -> UsageError:
        what = repr(where) if where else "it"
        return UsageError(
            f"download of {self._remote}: {what} is a link to {target!r}, outside of what is downloaded: "
            "remove the link in the sandbox first, or download less"
        )


def _put_in_place(root: Path, local: Path) -> None:
    """Move what came to where it belongs; nothing is moved where something is in the way."""
    if not _is_folder(root):
        if local.is_dir():
            raise UsageError(
                f"download: {local} is a folder; name the file that is to be written, such as {local}/result.txt"
            )
        root.replace(local)
    elif local.is_dir():
        moves = list(_moves(root, local))
        for source, target in moves:
            shutil.move(source, target)
    elif os.path.lexists(local):
        raise UsageError(f"download: {local} is in the way: a folder comes")
    else:
        root.replace(local)


def _moves(root: Path, local: Path) -> Iterator[tuple[Path, Path]]:
    for child in root.iterdir():
        target = local / child.name
        if _is_folder(child) and _is_folder(target):
            yield from _moves(child, target)
        elif os.path.lexists(target) and (_is_folder(child) or _is_folder(target)):
            raise UsageError(f"download: {target} is in the way: a link, or a file where a folder comes")
        else:
            yield child, target


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
