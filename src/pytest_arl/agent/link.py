"""The agent's end of the stream of frames.

What is to be sent waits in a queue of ready frames and of generators that produce frames. A generator is asked for
its next frame only when what was before it has gone, so that a large transfer is never held in memory; whoever
produces output without being asked looks at ``full`` first.
"""

from __future__ import annotations

import os
from _collections import deque  # type: ignore[import-not-found]  # the C half: `collections` costs a millisecond

from pytest_arl.agent import frames
from pytest_arl.agent.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.agent.loop import Loop

__all__ = ["Link"]

_READ_SIZE = 256 * 1024
_HIGH_WATER = 1024 * 1024


class Link:
    """Frames out, frames in; the agent ends when the other side closes."""

    def __init__(self, loop: Loop, fd: int, received: Callable[[int, int, object], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._received = received
        self._parser = frames.Parser()
        self._queue: deque[bytes | memoryview | Iterator[bytes]] = deque()
        self._queued = 0
        self._writing = False
        self._waiting: list[Callable[[], None]] = []
        os.set_blocking(fd, False)
        loop.add(fd, READ, self._ready)
        loop.after = self.flush

    @property
    def full(self) -> bool:
        """Whether producers of unasked output should wait: see :meth:`when_room`."""
        return self._queued > _HIGH_WATER

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call once when the queue has room again."""
        self._waiting.append(callback)

    def send(self, data: bytes) -> None:
        """Queue frames; they go at the end of this round."""
        self._queue.append(data)
        self._queued += len(data)

    def send_from(self, producer: Iterator[bytes]) -> None:
        """Queue a producer of frames, asked only as the peer reads."""
        self._queue.append(producer)

    def flush(self) -> None:
        """Send what the peer takes now."""
        queue = self._queue
        try:
            while queue:
                head = queue[0]
                if isinstance(head, (bytes, memoryview)):
                    sent = os.write(self._fd, head)
                    self._queued -= sent
                    if sent == len(head):
                        queue.popleft()
                    else:
                        queue[0] = memoryview(head)[sent:]
                else:
                    piece = next(head, None)
                    if piece is None:
                        queue.popleft()
                    else:
                        queue.appendleft(piece)
                        self._queued += len(piece)
        except BlockingIOError:
            self._want_write(True)
            return
        except OSError:
            os._exit(0)  # the host is gone
        self._want_write(False)
        if self._waiting and not self.full:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()
            if queue:
                self._want_write(True)  # what they produced goes in the next round

    def _want_write(self, writing: bool) -> None:
        if writing != self._writing:
            self._writing = writing
            self._loop.modify(self._fd, READ | WRITE if writing else READ)

    def _ready(self, events: int) -> None:
        if events & ~WRITE:
            try:
                data = os.read(self._fd, _READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                os._exit(0)
            if not data:
                os._exit(0)
            for kind, stream, value in self._parser.feed(data):
                self._received(kind, stream, value)
