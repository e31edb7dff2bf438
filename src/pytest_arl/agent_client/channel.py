"""The host's end of the agent's protocol: streams of frames over one socket.

There is no reading thread: whoever waits for an answer reads the socket, and hands what is not for him to those who
wait beside him. So a step's answer arrives in the thread that asked, with no switch in between, and an idle sandbox
costs nothing.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.agent_socket import AgentSocket
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.stream import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.frames import Buffer
    from pytest_arl.agent.message_types import ReadyKey
    from pytest_arl.agent_client.agent_config import AgentConfig

__all__ = ["Channel"]

_LEAVE_SECONDS = 1.0
_MORE_WAITING = 2 * 1024 * 1024  # after each second in which he took nothing; what an agent may have queued before
_MOST_HELD = 128 * 1024 * 1024  # bytes for one stream in any case: what an agent has queued before an answer is a tenth
_PATIENCE_SECONDS = 1.0
_PARTS_SECONDS = 5.0  # past a deadline, for the rest of an answer of which some has come
_LOOK_SECONDS = 0.02
_MESSAGE_BYTES = 512
_LONGEST_SECONDS = 3600.0  # a lock waits for 292 years at the most, but not for infinity


class Channel:
    """Streams over one connected socket. Thread-safe; owns the socket."""

    def __init__(
        self, connection: socket.socket, *, lost: Callable[[], str], starved: Callable[[], bool] = lambda: False
    ) -> None:
        """``lost()`` says what the backend knows of an agent that is gone (an exit code, a killed pod), ``starved()``
        whether it waits for a processor now: beside hundreds of processes it may get one after seconds.
        """
        self._owner = os.getpid()
        self.starved = starved
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._state = threading.Condition()
        self._reader: int | None = None
        self._agent = AgentSocket(connection, self._state, lost=lost, starved=starved)
        self.boot_id = ""

    # Introduction

    def handshake(self, config: AgentConfig, deadline: float, *, started: Callable[[], object] | None = None) -> None:
        """Tell the agent what it is to be, and wait until it is. ChannelLost, ChannelTimeout.

        It is told before it is there: what it then needs has been made while its interpreter starts. ``started`` is
        called once it runs, while it becomes what it is to be.
        """
        self._introduce(config.message(), deadline, started)

    def greet(self, deadline: float) -> dict[str, Any]:
        """Wait for the agent's hello, and give what it says."""
        with self._stream(0) as stream:
            return self._greeting(stream, deadline)

    def _greeting(self, stream: Stream, deadline: float) -> dict[str, Any]:
        kind, value = self._receive_or_explain(stream, deadline)
        boot = messages.boot_of(value) if kind == frames.HELLO else None
        if boot is None:
            raise self.fail(f"the agent does not speak protocol version {frames.VERSION}")
        self.boot_id = boot
        found: dict[str, Any] = value
        return found

    def introduce(self, hello: Mapping[str, object], deadline: float) -> Said[ReadyKey]:
        """Tell the agent who speaks, wait until it is ready, and give what it says then. ChannelLost says why it
        admits nobody.

        Whoever has nothing to sign need not wait for the agent's hello before: where code in the sandbox crowds its
        port, those who say at once who they are get through.
        """
        return self._introduce(hello, deadline, None)

    def _introduce(
        self, hello: Mapping[str, object], deadline: float, started: Callable[[], object] | None
    ) -> Said[ReadyKey]:
        with self._stream(0) as stream:
            stream.send(frames.HELLO, hello)
            if not self.boot_id:
                self._greeting(stream, deadline)
            if started is not None:
                started()
            kind, value = self._receive_or_explain(stream, deadline)
            if kind != frames.READY or not isinstance(value, dict):
                raise self.fail("the agent did not get ready")
            return value

    def _receive_or_explain(self, stream: Stream, deadline: float) -> tuple[int, Any]:
        try:
            return stream.receive(deadline)
        except AgentError as error:
            raise self.fail(f"the agent gave up: {error.text}") from None

    # Streams

    def open(self) -> Stream:
        """A new stream, for a ``with`` block: what still arrives for it afterwards is dropped."""
        if os.getpid() != self._owner:
            raise ChannelLost(f"it belongs to process {self._owner}, which this one was forked from")
        with self._state:
            number = self._next
            self._next = number + 1 if number < 0xFFFF_FFFF else 1
        return self._stream(number)

    def _stream(self, number: int) -> Stream:
        stream = self._streams[number] = Stream(self, number)
        return stream

    def forget(self, stream: Stream) -> None:
        """Drop what still arrives for it."""
        self._streams.pop(stream.number, None)

    def receive(self, stream: Stream, deadline: float | None) -> tuple[int, Any]:
        """See Stream.receive; refusals are values here."""
        while True:
            try:
                if self._may_read(stream, deadline):
                    found = self._agent.read(deadline, self._hand_out)
                else:
                    kind, value = stream.inbox.popleft()
                    stream.taken += _weight(kind, value)
                    return kind, value
            finally:
                if self._reader == threading.get_ident():
                    with self._state:
                        self._reader = None
                        self._state.notify_all()
            # What comes for others for ever is no answer; a part of one may be on its way.
            late = deadline is not None and time.monotonic() >= deadline + _PARTS_SECONDS
            if not found or (late and not stream.inbox):
                raise ChannelTimeout

    def _may_read(self, stream: Stream, deadline: float | None) -> bool:
        """Wait until something has come for a stream (False), or until it is this thread's turn to read (True)."""
        patience = time.monotonic() + _PATIENCE_SECONDS
        with self._state:
            while not stream.inbox:
                if self._agent.broken is not None:
                    raise ChannelLost(self._agent.broken)
                full = self._full_streams() if self._reader is None else []
                if full and time.monotonic() >= patience:
                    for other in full:
                        other.most = other.arrived - other.taken + _MORE_WAITING
                    full = []
                if self._reader is None and not full:
                    self._reader = threading.get_ident()
                    return True
                left = _LONGEST_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise ChannelTimeout
                self._state.wait(min(left, _LOOK_SECONDS if full else _LONGEST_SECONDS))
            return False

    def _full_streams(self) -> list[Stream]:
        """Streams of other threads which have much to take before more should be read for them: they write to a disk,
        or their on_output is slow. They may never take it (where they wait for this thread), so nobody waits for that
        for long.
        """
        me = threading.get_ident()
        streams = list(self._streams.values())
        return [stream for stream in streams if stream.arrived - stream.taken > stream.most and stream.owner != me]

    def send(self, pieces: list[Buffer]) -> None:
        """Send frames, whole. ChannelLost."""
        self._agent.send(pieces)

    def _hand_out(self, kind: int, number: int, value: Any) -> None:
        if kind == frames.ERROR:
            try:
                text, _, _ = messages.refusal(value)
            except TypeError as error:
                raise frames.ProtocolError(str(error)) from None
            if number == 0 and number not in self._streams:
                raise self.fail(f"the agent gave up: {text}")
        stream = self._streams.get(number)
        if stream is not None:
            stream.arrived += _weight(kind, value)
            if stream.arrived - stream.taken > _MOST_HELD:
                raise frames.ProtocolError("more data for one exchange than is accepted")
            stream.inbox.append((kind, value))

    # Its end

    def fail(self, reason: str) -> ChannelLost:
        """Break the channel for good, and give the exception that says why."""
        return self._agent.fail(reason)

    @property
    def broken(self) -> bool:
        """True if the channel is known to be of no more use."""
        return self._agent.broken is not None

    @property
    def hung_up(self) -> bool:
        """True if the agent is gone, noticed or not."""
        return self._agent.hung_up

    def close(self) -> None:
        """Close the socket; the agent ends when it notices. Idempotent.

        A process forked from this one holds a copy of the socket, so closing alone would not be noticed; and such a
        process must not end what is not its own, nor wait for locks that threads of its parent held.
        """
        if os.getpid() != self._owner:
            self._agent.broken = self._agent.broken or "the sandbox is closed"
            self._agent.close()
            return
        self.fail("the sandbox is closed")
        self._agent.shut_down()
        with self._state:
            # A thread that is still at the socket was woken; in a signal's handler, this one is that thread.
            if self._reader == threading.get_ident():
                return
            if not self._state.wait_for(lambda: self._reader is None, _LEAVE_SECONDS):
                return
        self._agent.close(within=_LEAVE_SECONDS)


def _weight(kind: int, value: Any) -> int:
    """Bytes that a frame holds while nobody takes it; of a message, about."""
    if kind < frames.HELLO:
        return len(value)
    parts = value.values() if isinstance(value, dict) else ()
    return _MESSAGE_BYTES + sum(len(part) for part in parts if isinstance(part, (bytes, str)))
