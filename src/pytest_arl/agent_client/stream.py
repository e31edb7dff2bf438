"""One exchange with an agent: a request, and everything that answers it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout, quoted

if TYPE_CHECKING:
    from typing import Self

    from pytest_arl.agent.frames import Buffer

__all__ = ["Stream", "StreamChannel"]

_MOST_WAITING = 8 * 1024 * 1024  # bytes for one stream that nobody takes
_LONGEST_PATH = 64 * 1024  # that is told: a tree may be deeper than any path that the kernel takes


class StreamChannel(Protocol):
    """The channel of a stream, as the stream uses it."""

    def open(self) -> Stream:
        """Another stream."""

    def forget(self, stream: Stream) -> None:
        """Drop what still arrives for a stream."""

    def send(self, pieces: list[Buffer]) -> None:
        """Send frames, whole. ChannelLost."""

    def receive(self, stream: Stream, deadline: float | None) -> tuple[int, Any]:
        """The next frame or message of a stream, refusals included. ChannelLost, ChannelTimeout."""

    def fail(self, reason: str) -> ChannelLost:
        """Break the channel for good, and give the exception that says why."""

    def starved(self) -> bool:
        """True if the agent waits for a processor now."""


class Stream:
    """One exchange, until the end of its ``with`` block."""

    def __init__(self, channel: StreamChannel, number: int) -> None:
        self._channel = channel
        self.number = number
        self.inbox: deque[tuple[int, Any]] = deque()
        self.owner = threading.get_ident()
        self.arrived = 0  # bytes, or so: the one who reads counts these,
        self.taken = 0  # and the one who takes those, so that neither needs a lock
        self.most = _MOST_WAITING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.forget(self)

    def send(self, kind: int, value: object) -> None:
        """Send a message. ChannelLost; AgentError for one that is too large."""
        try:
            pieces = frames.pieces(kind, self.number, value)
        except ValueError as error:
            raise AgentError(f"this cannot be sent to a sandbox: {error}", 0, b"") from None
        self._channel.send(pieces)

    def send_data(self, data: bytes | memoryview) -> None:
        """Send one frame of bytes, MAX_PAYLOAD at the most. ChannelLost."""
        self._channel.send([frames.HEADER.pack(len(data), frames.DATA, self.number), data])

    def receive(self, deadline: float | None = None) -> tuple[int, Any]:
        """The next frame or message of this stream.

        Raises ChannelLost, AgentError for an answer that is a refusal, ChannelTimeout at ``deadline`` (monotonic
        seconds; None waits for as long as the agent shows that it lives).
        """
        kind, value = self._channel.receive(self, deadline)
        if kind == frames.ERROR:
            text, errno, path = messages.refusal(value)
            raise AgentError(quoted(text), errno, path[:_LONGEST_PATH])
        return kind, value

    def is_worked_on(self, deadline: float) -> bool:
        """True if the agent says by then that it runs a task, or could say nothing for want of a processor.
        ChannelLost.
        """
        with self._channel.open() as question:
            question.send(frames.PING, {})
            try:
                kind, value = question.receive(deadline)
            except AgentError:
                return False
            except ChannelTimeout:
                return self._channel.starved()
        return kind == frames.PONG and messages.is_busy(value)

    def pending(self) -> bool:
        """True if something has arrived that ``receive`` would give without waiting."""
        return bool(self.inbox)

    def reply(self, deadline: float | None = None) -> Any:
        """The answer to a request that has one."""
        kind, value = self.receive(deadline)
        if kind != frames.REPLY:
            raise self.unexpected(kind)
        return value

    def unexpected(self, what: int | Exception) -> ChannelLost:
        """Give the agent up: it answered with a frame of this type, or with one that could not be read."""
        said = f"a frame of type {what:#x}" if isinstance(what, int) else f"{type(what).__name__}: {str(what)[:200]}"
        return self._channel.fail(f"the agent violated the protocol: {said}")
