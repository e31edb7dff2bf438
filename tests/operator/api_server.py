"""A program that answers as an API server, over real HTTP, for tests of those who ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import kopf
import pytest
from aiohttp import web

from pytest_arl.operator import async_api as api_module
from pytest_arl.operator.async_api import AsyncApi

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ApiServer:
    """Lists what it is given, and lets a test answer the rest.

    Attributes:
        asked: method, path and query of each request, in order.
        handlers: by method, what answers instead of the lists.
        objects: by the path of their list.
        events: what watches of a path send, line by line; None ends the stream.
    """

    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)
    objects: dict[str, list[Json]] = field(default_factory=dict)
    events: dict[str, asyncio.Queue[Json | None]] = field(default_factory=dict)
    version: int = 1000
    expired: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append((request.method, request.path, query))
        self.accepted.append(request.headers.get("Accept", ""))
        self.bodies.append(await request.json() if request.can_read_body else None)
        if request.method in self.handlers:
            return await self.handlers[request.method](request)
        if query.get("watch"):
            return await self._watch(request)
        return self.page(request)

    def page(self, request: web.Request) -> web.StreamResponse:
        """A page of the objects of a path."""
        found = self.objects.get(request.path, [])
        at, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        if self.expired and at:
            self.expired = False
            return refused(410, "Expired")
        page = found[at : at + limit]
        left = str(at + limit) if at + limit < len(found) else ""
        if "PartialObjectMetadata" in request.headers["Accept"]:
            page = [{"metadata": each["metadata"]} for each in page]
        return web.json_response({"metadata": {"resourceVersion": str(self.version), "continue": left}, "items": page})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue = self.events.setdefault(request.path, asyncio.Queue())
        while (event := await queue.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def asked_for(self, method: str, words: str = "") -> list[str]:
        """Paths of the requests of a method."""
        return [path for done, path, _ in self.asked if done == method and words in path]


def refused(status: int, reason: str, message: str = "no") -> web.Response:
    """An answer as the API server words it."""
    return web.json_response({"kind": "Status", "reason": reason, "message": message, "code": status}, status=status)


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ApiServer, AsyncApi]]:
    """A server, and what asks it."""
    server = ApiServer()
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setattr(api_module, "connection", lambda: kopf.ConnectionInfo(server=url))
    try:
        async with AsyncApi() as api:
            yield server, api
    finally:
        await runner.cleanup()
