"""A running program's three streams: fed, listened to, passed on to the host, kept."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from pytest_arl.agent import frames
from pytest_arl.agent.loop import READ, WRITE
from pytest_arl.agent.spool import INLINE, Capture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_arl.agent.link import Link
    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.spool import Spool

__all__ = ["Feed", "Output", "Pipes", "Push", "open_null"]

_LARGE_PIPE = 1024 * 1024
_F_SETPIPE_SZ = 1031
_PIECE = 252 * 1024
_NULL_DEVICE = os.makedev(1, 3)
"""Numbers of Linux's memory devices (Documentation/admin-guide/devices.txt)."""


class Push:
    """Sends a step's stream to the host while it runs: its head, or all of it where the caller watches.

    ``limit`` bytes of a stream are kept by the host, the first and the last half of it.
    """

    def __init__(self, link: Link, stream: int, step: int, kind: int, *, limit: int, live: bool) -> None:
        self.link = link
        self.live = live
        self._stream = stream
        self._prefix = frames.STEP_INDEX.pack(step)
        self._kind = kind
        self._limit = limit
        self._head = limit // 2
        self._sent = 0

    @property
    def stream(self) -> int:
        """The stream of the link that it sends on."""
        return self._stream

    @property
    def quiet(self) -> bool:
        """True if nothing has been sent, so that a short stream may travel with its result."""
        return not self._sent

    def grown(self, capture: Capture, data: bytes) -> None:
        """``data`` was just added to the capture: send what is due, a caller who watches gets it at once."""
        if self.live and self._sent == capture.size - len(data):
            room = frames.MAX_PAYLOAD - len(self._prefix)
            for at in range(0, len(data), room):
                self.link.send_frames(self._stream, self._frame(self._kind, data[at : at + room]))
            self._sent = capture.size
        elif capture.size > INLINE:
            if self._follows(capture, len(data)) and not self.link.full:
                self.link.send_frames(self._stream, self._frame(self._kind, data))  # rather than read it again
                self._sent = capture.size
            self.offer(capture)

    def offer(self, capture: Capture) -> None:
        """Send what is due and the link has room for: should the sandbox be lost, most of it is there."""
        due = self._due(capture)
        while self._sent < due and not self.link.full:
            end = min(due, self._sent + _PIECE)
            for piece in capture.read(self._sent, end):
                self.link.send_frames(self._stream, self._frame(self._kind, piece))
            self._sent = end

    def catch_up(self, capture: Capture) -> Generator[bytes, None, None]:
        """The frames of what is due by now; what grows from here on follows them."""
        start, self._sent = self._sent, max(self._sent, self._due(capture))
        return (self._frame(self._kind, piece) for piece in capture.read(start, self._sent))

    def rest(self, capture: Capture) -> Generator[bytes, None, None]:
        """The frames that complete what the host keeps."""
        size = capture.size
        for piece in capture.read(self._sent, min(size, self._head)):
            yield self._frame(self._kind, piece)
        tail = self._kind + (frames.STDOUT_TAIL - frames.STDOUT)
        for piece in capture.read(max(self._head, size - (self._limit - self._head)), size):
            yield self._frame(tail, piece)

    def _follows(self, capture: Capture, size: int) -> bool:
        """True if the last ``size`` bytes are due and all before them are sent, none of them lost."""
        return self._sent == capture.size - size and capture.size <= self._head and not capture.lost

    def _due(self, capture: Capture) -> int:
        return capture.size if self.live else min(capture.size, self._head)

    def _frame(self, kind: int, data: bytes) -> bytes:
        return b"".join((frames.HEADER.pack(len(self._prefix) + len(data), kind, self._stream), self._prefix, data))


class Output:
    """The reading end of a program's stdout or stderr.

    Attributes:
        capture: what is kept of it.
        pushes: who passes it on.
        heard: called when the program has written.
    """

    def __init__(self, loop: Loop, fd: int, capture: Capture, pushes: list[Push]) -> None:
        self._loop = loop
        self._fd = fd
        self.capture = capture
        self.pushes = pushes
        self.heard: Callable[[], None] = lambda: None
        self._size = INLINE
        self._paused = False
        os.set_blocking(fd, False)
        loop.add(fd, READ, self._ready)

    def offer(self) -> None:
        """Pass on what is due, though nothing new has come."""
        for push in self.pushes:
            push.offer(self.capture)

    def catch_up(self) -> None:
        """Take what is in the pipe by now, at the most what a pipe holds: a writer may go on for ever."""
        most = self.capture.size + _LARGE_PIPE
        while self._fd >= 0 and self.capture.size < most and self._read():
            pass

    def drain(self) -> None:
        """Take what is left; nothing lives that could write more."""
        self.catch_up()
        self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._fd >= 0:
            if not self._paused:
                self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ready(self, _events: int) -> None:
        if self._read():
            self.heard()
        for push in self.pushes:
            if self._fd >= 0 and push.live and push.link.full:
                # A caller who watches gets all of it, so the program waits for him: in its write, as for any slow
                # reader.
                self._loop.remove(self._fd)
                self._paused = True
                push.link.when_room(self._resume)
                return

    def _resume(self) -> None:
        if self._fd >= 0 and self._paused:
            self._paused = False
            self._loop.add(self._fd, READ, self._ready)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, self._size)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        self.capture.append(data)
        if self._size == INLINE and self.capture.size > INLINE:
            self._enlarge()
        for push in self.pushes:
            push.grown(self.capture, data)
        return True

    def _enlarge(self) -> None:
        self._size = _PIECE
        _enlarge(self._fd)


