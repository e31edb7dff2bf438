"""One pool: what it does where the API server refuses its pods."""

from __future__ import annotations

import pytest

from pytest_arl.operator import pool_keeper as module
from pytest_arl.operator.objects import Key
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.operator.trouble import Trouble
from tests.operator.control_room import leading

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
