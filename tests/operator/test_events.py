"""Events of others about a pod."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.operator import events as events_module
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.events import Events

pytestmark = pytest.mark.asyncio


class Server:
    """An API server that takes so many seconds for each list."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.seconds = 0.5
        self.asked: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self.refuses = False

    async def items(self, where: str, _keep: Any, **query: str) -> list[Any]:
        self.asked.append(where.split("/")[4])
        await self.held.wait()
        self.clock[0] += self.seconds
        if self.refuses:
            raise ApiError(403, "Forbidden", "no")
        return [{"reason": query["fieldSelector"]}]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [1000.0]
    monkeypatch.setattr(events_module, "time", SimpleNamespace(monotonic=lambda: found[0]))
    return found


async def test_a_namespace_has_one_question_at_a_time_and_others_are_asked(clock: list[float]) -> None:
    server: Any = Server(clock)
    events = Events(server)
    server.held.clear()
    first = asyncio.ensure_future(events.about("u", "full"))
    await asyncio.sleep(0)
    assert await events.about("v", "full") is None
    other = asyncio.ensure_future(events.about("w", "quiet"))
    await asyncio.sleep(0)
    server.held.set()
    assert await first == [{"reason": "involvedObject.uid=u"}]
    assert await other == [{"reason": "involvedObject.uid=w"}]
    assert server.asked == ["full", "quiet"]


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize(("seconds", "pause"), [(0.005, 0.1), (0.5, 10.0), (20.0, 60.0)])
async def test_then_it_is_not_asked_for_a_multiple_of_the_time_that_it_took(
    clock: list[float], seconds: float, pause: float, refuses: bool
) -> None:
    server: Any = Server(clock)
    server.seconds, server.refuses = seconds, refuses
    events = Events(server)
    if refuses:
        with pytest.raises(ApiError):
            await events.about("u", "ns")
    else:
        assert await events.about("u", "ns") is not None
    server.refuses = False
    clock[0] += 0.99 * pause
    assert await events.about("u", "ns") is None
    clock[0] += 0.02 * pause
    assert await events.about("u", "ns") is not None
