"""The socket of a channel: frames sent whole, bytes read as they come, and an agent that is silent asked for life."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel_errors import ChannelLost, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.frames import Buffer

__all__ = ["AgentSocket"]

_READ_SIZE = 64 * 1024
_LONG_READ_SIZE = 1024 * 1024  # after one that was filled: room for that much is mapped and let go, which takes 20 us
_SILENCE_SECONDS = 15.0  # then the agent is asked whether it lives
_ANSWER_SECONDS = 30.0  # generous: a machine under load must not look like a dead agent
_STARVED_SECONDS = 150.0  # of silence, where the agent waits for a processor
_SEND_SECONDS = 30.0
_MOST_PIECES = 512  # for one call: the kernel takes 1,024 (IOV_MAX)


class AgentSocket:
    """A connected socket, and what is known of the agent at its other end.

    Attributes:
        broken: why nothing can be asked of the agent any more; None while that is not known.
    """

    def __init__(
        self,
        connection: socket.socket,
        changed: threading.Condition,
        *,
        lost: Callable[[], str],
        starved: Callable[[], bool],
    ) -> None:
        """``changed`` is notified once it breaks. ``lost`` and ``starved`` as a Channel has them."""
        self._socket = connection
        self._socket.setblocking(False)
        self._changed = changed
        self._lost = lost
        self._starved = starved
        self._parser = frames.Parser()
        self._read_size = _READ_SIZE
        self._sending = threading.Lock()
        self.broken: str | None = None
        self._heard = time.monotonic()
        self._asked: float | None = None  # when the agent was asked whether it lives, until it is heard

    @property
    def hung_up(self) -> bool:
        """True if the agent is gone, noticed or not."""
        if self.broken is not None:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    # Out

    def send(self, pieces: list[Buffer]) -> None:
        """Send frames, whole. ChannelLost."""
        left = total = sum(map(len, pieces))
        with self._sending:
            if self.broken is not None:
                raise ChannelLost(self.broken)
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
            raise self.fail(f"the agent read nothing for {_SEND_SECONDS:.0f} s")

    # In

    def read(self, deadline: float | None, hand_out: Callable[[int, int, object], None]) -> bool:
        """Read once and hand out the frames that came, each with its type and stream; False where the deadline passed
        first. ChannelLost.
        """
        if not self._wait_readable(deadline):
            return False
        try:
            for kind, number, value in self._take():
                hand_out(kind, number, value)
        except BlockingIOError:
            pass
        except ChannelLost:
            raise
        except OSError as error:
            raise self.fail(self._reason(error)) from None
        except frames.ProtocolError as error:
            raise self.fail(f"the agent violated the protocol: {error}") from None
        except BaseException:
            # Bytes may have been read and lost: whoever waits for them would wait for ever.
            self.fail("an answer was interrupted in the middle")
            raise
        return True

    def _take(self) -> list[tuple[int, int, object]]:
        data = self._socket.recv(self._read_size)
        if not data:
            raise self.fail(self._reason(None))
        self._read_size = _READ_SIZE if len(data) < _READ_SIZE else _LONG_READ_SIZE
        self._heard = time.monotonic()
        self._asked = None
        return self._parser.feed(data)

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
                if self._asked is not None and (now - self._heard > _STARVED_SECONDS or not self._starved()):
                    raise self.fail(f"the agent has not answered for {now - self._heard:.0f} s")
                if self._asked is None:
                    self.send([frames.message(frames.PING, 0, {})])
                self._asked = now

    # Its end

    def fail(self, reason: str) -> ChannelLost:
        """Break it for good, and give the exception that says why."""
        with self._changed:
            if self.broken is None:
                self.broken = quoted(reason)
            self._changed.notify_all()
            return ChannelLost(self.broken)

    def _reason(self, error: OSError | None) -> str:
        if self.broken is not None:  # closed from this side: the backend has given up what it would look at
            return self.broken
        known = self._lost()
        return known or (
            f"the connection to the agent broke: {error.strerror}" if error else "the agent closed the connection"
        )

    def shut_down(self) -> None:
        """Let the agent see the end of the connection, and wake whoever waits for the socket."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, within: float | None = None) -> None:
        """Close the descriptor. With ``within`` only if what is being sent is over in so many seconds: a descriptor
        closed under a thread that polls it can become another file meanwhile, and that thread sleep on.
        """
        if within is not None:
            if not self._sending.acquire(timeout=within):
                return
            self._sending.release()
        self._socket.close()


def _after(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """The rest of the pieces when so many bytes are sent."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []
