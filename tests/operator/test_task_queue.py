"""The order of a Sandbox's Tasks, whose next one is found by few looks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.cluster.objects import name, uid
from pytest_arl.operator import task_queue as module
from pytest_arl.operator.task_queue import TaskQueue
from tests.operator.objects import task


class Sandbox:
    """Its Tasks, those that are being ended, and how often that was asked."""

    def __init__(self, *tasks: Any) -> None:
        self.there = {uid(each): each for each in tasks}
        self.ending: set[str] = set()
        self.looks = 0
        self.queue = TaskQueue(lambda: self.there, self._is_ending)

    def _is_ending(self, body: Any) -> bool:
        self.looks += 1
        return uid(body) in self.ending

    def add(self, body: Any) -> None:
        self.there[uid(body)] = body
        self.queue.add(body)

    def next(self, first: str | None = None) -> str | None:
        found = self.queue.next(first)
        return None if found is None else name(found)


def at(body: Any, moment: str) -> Any:
    body["metadata"]["creationTimestamp"] = moment
    return body


def test_tasks_run_in_the_order_in_which_they_were_made() -> None:
    late, b, a = at(task("late"), "2026-01-01T00:00:02Z"), task("b"), task("a")
    its = Sandbox(late, b, a)
    assert [its.next(), its.next(uid(late)), its.next("of no task"), its.next()] == ["a", "late", "a", "a"]
    its.add(at(task("early"), "2025-01-01T00:00:00Z"))
    its.add(late)
    for expected in ("early", "a", "b", "late"):
        assert its.next() == expected
        its.there = {which: each for which, each in its.there.items() if name(each) != expected}
    assert its.next() is None


def test_a_task_whose_end_is_being_written_is_skipped() -> None:
    a, b = task("a"), task("b")
    its = Sandbox(a, b)
    its.ending.add(uid(a))
    assert its.next() == "b"
    assert its.next(uid(a)) == "b"
    its.ending.add(uid(b))
    assert its.next() is None


@pytest.mark.parametrize("count", [100, 1000])
def test_each_of_many_that_are_ended_unrun_is_looked_at_a_few_times(count: int) -> None:
    tasks = [task(f"t{number:04}") for number in range(count)]
    its = Sandbox(*tasks)
    for body in tasks:
        assert its.next() == name(body)
        its.ending.add(uid(body))
    assert its.next() is None
    for body in tasks:  # their ends come as events
        del its.there[uid(body)]
        its.queue.add(body)
        assert its.next() is None
    assert its.looks <= 4 * count


def test_a_task_whose_end_was_not_written_comes_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: moment))
    a = task("a")
    its = Sandbox(a)
    its.ending.add(uid(a))
    assert its.next() is None
    its.ending.clear()
    moment += 0.9
    assert its.next() is None
    moment += 0.2
    assert its.next() == "a"


@pytest.mark.parametrize("waiting", [1, 100])
def test_of_tasks_that_come_and_go_while_one_runs_few_are_remembered(waiting: int) -> None:
    runs = at(task("runs"), "2025-01-01T00:00:00Z")
    its = Sandbox(runs, *(task(f"waits{number}") for number in range(waiting - 1)))
    assert its.next() == "runs"
    most = 2 * waiting + module._MOST_GONE
    for number in range(3 * most):
        body = task(f"t{number}")
        its.add(body)
        del its.there[uid(body)]
        assert len(its.queue._order) <= most + 3
        assert len(its.queue._known) == len(its.queue._order)
    assert its.next() == "runs"
    assert sum(name(each).startswith("waits") for each in its.there.values()) == waiting - 1
    assert {uid(each) for each in its.there.values()} <= its.queue._known
