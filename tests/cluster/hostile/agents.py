"""A program that plays an agent by a script, on loopback and as PID 1 of a pod: the standard library and ``frames`` only.

A *script* is what is done at each occasion: ``greeting`` (somebody connects), ``hello`` (the operator introduces itself),
``holder``, ``task``, ``attach``, ``ping``, ``cancel``; what it does not have is answered as an agent answers. An *act* is

    ["right", WHICH, CHANGES, DROPPED]      an agent's own answer, with other values and without some keys
    ["frame", KIND, OFFSET, PAYLOAD, TIMES] any frame, on the stream that was asked on or beside it
    ["slow", KIND, PAYLOAD, PAUSE]          a frame a few bytes at a time
    ["noise", BYTES], ["pause", SECONDS], ["end"], ["silence"]

A changed value ``{"fill": N, "as": "str" or "bytes"}`` is that long; ``{"own": "task"}`` is the UID of the Task.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import sys
from typing import Any

from pytest_arl.agent import frames

__all__ = ["OCCASIONS", "RIGHT", "Player", "main"]

Script = dict[str, list[list[Any]]]

OCCASIONS: dict[int, str] = {
    frames.HELLO: "hello",
    frames.TASK: "task",
    frames.ATTACH: "attach",
    frames.PING: "ping",
    frames.CANCEL: "cancel",
}
RIGHT: dict[str, tuple[int, dict[str, Any]]] = {
    "greeting": (frames.HELLO, {"version": frames.VERSION, "boot": "b", "pid": 1, "nonce": b"n" * 32, "pod": "p"}),
    "hello": (frames.READY, {"configured": True, "held": False, "running": None}),
    "holder": (frames.READY, {"configured": True, "held": True, "running": None}),
    "step": (
        frames.STEP,
        {"i": 0, "outcome": "Succeeded", "code": 0, "out": 2, "err": 0, "o": b"on", "e": b"", "s": 0.01, "at": 1.8e9}
        | {"limit": None, "signal": None, "u": None},
    ),
    "done": (frames.DONE, {"ran": 1}),
    "refusal": (frames.ERROR, {"text": "no such task", "errno": 0, "path": b""}),
    "ping": (frames.PONG, {"busy": False}),
}
_ALWAYS: dict[str, list[list[Any]]] = {
    "greeting": [["right", "greeting", {}, []]],
    "hello": [["right", "hello", {}, []]],
    "holder": [["right", "holder", {}, []]],
    "task": [["right", "step", {}, []], ["right", "done", {}, []]],
    "attach": [["right", "refusal", {}, []]],
    "ping": [["right", "ping", {}, []]],
    "cancel": [],
}
_LONGEST_PAUSE = 0.4


class Player:
    """Serves the connections of one agent.

    Attributes:
        task: the UID of the Task that it was given last.
    """

    def __init__(self, pod: str, script: Script) -> None:
        self.pod = pod
        self.script = script
        self.boot = "b" * 32
        self.mark = b""
        self._asked = b""
        self.connections = 0
        self.task = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self.connections += 1
        parser = frames.Parser()
        try:
            await self._act("greeting", 0, writer)
            while data := await reader.read(262144):
                for kind, stream, value in parser.feed(data):
                    await self._act(self._occasion(kind, value), stream, writer)
        except (OSError, frames.ProtocolError, _Over, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    def _occasion(self, kind: int, value: Any) -> str:
        if kind == frames.TASK:
            self.task = value["id"]
        if kind == frames.HELLO:
            self.mark = self.mark or value.get("mark", b"")
            self._asked = value.get("ask", b"")
            if "role" not in value:
                return "holder"
        return OCCASIONS.get(kind, "cancel")

    async def _act(self, occasion: str, stream: int, writer: asyncio.StreamWriter) -> None:
        for act in self.script.get(occasion, _ALWAYS[occasion]):
            await self._one(act, stream, writer)
            await writer.drain()

    async def _one(self, act: list[Any], stream: int, writer: asyncio.StreamWriter) -> None:
        word, *rest = act
        if word == "right":
            _send(writer, self._right(*rest, stream=stream))
        elif word == "frame":
            kind, offset, payload, times = rest
            for _ in range(times):
                _send(writer, frames.frame(kind, (stream + offset) % 2**32, payload))
                await writer.drain()
        elif word == "slow":
            kind, payload, pause = rest
            data = frames.frame(kind, stream, payload)
            for at in range(0, len(data), max(1, len(data) // 8)):
                _send(writer, data[at : at + max(1, len(data) // 8)])
                await asyncio.sleep(min(pause, _LONGEST_PAUSE / 8))
        elif word == "noise":
            _send(writer, rest[0])
        elif word == "pause":
            await asyncio.sleep(min(rest[0], _LONGEST_PAUSE))
        elif word == "silence":
            await asyncio.sleep(3600)
        else:
            raise _Over

    def _right(self, which: str, changes: dict[str, Any], dropped: list[str], *, stream: int) -> bytes:
        kind, value = RIGHT[which]
        if which == "greeting":
            value = {**value, "pod": self.pod, "boot": self.boot, "nonce": os.urandom(32)}
        if which == "hello" and self.mark and self._asked:
            value = {**value, "proof": hashlib.sha256(b"arl-agent-v1\0" + self.mark + self._asked).digest()}
        value = {**value, **{key: self._grown(each) for key, each in changes.items()}}
        for key in dropped:
            value.pop(key, None)
        return frames.message(kind, stream, value)

    def _grown(self, value: Any) -> Any:
        if isinstance(value, dict) and "fill" in value:
            return ("x" if value.get("as") == "str" else b"x") * value["fill"]
        if isinstance(value, dict) and value.get("own") == "task":
            return self.task
        if isinstance(value, dict) and value.get("own") == "busy":
            return f"task {self.task} is running; one at a time"
        return value


class _Over(Exception):
    """The connection ends here."""


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise _Over
    writer.write(data)


async def _listen(pod: str, scripts: list[Any], port: int) -> None:
    """Each connection is served by the next script."""
    players = [Player(pod, script) for script in scripts]
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        await players[number % len(players)].serve(reader, writer)

    if os.environ.get("TAKES_OVER"):
        boot = await _boot_there(port)
        for player in players:
            player.boot = boot
    server = await _server(serve, port)
    async with server:
        await server.serve_forever()


async def _boot_there(port: int) -> str:
    """What the agent that listens here tells everybody who asks."""
    parser = frames.Parser()
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while data := await reader.read(65536):
                    for _, _, value in parser.feed(data):
                        return str(value["boot"])  # type: ignore[index]  # a HELLO
            finally:
                writer.close()
        except OSError:
            await asyncio.sleep(0.05)


async def _server(serve: Any, port: int) -> asyncio.Server:
    """A server of that port, as soon as nobody else has it."""
    while True:
        try:
            return await asyncio.start_server(serve, None, port)
        except OSError:
            if not os.environ.get("TAKES_OVER"):
                raise
            await asyncio.sleep(0.005)


def main(port: int) -> None:
    """In a pod: ``POD_UID`` says which it is, ``TAKES_OVER`` that an agent has the port and this one waits for its end; the
    arguments are the scripts in base64, in as many pieces as they need.
    """
    scripts = frames.decode(base64.b64decode("".join(sys.argv[1:])))
    assert isinstance(scripts, list)
    asyncio.run(_listen(os.environ["POD_UID"], scripts, port))
