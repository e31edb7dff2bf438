"""The shelf of sandboxes that are ready, without sandboxes."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.backends.local.warm import WarmPools
from tests.waiting import until


@dataclasses.dataclass(eq=False)
class One:
    """A sandbox that is none."""

    closed: bool = False
    dead: bool = False

    def alive(self) -> bool:
        return not (self.closed or self.dead)

    def close(self) -> None:
        self.closed = True


class Kitchen:
    """Makes one for each time it is allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.begun = 0
        self.fails: Exception | None = None
        self.shelf = WarmPools[One](self.make, self.room)
        self.most = 100

    def make(self, _plan: object) -> One:
        self.begun += 1
        assert self.allowed.acquire(timeout=10)
        if self.fails:
            raise self.fails
        return One()

    def room(self, beside: int) -> bool:
        return beside < self.most


def plan_of(warm: int) -> Any:
    return SimpleNamespace(pool=SimpleNamespace(name="p", warm=warm))


@pytest.fixture
def kitchen() -> Iterator[Kitchen]:
    made = Kitchen()
    yield made
    made.allowed.release(100)
    made.shelf.close()


def take(kitchen: Kitchen, plan: Any, seconds: float = 10) -> One | None:
    return kitchen.shelf.take(plan, time.monotonic() + seconds)


def test_the_first_caller_makes_its_own_sandbox(kitchen: Kitchen) -> None:
    assert take(kitchen, plan_of(2)) is None


def test_a_caller_waits_for_a_sandbox_that_is_being_made(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    take(kitchen, plan)
    assert until(lambda: kitchen.begun == 1)
    threading.Timer(0.1, kitchen.allowed.release).start()
    assert isinstance(take(kitchen, plan), One)


def test_a_caller_makes_its_own_sandbox_if_others_wait_for_all_that_are_begun(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    take(kitchen, plan)
    assert until(lambda: kitchen.begun == 1)
    waiter = threading.Thread(target=take, args=(kitchen, plan))
    waiter.start()
    assert until(lambda: kitchen.shelf._waiting.total() == 1)
    assert take(kitchen, plan) is None
    kitchen.allowed.release()
    waiter.join(10)
    assert not waiter.is_alive()


def test_a_caller_makes_its_own_sandbox_if_the_awaited_one_fails(
    kitchen: Kitchen, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(1)
    take(kitchen, plan)
    assert until(lambda: kitchen.begun == 1)
    kitchen.fails = OSError("no room")
    threading.Timer(0.1, kitchen.allowed.release).start()
    assert take(kitchen, plan) is None
    assert "not kept warm: no room" in caplog.text


def test_waiting_ends_at_the_deadline(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    take(kitchen, plan)
    assert until(lambda: kitchen.begun == 1)
    assert take(kitchen, plan, seconds=0.05) is None
    assert kitchen.shelf._waiting.total() == 0


def test_those_that_are_made_count_as_room(kitchen: Kitchen) -> None:
    kitchen.most = 1
    take(kitchen, plan_of(3))
    assert until(lambda: kitchen.begun == 1)
    time.sleep(0.05)
    assert kitchen.begun == 1


def shelved(kitchen: Kitchen, plan: Any) -> One:
    take(kitchen, plan)
    kitchen.allowed.release()
    assert until(lambda: kitchen.shelf.count() == 1)
    (one,) = kitchen.shelf.ready()
    return one


def test_one_of_a_plan_that_changed_is_not_handed_out(kitchen: Kitchen) -> None:
    stale = shelved(kitchen, plan_of(1))
    assert take(kitchen, plan_of(1), seconds=0.05) is None
    assert stale.closed


def test_one_of_the_same_plan_is_handed_out(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    ready = shelved(kitchen, plan)
    assert take(kitchen, plan) is ready
    assert not ready.closed


def test_one_that_was_begun_by_a_plan_that_changed_is_not_handed_out(kitchen: Kitchen) -> None:
    take(kitchen, plan_of(1))
    assert until(lambda: kitchen.begun == 1)
    changed = plan_of(1)
    take(kitchen, changed, seconds=0.05)
    kitchen.allowed.release()
    assert until(lambda: kitchen.begun == 2)  # for the plan that is in force
    assert kitchen.shelf.count() == 0
    kitchen.allowed.release()
    assert until(lambda: kitchen.shelf.count() == 1)


def test_a_warm_sandbox_that_died_is_closed_and_not_handed_out(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    dead = shelved(kitchen, plan)
    dead.dead = True
    assert take(kitchen, plan, seconds=0.05) is None
    assert dead.closed


def test_closing_ends_what_is_made_meanwhile(kitchen: Kitchen) -> None:
    plan = plan_of(1)
    take(kitchen, plan)
    assert until(lambda: kitchen.begun == 1)
    threading.Timer(0.05, kitchen.allowed.release).start()
    kitchen.shelf.close()
    assert take(kitchen, plan) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "arl-warm"]
