"""The operator's end of an agent's frames: one connection for each sandbox, many exchanges on it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import exact, frames
from pytest_arl.agent.auth import proof
from pytest_arl.agent_client import messages
from pytest_arl.cluster import pod
from pytest_arl.operator.frame_reader import FrameReader
from pytest_arl.operator.introduction import (
    MOST_UID,
    NONCE_BYTES,
    AnotherAgent,
    Claim,
    Hello,
    Introduction,
    LinkLost,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import ClientHello, Config, HelloKey, ReadyKey

    OnFrame = Callable[[int, Any], None]

__all__ = ["AgentLink"]

_SECONDS = 5.0
"""Time for an agent to say hello, and to be ready after our answer."""

_PONG_SECONDS = 30.0
"""Time for an agent to answer while it works. A node that has a lot to do answers late."""

_GREETING_BYTES = 4 * 1024
"""Most bytes of each of the two messages of an agent before it is introduced; they have some two hundred."""

_ANSWER_BYTES = 4 * 1024
"""Most bytes of an answer that has no other bound."""

_UNASKED_BYTES, _LATE_BYTES = 4 * 1024, 1024 * 1024
"""Bytes that an agent may send unasked, and those that it may still send when nobody waits for them any longer."""

_FRAME_BYTES = 256
"""Bytes that each frame counts for beside its own: empty ones take time, too."""

_FRAMES_A_TURN = 64
"""Frames of one agent before others have their turn."""


class _Exchange:
    """The receiver of a stream's frames, and the number of bytes that may still come."""

    __slots__ = ("left", "on_frame")

    def __init__(self, on_frame: OnFrame, left: int) -> None:
        self.on_frame = on_frame
        self.left = left