class Feed:
    """The writing end of a program's stdin."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._pending: list[tuple[memoryview, Callable[[bool], None] | None]] = []
        self._closing = False
        self._waiting = False
        self._came = 0
        self._large = False
        os.set_blocking(fd, False)

    def unseen(self, data: bytes, at: int) -> bytes:
        """The new part of bytes that begin at that place of all that are written: they may be sent twice, where a
        connection broke before the answer to the first time.
        """
        new = data[max(0, self._came - at) :]
        self._came = max(self._came, at + len(data))
        return new

    def write(self, data: bytes, done: Callable[[bool], None] | None = None) -> None:
        """Hand bytes on; ``done(True)`` once the program's pipe took them, ``done(False)`` where nobody reads it
        any more.
        """
        if self._fd < 0 or self._closing:
            if done is not None:
                done(False)
            return
        self._pending.append((memoryview(data), done))
        self._flush(0)

    def close(self) -> None:
        """End of file, after what is pending."""
        self._closing = True
        if not self._pending:
            self.drop()

    def drop(self) -> None:
        """Close at once: what is pending has no reader."""
        if self._fd >= 0:
            if self._waiting:
                self._waiting = False
                self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = -1
        pending, self._pending = self._pending, []
        for _data, done in pending:
            if done is not None:
                done(False)

    def _flush(self, _events: int) -> None:
        while self._pending:
            data, done = self._pending[0]
            try:
                written = os.write(self._fd, data) if data else 0
            except BlockingIOError:
                if not self._large:
                    self._large = True
                    _enlarge(self._fd)
                    continue
                if not self._waiting:
                    self._waiting = True
                    self._loop.add(self._fd, WRITE, self._flush)
                return
            except OSError:
                self.drop()
                return
            if written < len(data):
                self._pending[0] = (data[written:], done)
                continue
            del self._pending[0]
            if done is not None:
                done(True)
        if self._closing:
            self.drop()
        elif self._waiting:
            self._waiting = False
            self._loop.remove(self._fd)


def open_null() -> int:
    """/dev/null, opened before any step runs; OSError where that is another file.

    A step that is root in a container can put a link in its place, to a file that is open to the agent alone.
    """
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    if os.fstat(fd).st_rdev != _NULL_DEVICE:
        os.close(fd)
        raise OSError(errno.ENODEV, "/dev/null is another file")
    return fd


def _opened_anew(null: int) -> int:
    """The same device by an open file of its own: flags and locks that one step leaves on it are no later step's."""
    try:
        return os.open(f"/proc/self/fd/{null}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc
        return os.dup(null)


class Pipes:
    """A program's three streams: what it gets, and what the agent keeps of them. OSError where none can be had."""

    def __init__(self, loop: Loop, spool: Spool, null: int, *, stdin: bool, keep_ends: int) -> None:
        """``null`` is an open /dev/null: what a program without stdin reads."""
        self._loop = loop
        self._null = null
        self._theirs: list[int] = []
        self._ours: list[int] = []
        try:
            self._open(stdin)
        except OSError:
            self.abandon()
            raise
        self.captures = (Capture(spool, keep_ends), Capture(spool, keep_ends))
        self.outputs: tuple[Output, ...] = ()
        self.feed: Feed | None = None
        self.started_at = time.time()
        self.started = time.monotonic()

    def _open(self, stdin: bool) -> None:
        if stdin:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(reader)
            self._ours.append(writer)
        else:
            self._theirs.append(_opened_anew(self._null))
        for _ in range(2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(writer)
            self._ours.append(reader)

    @property
    def stdio(self) -> tuple[int, int, int]:
        """The program's descriptors 0, 1 and 2."""
        stdin, stdout, stderr = self._theirs
        return stdin, stdout, stderr

    def listen(self, pushes: tuple[list[Push], list[Push]]) -> None:
        """The program runs: keep our ends only, and read. ``pushes`` pass on stdout, and stderr."""
        self._close(self._theirs)
        if len(self._ours) == 3:
            self.feed = Feed(self._loop, self._ours.pop(0))
        self.outputs = tuple(
            Output(self._loop, fd, capture, passed_on)
            for fd, capture, passed_on in zip(self._ours, self.captures, pushes, strict=True)
        )
        self._ours = []

    def abandon(self) -> None:
        """The program did not start."""
        self._close(self._theirs)
        self._close(self._ours)

    def join(self, pushes: tuple[Push, Push]) -> None:
        """One more passes the outputs on, from their beginning."""
        for output, push in zip(self.outputs, pushes, strict=True):
            push.link.send_from(push.stream, push.catch_up(output.capture))
            output.pushes.append(push)

    def leave(self, link: Link) -> None:
        """Stop passing output on over a link."""
        for output in self.outputs:
            output.pushes = [push for push in output.pushes if push.link is not link]

    def drain(self) -> None:
        """The program is gone: take what is left and close."""
        for output in self.outputs:
            output.drain()
        if self.feed is not None:
            self.feed.drop()

    @staticmethod
    def _close(fds: list[int]) -> None:
        while fds:
            os.close(fds.pop())


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _LARGE_PIPE)
    except OSError:
        pass  # the user's share of pipe memory is used up: a small pipe is only slower
