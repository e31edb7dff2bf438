"""The host's end of the agent's protocol: streams of frames over one socket.

There is no reading thread: whoever waits for an answer reads the socket, and hands what is not for him to those who
wait beside him. So a step's answer arrives in the thread that asked, with no switch in between, and an idle sandbox
costs nothing.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.text.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from pytest_arl.agent.frames import Buffer

__all__ = ["AgentConfig", "AgentError", "Channel", "ChannelLost", "ChannelTimeout", "Stream"]

_READ_SIZE = 64 * 1024
_LONG_READ_SIZE = 1024 * 1024  # after one that was filled: room for that much is mapped and let go, which takes 20 us
_SILENCE_SECONDS = 15.0  # then the agent is asked whether it lives
_ANSWER_SECONDS = 30.0  # generous: a machine under load must not look like a dead agent
_STARVED_SECONDS = 150.0  # of silence, where the agent waits for a processor
_SEND_SECONDS = 30.0
_LEAVE_SECONDS = 1.0
_MOST_PIECES = 512  # for one call: the kernel takes 1,024 (IOV_MAX)
_MOST_WAITING = 8 * 1024 * 1024  # bytes for one stream that nobody takes
_MORE_WAITING = 2 * 1024 * 1024  # after each second in which he took nothing; what an agent may have queued before
_MOST_HELD = 128 * 1024 * 1024  # bytes for one stream in any case: what an agent has queued before an answer is a tenth
_PATIENCE_SECONDS = 1.0
_PARTS_SECONDS = 5.0  # past a deadline, for the rest of an answer of which some has come
_LOOK_SECONDS = 0.02
_MESSAGE_BYTES = 512
_LONGEST_TEXT = 2000
_LONGEST_PATH = 64 * 1024  # that is told: a tree may be deeper than any path that the kernel takes
_LARGEST_ERRNO = 4095  # MAX_ERRNO
_LONGEST_SECONDS = 3600.0  # a lock waits for 292 years at the most, but not for infinity


class ChannelLost(Exception):
    """The agent is gone, or does not keep to the protocol. Nothing more can be asked of it."""


class ChannelTimeout(TimeoutError):
    """No answer came before a deadline. Its own class, so that it is not taken for a caller's TimeoutError."""


class AgentError(Exception):
    """The agent refused a request, or the request is one that cannot be sent.

    Attributes:
        text: why.
        errno: the number of the OSError behind it, or 0.
        path: the file concerned, or empty.
    """

    def __init__(self, text: str, errno: int, path: bytes) -> None:
        super().__init__(text)
        self.text = text
        self.errno = errno
        self.path = path


