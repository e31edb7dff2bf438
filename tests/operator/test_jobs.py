"""Jobs: one of a name at a time, a pause after it failed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pytest_arl.operator import jobs as jobs_module
from pytest_arl.operator.jobs import Jobs

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
    monkeypatch.setattr(jobs_module, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(jobs_module, "_LONGEST_PAUSE", 0.15)
    jobs, failing = Jobs(), True

    async def job() -> None:
        if failing:
            raise ValueError("no")

    pauses = []
    for _ in range(4):
        while not jobs.once("a", job):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        assert jobs.resting("a")
        pauses.append(jobs._failures["a"][0])
    assert pauses == pytest.approx([0.05, 0.1, 0.15, 0.15])
    failing = False
    while not jobs.once("a", job):
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)
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
