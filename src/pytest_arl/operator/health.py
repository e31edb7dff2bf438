"""``/healthz``: the process answers; ``/readyz``: it leads, knows the cluster and makes its rounds.

Not kopf's endpoint, which starts only once its startup handlers are through: an operator that stands by for the lease
is healthy, and would be restarted by its kubelet for being patient.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Health", "serve"]

_MOST_REQUEST = 8192
_SECONDS = 5.0
_MOST_OF_AN_ADDRESS = 64
"""Connections at a time: whoever reaches the port may open as many as there are descriptors, and hold each for 5 s. The
next one takes the place of the oldest: a kubelet probes the operator from the same address as a tenant's pods, with
whatever protocol and host their probes name. As many as that may have come while the loop was busy, unread.
"""
_PROBE = b"G"
"""The first byte of a GET. A connection that begins otherwise is not waited for."""


@dataclass(slots=True)
class Health:
    """The answer about the operator's health.

    Attributes:
        state: ``standby``, ``syncing`` or ``leading``.
        alive: asked while it leads: False where its rounds no longer end.
    """

    state: str = "standby"
    alive: Callable[[], bool] = lambda: True

    def told(self) -> str:
        """The state, or ``stalled``."""
        return "stalled" if self.state == "leading" and not self.alive() else self.state


@asynccontextmanager
async def serve(health: Health, port: int) -> AsyncIterator[None]:
    """Answer on that port while the block runs; port 0 is none."""
    if not port:
        yield
        return

    there: defaultdict[str, deque[asyncio.WriteTransport]] = defaultdict(deque)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str((writer.get_extra_info("peername") or ("",))[0])
        own = there[address]
        own.append(writer.transport)
        if len(own) > _MOST_OF_AN_ADDRESS:
            own.popleft().abort()
        try:
            async with asyncio.timeout(_SECONDS):
                first = await reader.readexactly(1)
                if first == _PROBE:
                    request = first + await reader.readuntil(b"\r\n\r\n")
                    writer.write(_response(request, health))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            with suppress(ValueError):  # it was the oldest
                own.remove(writer.transport)
            if not own:
                there.pop(address, None)
            writer.close()

    server = await asyncio.start_server(answer, None, port, limit=_MOST_REQUEST)
    async with server:
        yield


def _response(request: bytes, health: Health) -> bytes:
    where = request.split(b" ", 2)[1:2]
    told = health.told()
    ready = told == "leading"
    if where == [b"/healthz"] or (where == [b"/readyz"] and ready):
        status = "200 OK"
    elif where == [b"/readyz"]:
        status = "503 Service Unavailable"
    else:
        status = "404 Not Found"
    body = json.dumps({"state": told}).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    head = f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n"
    return head.encode() + body
