"""The operator's end of an agent's frames: one connection for each sandbox, many exchanges on it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_arl import pod
from pytest_arl.agent import exact, frames
from pytest_arl.agent.auth import proof

if TYPE_CHECKING:
    from collections.abc import Callable

    Sign = Callable[[bytes, str, str], bytes]
    """Nonce, pod UID and boot to a signature."""
    OnFrame = Callable[[int, Any], None]

__all__ = [
    "OLDER_EPOCH",
    "AgentLink",
    "AnotherAgent",
    "Claim",
    "Hello",
    "Introduction",
    "LinkLost",
    "Refusal",
    "refusal",
]

_SECONDS = 5.0
"""For an agent to say hello, and to be ready after our answer."""

_PONG_SECONDS = 30.0
"""For an agent to answer while it works. A node that has a lot to do answers late."""

_UNASKED_BYTES = 1024 * 1024


OLDER_EPOCH = "older epoch"
"""An agent's refusal of an operator: it has seen a newer leader. An agent can say so whatever it has seen."""

_MOST_WORDS = 1024
_MOST_UID = 64
_NONCE_BYTES = 32


class LinkLost(Exception):
    """The connection has ended, or what came over it was not an agent's.

    Attributes:
        code: the agent's refusal, word for word, where it refused the operator; else empty.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class AnotherAgent(LinkLost):
    """Another agent than the one that was known: it was started anew, or something else has its port."""


class Claim(NamedTuple):
    """Whose a sandbox is, as its agent is told.

    Attributes:
        holder: the digest of the secret that the holder will show.
        mark: by which the holder knows the agent again; None for a client that has no key with this operator.
    """

    holder: str
    mark: bytes | None

    def message(self) -> dict[str, Any]:
        """As it is sent."""
        return {"holder": self.holder} if self.mark is None else {"holder": self.holder, "holderMark": self.mark}


class Introduction(NamedTuple):
    """The operator, as it shows itself to an agent.

    Attributes:
        sign: what answers its nonce.
        marks: what the agent of a pod and boot is marked with; the first is left, each is known again.
        epoch: as whose leader.
    """

    sign: Sign
    marks: Callable[[str, str], list[bytes]]
    epoch: int


class Refusal(NamedTuple):
    """An ERROR of an agent.

    Attributes:
        code: its whole text where that is one of ours, to be compared and never to be searched; else empty.
        text: for people.
    """

    code: str
    text: str


def refusal(value: object) -> Refusal:
    """An agent's refusal, from an ERROR's value of any kind."""
    try:
        text = exact.text(value, "text", 64 * 1024) if isinstance(value, dict) else ""
    except exact.Inexact:
        text = ""
    return Refusal(text if len(text) <= _MOST_WORDS else "", text[:_MOST_WORDS] or "it gives no reason")


class Hello:
    """An agent's account of itself; Inexact where a part of it is missing or wrong.

    Attributes:
        boot: changes with each start.
        pod: the UID of its pod.
        running: the task that runs, or None.
    """

    def __init__(self, hello: dict[str, Any], ready: dict[str, Any]) -> None:
        self.boot = exact.text(hello, "boot", _MOST_UID)
        self.pod = exact.text(hello, "pod", _MOST_UID)
        self.running = exact.maybe(exact.text, ready, "running", _MOST_UID)


class AgentLink(asyncio.Protocol):
    """A connection to an agent that has been introduced. Made by :meth:`connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = frames.Parser(whole=True)  # an agent has nothing to say that is longer
        self._streams: dict[int, OnFrame] = {}
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._greetings: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._introduced = False
        self._allowed = _UNASKED_BYTES
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.hello: Hello

    @classmethod
    async def connect(
        cls,
        address: str,
        pod_uid: str,
        operator: Introduction,
        *,
        config: dict[str, Any],
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
        self, pod_uid: str, operator: Introduction, config: dict[str, Any], claim: Claim | None, known: str | None
    ) -> None:
        hello = await self._greeting(frames.HELLO)
        try:
            speaks = exact.integer(hello, "version", 0, exact.LARGEST)
            boot, pod_there = exact.text(hello, "boot", _MOST_UID), exact.text(hello, "pod", _MOST_UID)
            nonce = exact.data(hello, "nonce", _NONCE_BYTES)
        except exact.Inexact as error:
            raise LinkLost(f"the agent's greeting is garbled: {error}") from None
        if speaks != frames.VERSION:
            raise LinkLost(f"the agent speaks version {speaks}, the operator {frames.VERSION}")
        if pod_there != pod_uid:
            raise LinkLost(f"at that address is the pod {pod_there} by now")
        if known is not None and boot != known:
            raise AnotherAgent("the agent was started anew")
        marks, asked = operator.marks(pod_uid, boot), os.urandom(_NONCE_BYTES)
        answer: dict[str, Any] = {
            "version": frames.VERSION,
            "role": "operator",
            "epoch": operator.epoch,
            "signature": operator.sign(nonce, pod_uid, boot),
            "config": config,
            # Neither mark is ever told again: what took the place of the agent would know it then.
            **({"mark": marks[0], **({} if claim is None else claim.message())} if known is None else {"ask": asked}),
        }
        self.send(frames.HELLO, 0, answer)
        ready = await self._greeting(frames.READY)
        if known is not None and ready.get("proof") not in [proof(mark, asked) for mark in marks]:
            raise AnotherAgent("what answers on the agent's port cannot show that it is the agent")
        try:
            self.hello = Hello(hello, ready)
        except exact.Inexact as error:
            raise LinkLost(f"the agent's greeting is garbled: {error}") from None
        self._introduced = True

    async def _greeting(self, wanted: int) -> dict[str, Any]:
        get = asyncio.ensure_future(self._greetings.get())
        try:
            await asyncio.wait((get, self.lost), return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                raise LinkLost(self.lost.result())
        finally:
            get.cancel()
        kind, value = get.result()
        if kind == frames.ERROR:
            refused = refusal(value)
            raise LinkLost(f"the agent refuses the operator: {refused.text}", refused.code)
        if kind != wanted or not isinstance(value, dict):
            raise LinkLost(f"the agent greets with a frame of type {kind}")
        return value

    async def hold(self, claim: Claim) -> None:
        """Tell the agent whose it is. LinkLost where it will not have it."""
        answer: asyncio.Future[tuple[int, Any]] = self._loop.create_future()
        self._streams[0] = lambda kind, value: None if answer.done() else answer.set_result((kind, value))
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
            raise LinkLost(f"the agent does not take its holder: {refused.text}", refused.code)

    def open(self, on_frame: OnFrame, allowed: int = 0) -> int:
        """A new exchange; ``on_frame`` gets its frames, of which ``allowed`` bytes are expected."""
        self._number += 1
        self._streams[self._number] = on_frame
        self._allowed += allowed
        return self._number

    def shut(self, stream: int) -> None:
        """Nobody waits for an exchange any more."""
        self._streams.pop(stream, None)

    def send(self, kind: int, stream: int, value: object) -> None:
        """Send a message. LinkLost where the connection has ended."""
        if self._transport is None or self.lost.done():
            raise LinkLost(self.lost.result() if self.lost.done() else "not connected")
        self._transport.write(frames.message(kind, stream, value))

    def send_cancel(self, task: str) -> None:
        """End a task of that UID, if it runs; no error where the connection has ended."""
        if not self.lost.done():
            self.send(frames.CANCEL, 0, {"id": task})

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
        self._allowed -= len(data)
        if self._allowed < 0:
            self.close("the agent sent more than it was asked for")
            return
        try:
            for kind, stream, value in self._parser.feed(data):
                if not self._introduced:
                    self._greetings.put_nowait((kind, value))
                    continue
                on_frame = self._streams.get(stream)
                if on_frame is not None:
                    on_frame(kind, value)
        except frames.ProtocolError as error:
            self.close(f"the agent's stream is garbled: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Believe it at once: the API says so two seconds later."""
        if not self.lost.done():
            self.lost.set_result(f"the connection to the agent ended{'' if exc is None else f': {exc}'}")
