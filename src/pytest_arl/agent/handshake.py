"""Connections to an agent that listens, before their handshake is done."""

from __future__ import annotations

import _socket
import os
import time

from pytest_arl.agent import auth, frames
from pytest_arl.agent.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.message_types import ClientHelloKey, Hello, Refusal

__all__ = ["INSIDE", "Handshake", "PendingHandshakes", "prepare", "reject", "side_of"]

INSIDE = "inside"
_MOST_INSIDE = 64  # who forwards a port for the holder is among them
_MOST_OF_AN_ADDRESS = 8
_MOST_OF_ALL = 160
_PATIENCE_SECONDS = 5.0
_FIRST_FRAME = 64 * 1024
_DISCARD = 256 * 1024
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 30, 10, 3  # then a peer whose machine is gone is given up


class Handshake:
    """Somebody who has connected and not yet said who he is. At most one short frame of his is read.

    Attributes:
        side: where he comes from, as ``side_of`` has it.
        nonce: what he has to sign, no one else and never again.
    """

    def __init__(
        self,
        loop: Loop,
        socket: _socket.socket,
        side: str,
        *,
        admit: Callable[[Handshake, Said[ClientHelloKey]], None],
        gone: Callable[[Handshake], None],
    ) -> None:
        """``admit`` gets its HELLO, and decides; ``gone`` is called once, when it waits no more."""
        self._socket = socket
        self._loop = loop
        self._admit = admit
        self._gone = gone
        self._data = bytearray()
        self.side = side
        self.nonce = os.urandom(auth.NONCE_BYTES)
        self._loop.add(socket.fileno(), READ, self._ready)
        self._late = self._loop.call_at(time.monotonic() + _PATIENCE_SECONDS, self._too_late)

    def greet(self, boot: str, pod: str) -> None:
        """Say who is here, and what is to be signed."""
        hello: Hello = {"version": frames.VERSION, "boot": boot, "pid": os.getpid(), "nonce": self.nonce, "pod": pod}
        try:
            self._socket.send(frames.message(frames.HELLO, 0, hello))
        except OSError:
            self._close()

    def dismiss(self, text: str) -> None:
        """Say why, and close."""
        reject(self.released(), text)

    def released(self) -> _socket.socket:
        """The socket, which this one has nothing to do with any more."""
        self._late.cancel()
        self._loop.remove(self._socket.fileno())
        self._gone(self)
        return self._socket

    def _close(self) -> None:
        self.released().close()

    def _too_late(self) -> None:
        self.dismiss("no HELLO received in time")

    def _ready(self, _events: int) -> None:
        most = frames.HEADER.size + _FIRST_FRAME - len(self._data)
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._data += data
        if len(self._data) < frames.HEADER.size:
            return
        size, kind, stream = frames.HEADER.unpack_from(self._data)
        if kind != frames.HELLO or stream or size > _FIRST_FRAME:
            self.dismiss("expected a HELLO of at most " + str(_FIRST_FRAME) + " bytes")
        elif len(self._data) > frames.HEADER.size + size:
            self.dismiss("data followed the HELLO before the agent was ready")
        elif len(self._data) == frames.HEADER.size + size:
            self._introduced(self._data[frames.HEADER.size :])

    def _introduced(self, body: bytearray) -> None:
        try:
            hello = frames.decode(body)
        except frames.ProtocolError as error:
            self.dismiss(str(error))
            return
        if isinstance(hello, dict):
            self._admit(self, hello)
        else:
            self.dismiss("a HELLO must be a dict")


class PendingHandshakes:
    """Pending handshakes by source address. Over the limit of an address its oldest one is dropped; over the limit of
    all, the oldest of the address that has most.
    """

    def __init__(self) -> None:
        self._sides: dict[str, list[Handshake]] = {}

    def add(self, side: str, who: Handshake) -> Handshake | None:
        """One more, and who has to go for him. He is still to be removed."""
        waiting = self._sides.setdefault(side, [])
        waiting.append(who)
        if len(waiting) > (_MOST_INSIDE if side == INSIDE else _MOST_OF_AN_ADDRESS):
            return waiting[0]
        if sum(map(len, self._sides.values())) > _MOST_OF_ALL:
            return max(self._sides.values(), key=len)[0]
        return None

    def remove(self, side: str, who: Handshake) -> None:
        """He waits no more."""
        self._sides[side].remove(who)
        if not self._sides[side]:
            del self._sides[side]


def reject(socket: _socket.socket, text: str, *, torn: bool = False) -> None:
    """Say why and close, waiting for nobody. ``torn``: only a part of a frame was sent, so nothing can be said."""
    try:
        if not torn:
            refusal: Refusal = {"text": text, "errno": 0, "path": b""}
            socket.send(frames.message(frames.ERROR, 0, refusal))
        socket.shutdown(_socket.SHUT_WR)
        # Closed with bytes unread, the kernel would take back what was sent.
        os.read(socket.fileno(), _DISCARD)
    except OSError:
        pass
    socket.close()


def prepare(socket: _socket.socket) -> None:
    """Make an accepted socket what a peer's is."""
    socket.setblocking(False)
    socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, _IDLE_SECONDS)
    socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, _PROBES)


def side_of(family: int, address: tuple[Any, ...]) -> str:
    """The origin of a connection: its address, or ``INSIDE`` for all of this pod's own: only those can be bound."""
    probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return str(address[0])
    finally:
        probe.close()
    return INSIDE
