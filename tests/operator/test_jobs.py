"""Jobs: one of a name at a time, a pause after it failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.operator import jobs as jobs_module
from pytest_arl.operator.jobs import MOST_IN_A_LANE, Jobs

pytestmark = pytest.mark.asyncio


async def test_of_one_name_one_runs_at_a_time() -> None:
    jobs, gate, ran = Jobs(), asyncio.Event(), 0

    async def job() -> None:
        nonlocal ran
        ran += 1
        await gate.wait()

    assert jobs.once("a", job)
    assert not jobs.once("a", job)
    assert jobs.once("b", job)
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0.01)
    assert ran == 2
    assert jobs.once("a", job)


async def test_one_that_failed_is_left_alone_for_a_while_that_doubles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moment = 100.0
    monkeypatch.setattr(jobs_module, "_LONGEST_PAUSE", 3.0)
    monkeypatch.setattr(jobs_module, "time", SimpleNamespace(monotonic=lambda: moment))
    jobs, failing = Jobs(), True

    async def job() -> None:
        if failing:
            raise ValueError("no")

    for pause in (1.0, 2.0, 3.0, 3.0):
        assert jobs.once("a", job)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        moment += pause - 0.1
        assert jobs.resting("a")
        assert not jobs.once("a", job)
        moment += 0.2
        assert not jobs.resting("a")
    failing = False
    assert jobs.once("a", job)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not jobs.resting("a")
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 4


async def test_what_fails_at_every_look_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs()
    for _ in range(100):
        jobs.failed("a", ValueError("no"))
    assert len(caplog.records) == 1


async def test_names_of_failures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_MOST_FAILURES", 10)
    jobs = Jobs()
    for number in range(30):
        jobs.failed(number, ValueError("no"))
    assert [number for number in range(30) if jobs.resting(number)] == list(range(20, 30))


async def test_of_a_lane_a_few_run_at_a_time_in_their_order() -> None:
    jobs, gates, began = Jobs(), [asyncio.Event() for _ in range(3 * MOST_IN_A_LANE)], []

    def job(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            began.append(number)
            await gates[number].wait()

        return run

    for number in range(len(gates)):
        assert jobs.in_turn("lane", number, job(number))
        assert not jobs.in_turn("lane", number, job(number))
    assert jobs.in_turn("another", "x", job(0))
    assert len(jobs._running) == MOST_IN_A_LANE + 1
    await asyncio.sleep(0)
    assert sorted(began) == [0, *range(MOST_IN_A_LANE)]
    assert jobs.size("lane") == len(gates)
    assert all(jobs.busy(number) for number in range(len(gates)))
    gates[1].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert began[-1] == MOST_IN_A_LANE
    assert (jobs.busy(1), jobs.size("lane")) == (False, len(gates) - 1)
    for gate in gates:
        gate.set()
    while jobs.size("lane") or jobs.size("another"):
        await asyncio.sleep(0)
    assert began == [*range(MOST_IN_A_LANE), 0, *range(MOST_IN_A_LANE, len(gates))]
    assert jobs._lanes == {}, "nothing is kept of a lane in which nothing is left"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_the_newest_may_go_before_all_that_wait(newest_first: bool) -> None:
    jobs, gate, ran = Jobs(), asyncio.Event(), []

    def job(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run() -> None:
            ran.append(number)
            await gate.wait()

        return run

    for number in range(MOST_IN_A_LANE + 3):
        jobs.in_turn("lane", number, job(number), newest_first=newest_first)
    gate.set()
    await asyncio.sleep(0.01)
    waited = [MOST_IN_A_LANE, MOST_IN_A_LANE + 1, MOST_IN_A_LANE + 2]
    assert ran[MOST_IN_A_LANE:] == (waited[::-1] if newest_first else waited)


async def test_one_that_fails_makes_room_in_its_lane_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_FIRST_PAUSE", 0.01)
    jobs, tries = Jobs(), 0
    ended: list[int] = []

    async def failing() -> None:
        nonlocal tries
        tries += 1
        if tries <= 3 * MOST_IN_A_LANE or not ended:
            raise ValueError("no")

    async def good() -> None:
        ended.append(tries)

    for number in range(2 * MOST_IN_A_LANE):
        jobs.in_turn("lane", number, failing)
    jobs.in_turn("lane", "good", good)
    async with asyncio.timeout(10):
        while jobs.size("lane"):
            assert all(jobs.busy(each) for each in range(2 * MOST_IN_A_LANE)) or tries > 3 * MOST_IN_A_LANE
            await asyncio.sleep(0.001)
    assert ended == [2 * MOST_IN_A_LANE], "after each had one turn"
    assert not any(jobs.busy(number) for number in range(2 * MOST_IN_A_LANE))


async def test_the_pause_in_a_lane_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    jobs = Jobs()

    async def failing() -> None:
        raise ValueError("no")

    def later(pause: float, queue: Callable[..., None], *named: Any) -> None:
        pauses.append(pause)
        if len(pauses) < 8:
            asyncio.get_running_loop().call_soon(queue, *named)

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", later)
    jobs.in_turn("lane", "a", failing)
    while len(pauses) < 8:
        await asyncio.sleep(0)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
