import asyncio
from typing import Any

import pytest

from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.election import Leadership, LeadershipLost, may_take


def spec(holder: Any = "a", seconds: Any = 15) -> Any:
    return {"holderIdentity": holder, "leaseDurationSeconds": seconds}


def test_a_lease_may_be_taken_when_it_is_free_ours_or_expired() -> None:
    assert may_take(spec(""), "me", 0)
    assert may_take(spec("me"), "me", 0)
    assert not may_take(spec("other"), "me", 15)
    assert may_take(spec("other"), "me", 15.1)


class Leases:
    """An API server with one Lease."""

    def __init__(self) -> None:
        self.body: Any = None
        self.version = 0
        self.away = False
        self.lose_answer = False

    def _store(self, body: Any) -> Any:
        self.version += 1
        self.body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        if self.lose_answer:
            self.lose_answer = False
            raise ApiError(0, "Unreachable", "lost")
        return self.body

    async def get(self, _where: Any) -> Any:
        if self.away:
            raise ApiError(0, "Unreachable", "away")
        if self.body is None:
            raise ApiError(404, "NotFound", "none")
        return self.body

    async def create(self, _where: Any, body: Any) -> Any:
        if self.body is not None:
            raise ApiError(409, "AlreadyExists", "there")
        return self._store(body)

    async def replace(self, _where: Any, body: Any, *, patience: Any = 0) -> Any:
        if self.away:
            raise ApiError(0, "Unreachable", "away")
        if body["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "modified")
        return self._store(body)


def leadership(leases: Any, identity: str = "me", seconds: float = 0.4) -> Leadership:
    return Leadership(leases, "ns", identity, seconds)


def test_every_leader_has_a_higher_epoch() -> None:
    async def scene() -> None:
        leases = Leases()
        epochs = []
        for identity in ("a", "a", "b"):
            one = leadership(leases, identity)
            await one.acquire()
            epochs.append(one.epoch)
            if identity == "a" and len(epochs) == 2:
                await one.release()
        assert epochs == sorted(set(epochs))

    asyncio.run(scene())


@pytest.mark.parametrize("whose", ["our own", "another's"])
def test_a_lease_is_released_though_a_renewal_came_before(whose: str) -> None:
    """One whose answer nobody waited for. What another one leads by is left as it is."""

    async def scene() -> None:
        leases = Leases()
        one = leadership(leases)
        await one.acquire()
        if whose == "our own":
            leases._store(leases.body)
        else:
            leases._store({**leases.body, "spec": {**leases.body["spec"], "holderIdentity": "other"}})
        await one.release()
        assert leases.body["spec"]["holderIdentity"] == ("" if whose == "our own" else "other")

    asyncio.run(scene())


def test_a_lease_that_was_deleted_does_not_start_epochs_anew() -> None:
    async def scene() -> None:
        leases = Leases()
        first = leadership(leases)
        await first.acquire()
        leases.body = None
        second = leadership(leases)
        await second.acquire()
        assert second.epoch >= first.epoch > 1_000_000

    asyncio.run(scene())


def test_another_one_waits_for_the_whole_lease() -> None:
    async def scene() -> None:
        leases = Leases()
        await leadership(leases, "a").acquire()
        leases.body["spec"]["leaseDurationSeconds"] = 0.3
        loop = asyncio.get_running_loop()
        began = loop.time()
        await leadership(leases, "b").acquire()
        assert loop.time() - began >= 0.3

    asyncio.run(scene())


def test_a_leader_that_cannot_renew_gives_up_before_another_may_start() -> None:
    async def scene() -> None:
        leases = Leases()
        one = leadership(leases, seconds=3)
        await one.acquire()
        leases.away = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(LeadershipLost):
            await one.keep()
        assert loop.time() - began < 3

    asyncio.run(scene())


def test_a_leader_leads_on_though_the_api_server_came_back_at_the_last_moment() -> None:
    """A renewal every quarter alone would be tried 0.75 s and 1.5 s after the last one, and given up at the third."""

    async def scene() -> None:
        leases = Leases()
        one = leadership(leases, seconds=3)
        await one.acquire()
        version = leases.version
        leases.away = True
        asyncio.get_running_loop().call_later(1.6, setattr, leases, "away", False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.9):
                await one.keep()
        assert leases.version > version

    asyncio.run(scene())


def test_a_renewal_goes_on() -> None:
    async def scene() -> None:
        leases = Leases()
        one = leadership(leases, seconds=1.2)
        await one.acquire()
        version = leases.version
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await one.keep()
        assert leases.version > version + 3
        assert leases.body["spec"]["leaseTransitions"] == one.epoch

    asyncio.run(scene())


def test_a_renewal_whose_answer_was_lost_is_no_loss() -> None:
    async def scene() -> None:
        leases = Leases()
        one = leadership(leases, seconds=1.2)
        await one.acquire()
        leases.lose_answer = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await one.keep()

    asyncio.run(scene())


def test_a_lease_that_somebody_took_is_lost() -> None:
    async def scene() -> None:
        leases = Leases()
        one = leadership(leases)
        await one.acquire()
        await leases.replace("", {**leases.body, "spec": {**leases.body["spec"], "holderIdentity": "b"}})
        with pytest.raises(LeadershipLost, match="b leads"):
            await one.keep()

    asyncio.run(scene())
