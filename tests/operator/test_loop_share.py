"""The part of the operator's loop that one namespace's objects may take."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.operator import async_api as api_module
from pytest_arl.operator import loop_share
from pytest_arl.operator.async_api import AsyncApi
from pytest_arl.operator.loop_share import LONG_SECONDS, LoopShare
from tests.operator.api_server import serving

pytestmark = pytest.mark.asyncio


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(round(seconds, 3))

    monkeypatch.setattr(loop_share, "asyncio", SimpleNamespace(sleep=sleep, Lock=asyncio.Lock))
    return made


async def test_a_namespace_pauses_for_a_multiple_of_a_long_turn(pauses: list[float]) -> None:
    share = LoopShare()
    for namespace, seconds in (("a", LONG_SECONDS), ("a", 0.1), (None, 9.0), ("b", 60.0)):
        await share.rest(namespace, seconds)
    assert pauses == [0.4, 5.0], "none for a short one, or one of no namespace; never for long"


async def test_pauses_of_a_namespace_add_up_and_hold_up_no_other() -> None:
    share, ended = LoopShare(), []

    async def rest(namespace: str) -> None:
        await share.rest(namespace, 0.04)
        ended.append(namespace)

    await asyncio.gather(*(rest(namespace) for namespace in "aaab"))
    assert ended == ["a", "b", "a", "a"]


@pytest.mark.parametrize("where", ["/api/v1/namespaces/ns/pods", "/api/v1/pods"])
async def test_reading_an_answer_counts(monkeypatch: pytest.MonkeyPatch, pauses: list[float], where: str) -> None:
    clock = [0.0]

    def parse(raw: bytes) -> Any:
        clock[0] += 0.25
        return {"kind": "PodList", "metadata": {}}

    async with serving(monkeypatch) as (server, api):
        server.handlers["GET"] = lambda _: _answer()
        monkeypatch.setattr(api_module, "json_text", SimpleNamespace(parse=parse))
        monkeypatch.setattr(
            api_module, "time", SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic)
        )
        await api.get(where)
    assert pauses == ([1.0] if "namespaces" in where else [])


async def test_an_event_counts_with_what_is_done_about_it(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    clock = [0.0]
    async with serving(monkeypatch) as (server, api):
        monkeypatch.setattr(
            api_module, "time", SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic)
        )
        where = "/api/v1/namespaces/ns/pods"
        following = asyncio.ensure_future(_follow(api, where, clock))
        async with asyncio.timeout(10):
            while where not in server.events:
                await asyncio.sleep(0.01)
            for _ in range(2):
                server.events[where].put_nowait({"type": "BOOKMARK", "object": {"metadata": {}}})
            server.events[where].put_nowait(None)
            await following
    assert pauses == [2.0, 2.0]


async def _follow(api: AsyncApi, where: str, clock: list[float]) -> None:
    async for _ in api.watch(where, "1"):
        clock[0] += 0.5


async def _answer() -> web.Response:
    return web.Response(text="{}")
