"""One running program: found, started, fed, listened to, and seen to its end."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import errno
import fcntl
import os
import time

from pytest_arl.agent import frames
from pytest_arl.agent.loop import READ, WRITE
from pytest_arl.agent.spool import INLINE, Capture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.agent.link import Link
    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.spool import Spool

__all__ = ["CannotStart", "Feed", "Output", "Pipes", "Push", "find_program", "spawn"]

_LARGE_PIPE = 1024 * 1024
_F_SETPIPE_SZ = 1031
_DEFAULT_SIGNALS = [_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGCHLD]


class CannotStart(Exception):
    """The program never ran. ``code`` is the exit code that a shell would give: 127 not found, 126 found but not
    to be run.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def find_program(name: bytes, path: bytes) -> bytes:
    """The file that a command's first word means, looked up in ``path`` (the PATH of the step) from the current
    folder.
    """
    if b"/" in name:
        return name
    denied = None
    for folder in path.split(b":"):
        candidate = (folder or b".") + b"/" + name
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            denied = denied or candidate
    if denied is not None:
        raise CannotStart(126, _text(denied) + ": Permission denied")
    raise CannotStart(127, _text(name) + ": command not found (PATH is " + _text(path) + ")")


def spawn(
    argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, stdio: tuple[int, int, int], oom: Callable[[bytes], None]
) -> int:
    """Start a program in a session of its own and give its pid. CannotStart says why it did not.

    posix_spawn shares the agent's memory until the exec, which costs a third of a fork. The agent has no threads,
    so its own working directory and OOM score can stand in for the child's meanwhile.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise CannotStart(126, "work_dir " + _text(cwd) + ": " + _reason(error)) from None
    try:
        program = find_program(argv[0], env.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin"))
        oom(b"1000")
        try:
            return os.posix_spawn(
                program,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        finally:
            oom(b"0")
    except OSError as error:
        raise _cannot_start(program, error) from None
    finally:
        os.chdir("/")


def _cannot_start(program: bytes, error: OSError) -> CannotStart:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.lexists(program):
            return CannotStart(126, _text(program) + ": found, but the interpreter or loader that it names is not")
        return CannotStart(127, _text(program) + ": " + _reason(error))
    return CannotStart(126, _text(program) + ": " + _reason(error))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class Push:
    """Sends a step's stream to the host while it runs: its head, or all of it where the caller watches.

    ``limit`` bytes of a stream are kept by the host, the first and the last half of it.
    """

    def __init__(self, link: Link, stream: int, step: int, kind: int, *, limit: int, live: bool) -> None:
        self.link = link
        self._stream = stream
        self._prefix = frames.STEP_INDEX.pack(step)
        self._kind = kind
        self._limit = limit
        self._live = live
        self._head = limit // 2
        self._sent = 0

    def grown(self, capture: Capture, data: bytes) -> None:
        """``data`` was just added to the capture: send what is due."""
        size = capture.size
        if not self._live:
            if size <= INLINE or self._sent >= self._head:
                return
            size = min(size, self._head)
        if self._sent == capture.size - len(data):
            self._send(data[: size - self._sent])
        else:
            for piece in capture.read(self._sent, size):
                self._send(piece)
        self._sent = size

    def rest(self, capture: Capture) -> Iterator[bytes]:
        """The frames that complete what the host keeps."""
        size = capture.size
        for piece in capture.read(self._sent, min(size, self._head)):
            yield self._frame(self._kind, piece)
        tail = self._kind + (frames.STDOUT_TAIL - frames.STDOUT)
        for piece in capture.read(max(self._head, size - (self._limit - self._head)), size):
            yield self._frame(tail, piece)

    @property
    def quiet(self) -> bool:
        """Whether nothing has been sent, so that a short stream may travel with its result."""
        return not self._sent

    def _send(self, data: bytes) -> None:
        room = frames.MAX_PAYLOAD - len(self._prefix)
        for at in range(0, len(data), room):
            self.link.send(self._frame(self._kind, data[at : at + room]))

    def _frame(self, kind: int, data: bytes) -> bytes:
        return frames.HEADER.pack(len(self._prefix) + len(data), kind, self._stream) + self._prefix + data


class Output:
    """The reading end of a program's stdout or stderr."""

    def __init__(self, loop: Loop, fd: int, capture: Capture, push: Push | None) -> None:
        self._loop = loop
        self._fd = fd
        self.capture = capture
        self.push = push
        self._size = INLINE
        self._paused = False
        os.set_blocking(fd, False)
        loop.add(fd, READ, self._ready)

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._fd >= 0

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
        self._read()
        if self._fd >= 0 and self.push is not None and self.push.link.full:
            self._loop.remove(self._fd)
            self._paused = True
            self.push.link.when_room(self._resume)

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
        if self.push is not None:
            self.push.grown(self.capture, data)
        return True

    def _enlarge(self) -> None:
        self._size = frames.MAX_PAYLOAD - 4
        try:
            fcntl.fcntl(self._fd, _F_SETPIPE_SZ, _LARGE_PIPE)
        except OSError:
            pass  # the user's share of pipe memory is used up: a small pipe is only slower


