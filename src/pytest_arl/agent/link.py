"""The agent's end of the stream of frames.

What is to be sent waits in a *lane* for each stream: ready frames, and generators that produce frames. The lanes take
turns, so that a short answer is never behind a long transfer. A generator is asked for its next frame only when what
was before it has gone, so that the transfer is never held in memory; whoever produces output without being
asked looks at ``full`` first.
"""

from __future__ import annotations

import errno
import os
import select

from pytest_arl.agent import frames
from pytest_arl.agent.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Generator

    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.message_types import Refusal

    Producer = Generator[bytes, None, None]
    Lane = deque[bytes | Producer]
else:
    from _collections import deque  # the C half: `collections` costs a millisecond

__all__ = ["Link", "refusal"]

_READ_SIZE = 256 * 1024
_HIGH_WATER = 1024 * 1024
_JOIN = 32 * 1024  # short frames in a row go with one write
_LAST_WORD_MS = 200


def refusal(error: Exception, what: str) -> Refusal:
    """An exception as the answer to the request that met it: ``what`` says of the request how it is wrong."""
    if not isinstance(error, OSError):
        return {"text": "a request " + what + ": " + type(error).__name__ + ": " + str(error), "errno": 0, "path": b""}
    name = error.filename
    path = name if isinstance(name, bytes) else os.fsencode(name) if isinstance(name, str) else b""
    return {"text": error.strerror or str(error), "errno": error.errno or errno.EIO, "path": path}


class Link:
    """Frames out, frames in. Whoever owns it calls ``flush`` at the end of each round."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        received: Callable[[int, int, object], None],
        gone: Callable[[frames.ProtocolError | None], None],
    ) -> None:
        """``gone`` is called when the other side has closed, or with how it does not keep to the protocol."""
        self._loop = loop
        self._fd = fd
        self._received = received
        self._gone = gone
        self._parser = frames.Parser()
        self._lanes: dict[int, Lane] = {}
        self._unsent: bytes | memoryview = b""
        self._queued = 0
        self._writing = False
        self._waiting: list[Callable[[], None]] = []
        os.set_blocking(fd, False)
        loop.add(fd, READ, self._ready)

    @property
    def full(self) -> bool:
        """True if producers of unasked output should wait: see :meth:`when_room`."""
        return self._queued > _HIGH_WATER

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call once when the queue has room again."""
        self._waiting.append(callback)

    def send(self, kind: int, stream: int, value: object) -> None:
        """Queue a message; it goes at the end of this round, after what its stream has queued before."""
        self.send_frames(stream, frames.message(kind, stream, value))

    def send_frames(self, stream: int, data: bytes) -> None:
        """Queue ready frames of one stream. After ``close``, all that is sent goes nowhere."""
        if self._fd < 0:
            return
        self._lane(stream).append(data)
        self._queued += len(data)

    def send_from(self, stream: int, producer: Producer) -> None:
        """Queue a producer of one stream's frames, asked only as the peer reads.

        What it raises is the answer of its stream: one request that cannot be answered is not all of them.
        """
        if self._fd >= 0:
            self._lane(stream).append(producer)

    def flush(self) -> None:
        """Send what the peer takes now."""
        self._write()
        if self._waiting and not self.full:
            self._tell_room()
        if self._fd >= 0:
            self._want_write(bool(self._unsent or self._lanes))

    def close(self) -> None:
        """Let go of the descriptor, which is its owner's to close, and of all that waits to be sent."""
        if self._fd < 0:
            return
        self._loop.remove(self._fd)
        self._fd = -1
        lanes, self._lanes = self._lanes, {}
        self._unsent, self._queued = b"", 0
        for lane in lanes.values():
            for waiting in lane:
                if not isinstance(waiting, bytes):
                    waiting.close()
        self._tell_room()

    @property
    def closed(self) -> bool:
        """True once ``close`` was called."""
        return self._fd < 0

    @property
    def torn(self) -> bool:
        """True if a frame is on its way of which only a part has been sent."""
        return bool(self._unsent)

    def _tell_room(self) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def _write(self) -> None:
        while data := self._unsent or self._next():
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                self._unsent = data
                return
            except OSError:
                self._gone(None)
                return
            self._queued -= sent
            self._unsent = memoryview(data)[sent:] if sent < len(data) else b""

    def last_word(self, kind: int, value: object) -> None:
        """Send a message of no stream and nothing after it, as far as the peer takes it soon."""
        data = memoryview(bytes(self._unsent) + frames.message(kind, 0, value))
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        try:
            while data and poll.poll(_LAST_WORD_MS):
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass

    def _lane(self, stream: int) -> Lane:
        lane = self._lanes.get(stream)
        if lane is None:
            lane = self._lanes[stream] = deque()
        return lane

    def _next(self) -> bytes:
        """The next bytes to send: a piece of each lane in its turn; none if nothing waits."""
        while self._lanes:
            stream = next(iter(self._lanes))
            lane = self._lanes[stream]
            data = self._take(stream, lane)
            del self._lanes[stream]
            if lane:
                self._lanes[stream] = lane  # at the end
            if data:
                return data
        return b""

    def _take(self, stream: int, lane: Lane) -> bytes:
        """The next bytes of a lane; none where a producer had nothing more."""
        head = lane[0]
        if not isinstance(head, bytes):
            return self._produce(stream, lane, head)
        lane.popleft()
        if not lane or len(head) >= _JOIN:
            return head
        short = [head]
        size = len(head)
        while lane and size < _JOIN and isinstance(following := lane[0], bytes):
            lane.popleft()
            short.append(following)
            size += len(following)
        return b"".join(short)

    def _produce(self, stream: int, lane: Lane, producer: Producer) -> bytes:
        """Send as much as goes with one write: of many small files, each frame would be a call and wake the host."""
        pieces = []
        size = 0
        while size < _JOIN:
            try:
                piece = next(producer, b"")
            except Exception as error:  # noqa: BLE001 - whatever a sandbox's files made of it; the producer has ended
                piece = frames.message(frames.ERROR, stream, refusal(error, "cannot be answered"))
            if not piece:
                lane.popleft()
                break
            pieces.append(piece)
            size += len(piece)
        self._queued += size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _want_write(self, writing: bool) -> None:
        if writing != self._writing:
            self._writing = writing
            self._loop.modify(self._fd, READ | WRITE if writing else READ)

    def _ready(self, events: int) -> None:
        if not events & ~WRITE:
            return
        try:
            data = os.read(self._fd, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone(None)
            return
        try:
            for kind, stream, value in self._parser.feed(data):
                self._received(kind, stream, value)
        except frames.ProtocolError as problem:
            self._gone(problem)
