"""One pool: what it does where the API server refuses its pods."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl.operator import pool_keeper as module
from pytest_arl.operator import template
from pytest_arl.operator.objects import Key, uid
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.operator.trouble import Trouble
from tests.operator.control_room import leading
from tests.operator.objects import pool, sandbox

pytestmark = pytest.mark.asyncio

QUOTA = Trouble("QuotaExceeded", "exceeded quota")


class Clock:
    def __init__(self) -> None:
        self.moment = 100.0

    def monotonic(self) -> float:
        return self.moment


async def test_where_a_pod_is_refused_those_who_wait_try_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own asked again each second: two hundred who waited made two hundred requests of it."""
    clock = Clock()
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.control, Key("ns", "pool"))
        monkeypatch.setattr(module, "time", clock)
        cold = [f"w{number}" for number in range(200)]
        assert keeper._may_be_made(cold) == cold
        asked = 0
        for _ in range(600):
            tried = keeper._may_be_made(cold)
            asked += len(tried)
            for _ in tried:
                keeper._be_refused(QUOTA)
            assert keeper._refused in (None, QUOTA)
            if keeper._refused is None:
                keeper._be_refused(QUOTA)
            clock.moment += 0.1
        assert 5 <= asked - 200 <= 12, "in a minute"
        assert keeper.why() == QUOTA


async def test_once_a_pod_is_made_the_next_one_tries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.control, Key("ns", "pool"))
        monkeypatch.setattr(module, "time", clock)
        for _ in range(10):
            keeper._be_refused(QUOTA)
        clock.moment += 8
        assert keeper._may_be_made(["a", "b", "c"]) == ["a"]
        assert keeper._may_be_made(["b", "c"]) == [], "the answer is still to come"
        keeper._be_allowed()
        assert keeper._may_be_made(["b", "c"]) == ["b"]
        keeper._be_allowed()
        assert keeper._may_be_made([]) == []
        assert keeper._may_be_made(["d", "e"]) == ["d", "e"], "nobody waits any more: as before"


async def test_who_waits_is_looked_at_once_and_not_by_each_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template of 4,000 containers and sixty who waited held the operator up for ten seconds."""
    looked: list[str] = []

    def counted(what: str) -> None:
        found = getattr(template, what)

        def looks(*arguments: Any) -> Any:
            looked.append(what)
            return found(*arguments)

        monkeypatch.setattr(template, what, looks)

    counted("own_resources")
    counted("resources_for")
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.control, Key("ns", "pool"))
        body = pool(replicas=0, resources={"limits": {"memory": "512Mi"}})
        room.control.store.put("warmpools", body)
        keeper.template = {}
        monkeypatch.setattr(keeper, "_may_be_made", lambda _cold: [])
        asked = [{"limits": {"memory": each}} for each in ("512Mi", "256Mi")]
        waiters = [keeper.ask(sandbox(f"s{number}", resources=asked[number % 2])) for number in range(100)]
        assert looked.count("own_resources") == 1
        assert looked.count("resources_for") == 200, "at its coming, and in the queue"
        special = {uid(each.sandbox) for each in waiters if keeper._wishes.own_pod(each.sandbox)}
        assert special == {uid(each.sandbox) for each in waiters[1::2]}

        changed = pool(replicas=0, resources={"limits": {"memory": "1Gi"}})
        changed["metadata"] |= {"uid": body["metadata"]["uid"], "generation": 2, "resourceVersion": "99999"}
        assert room.control.store.put("warmpools", changed)
        assert all(keeper._wishes.own_pod(each.sandbox) for each in waiters), "neither is the pool's any more"
        assert looked.count("own_resources") == 2
        for each in waiters:
            keeper.withdraw(each)
        assert keeper._wishes._known == {}