def _after(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of pieces when so many bytes are sent."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


class Stream:
    """One exchange: a request, and everything that answers it. It ends with its ``with`` block."""

    def __init__(self, channel: Channel, number: int) -> None:
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
            raise AgentError(_quoted(value["text"]), value["errno"], value["path"][:_LONGEST_PATH])
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
        return kind == frames.PONG and isinstance(value, dict) and value.get("busy") is True

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
        return self._channel.fail(f"the agent does not keep to the protocol: {said}")


class Channel:
    """Streams over one connected socket. Thread-safe; owns the socket."""

    def __init__(
        self, connection: socket.socket, *, lost: Callable[[], str], starved: Callable[[], bool] = lambda: False
    ) -> None:
        """``lost()`` says what the backend knows of an agent that is gone (an exit code, a killed pod), ``starved()``
        whether it waits for a processor now: beside hundreds of processes it may get one after seconds.
        """
        self._socket = connection
        self._socket.setblocking(False)
        self._owner = os.getpid()
        self._lost = lost
        self.starved = starved
        self._parser = frames.Parser()
        self._read_size = _READ_SIZE
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._state = threading.Condition()
        self._reader: int | None = None
        self._sending = threading.Lock()
        self._broken: str | None = None
        self._heard = time.monotonic()
        self._asked: float | None = None  # when the agent was asked whether it lives, until it is heard
        self.boot_id = ""

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
        if kind != frames.HELLO or not isinstance(value, dict) or value.get("version") != frames.VERSION:
            raise self.fail(f"the agent is not of version {frames.VERSION}")
        self.boot_id = str(value.get("boot"))
        return value

    def introduce(self, hello: Mapping[str, object], deadline: float) -> dict[str, Any]:
        """Tell the agent who speaks, wait until it is ready, and give what it says then. ChannelLost says why it
        admits nobody.

        Whoever has nothing to sign need not wait for the agent's hello before: where code in the sandbox crowds its
        port, those who say at once who they are get through.
        """
        return self._introduce(hello, deadline, None)

    def _introduce(
        self, hello: Mapping[str, object], deadline: float, started: Callable[[], object] | None
    ) -> dict[str, Any]:
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

    def _receive_or_explain(self, stream: Stream, deadline: float) -> tuple[int, Any]:
        try:
            return stream.receive(deadline)
        except AgentError as error:
            raise self.fail(f"the agent gave up: {error.text}") from None

    @property
    def broken(self) -> bool:
        """True if the channel is known to be of no more use."""
        return self._broken is not None

    @property
    def hung_up(self) -> bool:
        """True if the agent is gone, noticed or not."""
        if self._broken is not None:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def send(self, pieces: list[Buffer]) -> None:
        """Send frames, whole. ChannelLost."""
        left = total = sum(map(len, pieces))
        with self._sending:
            if self._broken is not None:
                raise ChannelLost(self._broken)
            torn = False  # whether a part may be on its way, after which nothing but the rest makes sense
            try:
                while left:
                    torn = True
                    sent = self._send_some(pieces)
                    left -= sent
                    torn = 0 < left < total
                    if not left:
                        return
                    if sent:
                        pieces = _after(pieces, sent)
                    else:
                        self._wait_writable()
            except OSError as error:
                raise self.fail(self._reason(error)) from None
            except BaseException:
                if torn:
                    self.fail("a request was interrupted in the middle")
                raise

    def _send_some(self, pieces: list[Buffer]) -> int:
        try:
            return self._socket.send(pieces[0]) if len(pieces) == 1 else self._socket.sendmsg(pieces[:_MOST_PIECES])
        except BlockingIOError:
            return 0

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(_SEND_SECONDS * 1000):
            raise self.fail(f"the agent took nothing for {_SEND_SECONDS:.0f} s")

    def receive(self, stream: Stream, deadline: float | None) -> tuple[int, Any]:
        """See Stream.receive; refusals are values here."""
        while True:
            try:
                if self._may_read(stream, deadline):
                    found = self._read(deadline)
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
                if self._broken is not None:
                    raise ChannelLost(self._broken)
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

    def _read(self, deadline: float | None) -> bool:
        """Read once and hand out what came; False where the deadline passed first."""
        if not self._wait_readable(deadline):
            return False
        try:
            self._take()
        except BlockingIOError:
            pass
        except ChannelLost:
            raise
        except OSError as error:
            raise self.fail(self._reason(error)) from None
        except frames.ProtocolError as error:
            raise self.fail(f"the agent does not keep to the protocol: {error}") from None
        except BaseException:
            # Bytes may have been read and lost: whoever waits for them would wait for ever.
            self.fail("an answer was interrupted in the middle")
            raise
        return True

    def _take(self) -> None:
        data = self._socket.recv(self._read_size)
        if not data:
            raise self.fail(self._reason(None))
        self._read_size = _READ_SIZE if len(data) < _READ_SIZE else _LONG_READ_SIZE
        self._heard = time.monotonic()
        self._asked = None
        for kind, number, value in self._parser.feed(data):
            self._hand_out(kind, number, value)

    def _hand_out(self, kind: int, number: int, value: Any) -> None:
        if kind == frames.ERROR and not _is_refusal(value):
            raise frames.ProtocolError("a refusal without a reason")
        stream = self._streams.get(number)
        if stream is not None:
            stream.arrived += _weight(kind, value)
            if stream.arrived - stream.taken > _MOST_HELD:
                raise frames.ProtocolError("more for one exchange than is taken")
            stream.inbox.append((kind, value))
        elif kind == frames.ERROR and number == 0:
            raise self.fail(f"the agent gave up: {value['text']}")

    def _wait_readable(self, deadline: float | None) -> bool:
        """Wait until something came (True) or the deadline has passed; an agent that is silent for long is asked
        whether it lives.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        began = time.monotonic()  # that nobody listened before is not the agent's silence
        while True:
            silent = max(self._heard, began) + _SILENCE_SECONDS
            until = silent if self._asked is None else self._asked + _ANSWER_SECONDS
            nearest = until if deadline is None else min(until, deadline)
            if poll.poll(max(0.0, nearest - time.monotonic()) * 1000):
                return True
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            if now >= until:
                if self._asked is not None and (now - self._heard > _STARVED_SECONDS or not self.starved()):
                    raise self.fail(f"the agent has not answered for {now - self._heard:.0f} s")
                if self._asked is None:
                    self.send([frames.message(frames.PING, 0, {})])
                self._asked = now

    def fail(self, reason: str) -> ChannelLost:
        """Break the channel for good, and give the exception that says why."""
        with self._state:
            if self._broken is None:
                self._broken = _quoted(reason)
            self._state.notify_all()
            return ChannelLost(self._broken)

    def _reason(self, error: OSError | None) -> str:
        if self._broken is not None:  # closed from this side: the backend has given up what it would look at
            return self._broken
        known = self._lost()
        return known or (
            f"the connection to the agent broke: {error.strerror}" if error else "the agent closed the connection"
        )

    def close(self) -> None:
        """Close the socket; the agent ends when it notices. Idempotent.

        A process forked from this one holds a copy of the socket, so closing alone would not be noticed; and such a
        process must not end what is not its own, nor wait for locks that threads of its parent held.
        """
        if os.getpid() != self._owner:
            self._broken = self._broken or "the sandbox is closed"
            self._socket.close()
            return
        self.fail("the sandbox is closed")
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._left_alone():
            self._socket.close()

    def _left_alone(self) -> bool:
        """Wait for threads that are still at the socket, which the shutdown woke; whether all have left.

        A descriptor closed under a thread that polls it can become another file meanwhile, and that thread sleep on.
        """
        with self._state:
            if self._reader == threading.get_ident():  # in a signal's handler
                return False
            if not self._state.wait_for(lambda: self._reader is None, _LEAVE_SECONDS):
                return False
        if not self._sending.acquire(timeout=_LEAVE_SECONDS):
            return False
        self._sending.release()
        return True


def _weight(kind: int, value: Any) -> int:
    """Bytes that a frame holds while nobody takes it; of a message, about."""
    if kind < frames.HELLO:
        return len(value)
    parts = value.values() if isinstance(value, dict) else ()
    return _MESSAGE_BYTES + sum(len(part) for part in parts if isinstance(part, (bytes, str)))


def _quoted(text: str) -> str:
    """An agent's words, for a message: they may be anybody's."""
    return printable(text[:_LONGEST_TEXT]).replace("\n", "\\n")


def _is_refusal(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), str)
        and type(value.get("errno")) is int
        and 0 <= value["errno"] <= _LARGEST_ERRNO
        and isinstance(value.get("path"), bytes)
    )
