"""A sandbox of a cluster whose connections break, and whose agent says one thing here and another there."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.agent_client.task_run import TaskRun
from pytest_arl.backends.base import TaskRequest
from pytest_arl.backends.kubernetes import kubernetes_sandbox as module
from pytest_arl.backends.kubernetes import task as task_module
from pytest_arl.backends.kubernetes.held_sandbox import HeldSandbox
from pytest_arl.backends.kubernetes.kubernetes_sandbox import KubernetesSandbox
from pytest_arl.backends.kubernetes.task import RunningTask
from pytest_arl.errors import SandboxLost
from pytest_arl.steps import parse_steps


class Clock:
    def __init__(self) -> None:
        self.moment = 1000.0

    def monotonic(self) -> float:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def breaking(clock: Clock, lasts: float, most: int = 10_000) -> tuple[Any, list[float]]:
    """A sandbox each of whose connections lasts so long, and when they broke; after so many they hold."""
    found: Any = object.__new__(KubernetesSandbox)
    broke: list[float] = []

    def channel() -> Any:
        if len(broke) == most:
            raise KeyError("it holds")
        clock.moment += lasts
        broke.append(clock.moment)
        raise ChannelLost("it broke")

    found.name, found.pool_ref, found._closed, found._killed = "s", "p", False, True
    found._agent_connection = SimpleNamespace(channel=channel)
    found.held = HeldSandbox(Mock(), ("s", "u"), Mock(deleted=False, latest=None), proves=False)
    return found, broke


@pytest.mark.parametrize(("lasts", "breaks"), [(0.0, 9), (8.0, 9), (15.0, 9), (61.0, 17)])
def test_a_request_over_connections_that_break_has_an_end(clock: Clock, lasts: float, breaks: int) -> None:
    sandbox, broke = breaking(clock, lasts)
    with pytest.raises(SandboxLost, match="it broke"):
        sandbox.exchange(lambda _stream: None)
    assert len(broke) == breaks


@pytest.mark.parametrize(("lasts", "breaks"), [(15.0, 9), (61.0, 300)])
def test_what_waits_for_a_program_outlives_any_number_of_them_over_hours(
    clock: Clock, lasts: float, breaks: int
) -> None:
    sandbox, broke = breaking(clock, lasts, most=300)
    with pytest.raises((SandboxLost, KeyError)):
        sandbox.exchange(lambda _stream: None, lasting=True)
    assert len(broke) == breaks


def task(**fields: Any) -> TaskRequest:
    return TaskRequest("id", parse_steps([{"type": "Command", "command": ["x"], "timeout": 4}]), **fields)


def test_a_task_that_is_followed_over_many_connections_ends_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.agent_client.task_run.time", Clock())
    run = TaskRun(task(), None, [], limit=10, label=lambda limit: limit)
    assert run._deadline() == 1000 + 4 + 5, "of this connection"
    for until in (900.0, 1002.0):
        late = TaskRun(task(), None, [], limit=10, label=lambda limit: limit, until=until)
        assert late._deadline() == until + 5


def test_what_is_followed_has_an_end_where_its_steps_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = object.__new__(RunningTask)
    found._task, found._began = task(), 100.0
    assert found._latest() == 100 + 2 * (4 + 5 + 15) + task_module._AGAIN_SECONDS
    found._began = None
    assert found._latest() is None


@pytest.mark.parametrize(
    ("outcome", "code", "believed"), [("Failed", 1, True), ("Succeeded", 0, False), ("Failed", 2, False)]
)
def test_an_agent_that_has_told_the_operator_another_end_is_not_believed(
    outcome: str, code: int, believed: bool
) -> None:
    """It is asked for all that the status lacks: a byte that is no text is enough for that."""
    told: list[str] = []

    def lost(reason: str) -> None:
        told.append(reason)
        raise SandboxLost(reason)

    found: Any = object.__new__(RunningTask)
    found._task, found._results, found._on_output, found._on_step, found._told = task(), [], None, None, 0
    ended = SimpleNamespace(outcome="Failed", exit_code=1)
    found._results = [ended]
    found._refuse_failure = lambda _found: None
    found._attach = lambda _stream, results, *_: results.append(SimpleNamespace(outcome=outcome, exit_code=code))
    found._sandbox = SimpleNamespace(exchange=lambda action: action(None), lost=lost)
    status = {"status": {"steps": [{"stdout": "\ufffd", "stdoutSize": 1}]}}
    if believed:
        found._finish(status)
        assert found._results[0].exit_code == 1
        assert told == []
    else:
        with pytest.raises(SandboxLost, match="another result"):
            found._finish(status)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_sandbox_that_is_closed_is_deleted_whatever_a_watch_has_said(deleted: bool) -> None:
    """A watch says of one that has lost its label that it is deleted, and anybody can take a label away."""
    asked: list[tuple[str, ...]] = []
    found: Any = object.__new__(KubernetesSandbox)
    found._closing, found._closed, found._owner = threading.Lock(), False, os.getpid()
    found._agent_connection = SimpleNamespace(close=lambda: None)
    mail: Any = SimpleNamespace(deleted=deleted, nudge=lambda: None, wakes=())
    api = SimpleNamespace(delete=lambda plural, namespace, name, *, uid: asked.append((plural, namespace, name, uid)))
    client: Any = SimpleNamespace(api=api, namespace="n")
    found.held = HeldSandbox(client, ("s", "u"), mail, proves=False)
    found._on_close = lambda _: None
    found.close()
    found.close()
    assert asked == [("sandboxes", "n", "s", "u")]