class AgentLink(asyncio.Protocol):
    """A connection to an agent that has been introduced. Made by :meth:`connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(self._wanted, self._taken)
        self._streams: dict[int, _Exchange] = {}
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._greetings: dict[int, Any] = {}
        self._greets: tuple[int, ...] = (frames.HELLO, frames.ERROR)
        self._greeted = asyncio.Event()
        self._spare = _UNASKED_BYTES
        self._paused = False
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.hello: Hello

    @classmethod
    async def connect(
        cls,
        address: str,
        pod_uid: str,
        operator: Introduction,
        *,
        config: Config,
        claim: Claim | None,
        boot: str | None = None,
    ) -> AgentLink:
        """Connect and introduce oneself. OSError where nobody listens, LinkLost where it is not that pod's agent.
        ``boot``: of an agent that has been marked, and has been told the claim; AnotherAgent where it is not that one.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_SECONDS):
            _, link = await loop.create_connection(cls, address, pod.PORT)
        try:
            async with asyncio.timeout(_SECONDS):
                await link._introduce(pod_uid, operator, config, claim, boot)  # noqa: SLF001 - this class
        except TimeoutError:
            link.close("the agent did not introduce itself")
            raise LinkLost("the agent did not introduce itself") from None
        except BaseException:
            link.close("not introduced")
            raise
        return link

    async def _introduce(
        self, pod_uid: str, operator: Introduction, config: Config, claim: Claim | None, known: str | None
    ) -> None:
        hello: Said[HelloKey] = await self._greeting(frames.HELLO)
        try:
            speaks = exact.integer(hello, "version", 0, exact.LARGEST)
            boot, pod_there = exact.text(hello, "boot", MOST_UID), exact.text(hello, "pod", MOST_UID)
            nonce = exact.data(hello, "nonce", NONCE_BYTES)
        except exact.Inexact as error:
            raise LinkLost(f"the agent's greeting is garbled: {error}") from None
        if not (boot.isascii() and boot.isprintable()):  # it is written into a status, which people print
            raise LinkLost("the agent's greeting is garbled: a boot id is letters and digits")
        if speaks != frames.VERSION:
            raise LinkLost(f"the agent speaks version {speaks}, the operator {frames.VERSION}")
        if pod_there != pod_uid:
            raise LinkLost(f"the pod at that address is now {pod_there}")
        if known is not None and boot != known:
            raise AnotherAgent("the agent was restarted")
        marks, asked = operator.marks(pod_uid, boot), os.urandom(NONCE_BYTES)
        answer: ClientHello = {
            "version": frames.VERSION,
            "role": "operator",
            "epoch": operator.epoch,
            "signature": operator.sign(nonce, pod_uid, boot),
            "config": config,
        }
        # Neither mark is ever told again: what took the place of the agent would know it then.
        if known is not None:
            answer["ask"] = asked
        else:
            answer["mark"] = marks[0]
            if claim is not None:
                claim.add_to(answer)
        self.send(frames.HELLO, 0, answer)
        ready: Said[ReadyKey] = await self._greeting(frames.READY)
        if known is not None and ready.get("proof") not in [proof(mark, asked) for mark in marks]:
            raise AnotherAgent("the process on the agent's port cannot prove that it is the agent")
        try:
            self.hello = Hello(hello, ready)
        except exact.Inexact as error:
            raise LinkLost(f"the agent's greeting is garbled: {error}") from None

    async def _greeting(self, wanted: int) -> Any:
        """The agent's message of that type, which is not kept."""
        heard = asyncio.ensure_future(self._greeted.wait())
        try:
            while not (self._greetings.keys() & {wanted, frames.ERROR}):
                await asyncio.wait((heard, self.lost), return_when=asyncio.FIRST_COMPLETED)
                if not heard.done():
                    raise LinkLost(self.lost.result())
        finally:
            heard.cancel()
            self._greeted.clear()
        if wanted not in self._greetings:
            refused = refusal(self._greetings.pop(frames.ERROR))
            raise LinkLost(f"the agent refuses the operator: {refused.text}", refused.code)
        value = self._greetings.pop(wanted)
        if not isinstance(value, dict):
            raise LinkLost("the agent's greeting is garbled: it is not a dict")
        return value

    async def hold(self, claim: Claim) -> None:
        """Tell the agent whose it is. LinkLost where it will not have it."""
        answer: asyncio.Future[tuple[int, Any]] = self._loop.create_future()
        self._streams[0] = _Exchange(
            lambda kind, value: None if answer.done() else answer.set_result((kind, value)), _ANSWER_BYTES
        )
        try:
            self.send(frames.HELLO, 0, claim.message())
            await asyncio.wait((answer, self.lost), timeout=_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.shut(0)
        if not answer.done():
            raise LinkLost(self.lost.result() if self.lost.done() else "the agent does not answer")
        kind, value = answer.result()
        if kind != frames.READY or not isinstance(value, dict) or value.get("held") is not True:
            refused = refusal(value)
            raise LinkLost(f"the agent refuses its holder: {refused.text}", refused.code)

    def open(self, on_frame: OnFrame, allowed: int = 0) -> int:
        """A new exchange; ``on_frame`` gets its frames, of which ``allowed`` bytes are expected, and some."""
        self._number += 1
        self._streams[self._number] = _Exchange(on_frame, _ANSWER_BYTES + allowed)
        return self._number

    def shut(self, stream: int) -> None:
        """Forget an exchange, for which no caller waits any more."""
        exchange = self._streams.pop(stream, None)
        if exchange is not None:  # what was asked for may be on its way
            self._spare = min(_LATE_BYTES, self._spare + exchange.left)

    def send(self, kind: int, stream: int, value: object) -> None:
        """Send a message. LinkLost where the connection has ended."""
        if self._transport is None or self.lost.done():
            raise LinkLost(self.lost.result() if self.lost.done() else "not connected")
        self._transport.write(frames.message(kind, stream, value))

    def send_cancel(self, task: str) -> None:
        """End a task of that UID, if it runs; no error where the connection has ended."""
        if not self.lost.done():
            self.send(frames.CANCEL, 0, messages.cancel(task))

    async def ping(self) -> None:
        """Return once the agent has taken everything that was sent before. LinkLost where it does not say so."""
        answer: asyncio.Future[None] = self._loop.create_future()
        stream = self.open(lambda _kind, _value: None if answer.done() else answer.set_result(None))
        try:
            self.send(frames.PING, stream, {})
            await asyncio.wait((answer, self.lost), timeout=_PONG_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.close("the agent does not answer")
                raise LinkLost(self.lost.result())
        finally:
            self.shut(stream)

    def close(self, why: str) -> None:
        """End the connection."""
        if not self.lost.done():
            self.lost.set_result(why)
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send at once, and find out about a node that is gone within seconds rather than hours."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("an agent is reached over a stream")
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)

    def data_received(self, data: bytes) -> None:
        """Hand out what is complete."""
        self._reader.feed(data)
        if not self._paused:
            self._work()

    def _work(self) -> None:
        """Hand out some frames; the rest once the others had their turn."""
        try:
            for _ in range(_FRAMES_A_TURN):
                if self.lost.done():
                    return
                if not self._reader.step():
                    self._pause(False)
                    return
        except frames.ProtocolError as error:
            self.close(f"the agent's stream is garbled: {error}")
        except LinkLost as lost:
            self.close(str(lost))
        else:
            self._pause(True)
            self._loop.call_soon(self._work)

    def _pause(self, paused: bool) -> None:
        if self._transport is not None and paused is not self._paused:
            self._paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _wanted(self, kind: int, stream: int, size: int) -> bool:
        """True if somebody waits for a frame, by its header. LinkLost for more than was asked for."""
        if self._greets:
            if kind not in self._greets:
                raise LinkLost(f"the agent greets with a frame of type {kind}")
            if size > _GREETING_BYTES:
                raise LinkLost(f"the agent greets with {size} bytes")
            return True
        exchange, cost = self._streams.get(stream), size + frames.HEADER.size + _FRAME_BYTES
        left = (self._spare if exchange is None else exchange.left) - cost
        if left < 0:
            raise LinkLost("the agent sent more than it was asked for")
        if exchange is None:
            self._spare = left
            return False
        exchange.left = left
        return True

    def _taken(self, kind: int, stream: int, value: object) -> None:
        if self._greets:
            self._greetings[kind] = value
            self._greeted.set()
            self._greets = (frames.READY, frames.ERROR) if kind == frames.HELLO else ()
            return
        exchange = self._streams.get(stream)
        if exchange is not None:  # it may have been shut since the frame began
            exchange.on_frame(kind, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """Believe it at once: the API says so two seconds later."""
        if not self.lost.done():
            self.lost.set_result(f"the connection to the agent ended{'' if exc is None else f': {exc}'}")