class Feed:
    """The writing end of a program's stdin."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._pending: list[tuple[memoryview, Callable[[bool], None] | None]] = []
        self._closing = False
        self._waiting = False
        os.set_blocking(fd, False)

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
            self._shut()

    def _flush(self, _events: int) -> None:
        while self._pending:
            data, done = self._pending[0]
            try:
                written = os.write(self._fd, data) if data else 0
            except BlockingIOError:
                if not self._waiting:
                    self._waiting = True
                    self._loop.add(self._fd, WRITE, self._flush)
                return
            except OSError:
                self._shut()
                return
            if written < len(data):
                self._pending[0] = (data[written:], done)
                continue
            del self._pending[0]
            if done is not None:
                done(True)
        if self._closing:
            self._shut()
        elif self._waiting:
            self._waiting = False
            self._loop.remove(self._fd)

    def _shut(self) -> None:
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


class Pipes:
    """A program's three streams: what it gets, and what the agent keeps of them."""

    def __init__(self, loop: Loop, spool: Spool, *, stdin: bool, keep_ends: int) -> None:
        self._loop = loop
        self._theirs: list[int] = []
        self._ours: list[int] = []
        if stdin:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(reader)
            self._ours.append(writer)
        else:
            self._theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._theirs.append(writer)
            self._ours.append(reader)
        self.captures = (Capture(spool, keep_ends), Capture(spool, keep_ends))
        self.outputs: tuple[Output, ...] = ()
        self.feed: Feed | None = None
        self.started_at = time.time()
        self.started = time.monotonic()

    @property
    def stdio(self) -> tuple[int, int, int]:
        """The program's descriptors 0, 1 and 2."""
        stdin, stdout, stderr = self._theirs
        return stdin, stdout, stderr

    def listen(self, pushes: tuple[Push | None, Push | None]) -> None:
        """The program runs: keep our ends only, and read."""
        self._close(self._theirs)
        if len(self._ours) == 3:
            self.feed = Feed(self._loop, self._ours.pop(0))
        self.outputs = tuple(
            Output(self._loop, fd, capture, push)
            for fd, capture, push in zip(self._ours, self.captures, pushes, strict=True)
        )

    def abandon(self) -> None:
        """The program did not start."""
        self._close(self._theirs)
        self._close(self._ours)

    def drain(self) -> None:
        """The program is gone: take what is left and close."""
        for output in self.outputs:
            output.drain()
        if self.feed is not None:
            self.feed.close()
            self.feed._shut()  # noqa: SLF001 - one room

    @staticmethod
    def _close(fds: list[int]) -> None:
        while fds:
            os.close(fds.pop())
