"""Words about somebody's objects are bounded before anything is done with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster.objects import MOST_MESSAGE, conditions
from pytest_arl.operator.pod_problems import newest_warning
from pytest_arl.text import untrusted
from tests.operator.control_room import leading
from tests.operator.objects import T0, pool


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of characters that were made printable."""
    found: list[int] = []
    printable = untrusted.printable

    def counted(text: str) -> str:
        found.append(len(text))
        return printable(text)

    monkeypatch.setattr(untrusted, "printable", counted)
    return found


@pytest.mark.asyncio
async def test_an_event_has_both_ends_of_a_message_and_no_more_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, looked: list[int]
) -> None:
    async with leading(monkeypatch) as room:
        room.context.notices.warn(pool(), "NotUnderstood", "a" * 1000 + "\x01" * 1_000_000)
        await room.until(lambda: room.server.bodies)
        (event,) = room.server.bodies
    assert len(event["message"]) == 1024
    assert event["message"].startswith("a" * 500)
    assert event["message"].endswith("\\x01")
    assert max(looked) == 1024


@pytest.mark.asyncio
async def test_a_namespace_whose_events_do_not_arrive_leaves_out_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        stuck, written = asyncio.Event(), []

        async def post(request: web.Request) -> web.Response:
            written.append(request.path.split("/")[4])
            if written[-1] == "full":
                await stuck.wait()
            return web.json_response({}, status=201)

        room.server.handlers["POST"] = post
        for namespace, many in (("full", 30), ("quiet", 5)):
            for number in range(many):
                body = pool(f"p{number}")
                body["metadata"]["namespace"] = namespace
                room.context.notices.warn(body, "NotUnderstood", "m")
        await room.until(lambda: len(written) == 15)
        stuck.set()
        await asyncio.sleep(0.05)
    assert Counter(written) == {"full": 10, "quiet": 5}


@pytest.mark.parametrize("size", [MOST_MESSAGE, MOST_MESSAGE + 1, 1_000_000])
def test_so_has_a_condition(looked: list[int], size: int) -> None:
    change: dict[str, Any] = {"type": "Ready", "status": "False", "reason": "x", "message": "\x01" * size}
    (found,) = conditions(None, [change], T0)
    assert len(found["message"]) == MOST_MESSAGE
    assert max(looked) == MOST_MESSAGE


@pytest.mark.parametrize("reason", ["\x1b]0;x\x07", "x" * 129, "", "9", "a b", "a,", None, 7, "ä"])
def test_a_reason_that_is_none_is_not_repeated(reason: Any) -> None:
    """Reasons of Events are their makers' choice, and a status with one of more than 1024 characters is refused."""
    change = {"type": "Ready", "status": "False", "reason": reason, "message": ""}
    assert conditions(None, [change], T0)[0]["reason"] == "Other"
    event = {"type": "Warning", "reason": reason, "message": "m"}
    assert newest_warning([event]) == ("Warning", "m")


@pytest.mark.parametrize("reason", ["x", "ErrImagePull", "x" * 128, "A_b:c,d9"])
def test_a_reason_that_is_one_is_told(reason: str) -> None:
    change = {"type": "Ready", "status": "False", "reason": reason, "message": ""}
    assert conditions(None, [change], T0)[0]["reason"] == reason
    assert newest_warning([{"type": "Warning", "reason": reason, "message": "m"}]) == (reason, "m")
