"""Contract, "Truth": a problem of the infrastructure is never an answer, and an answer is never made up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl import (
    InfrastructureError,
    PoolNotFound,
    SandboxClosed,
    SandboxLost,
    SandboxSession,
    SandboxTimeout,
    StepFailed,
    UsageError,
)
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.hooks import get_backend
from pytest_arl.settings import current, override
from pytest_arl.steps import parse_steps
from tests.contract.probes import NOISE, agent_of, agents, marked, new_marker
from tests.waiting import until

if TYPE_CHECKING:
    from tests.contract.backends import ContractBackend


def _command(*argv: str, **more: Any) -> dict[str, Any]:
    return {"type": "Command", "command": list(argv), **more}


# 19. Errors of the infrastructure are exceptions of that branch


def test_a_pool_that_is_missing_is_pool_not_found_and_lists_those_there_are(backend: ContractBackend) -> None:
    with pytest.raises(PoolNotFound, match=r"smal.*small"):
        backend.open("smal")
    with backend.open("small") as sandbox:
        assert sandbox.run("true").ok, "control"


def test_a_sandbox_that_is_not_there_is_sandbox_closed(backend: ContractBackend) -> None:
    never = SandboxSession(backend=backend.name)
    gone = backend.open()
    assert gone.run("true").ok, "control"
    gone.delete_sandbox()

    for sandbox in (never, gone):
        uses: list[Callable[[], object]] = [
            partial(sandbox.run, "true"),
            partial(sandbox.execute, [_command("true")]),
            partial(sandbox.read, "/etc/passwd"),
            partial(sandbox.write, "file", "content"),
            partial(sandbox.start, "true"),
            sandbox.checkpoint,
            sandbox.reset,
        ]
        for use in uses:
            with pytest.raises(SandboxClosed, match="create_sandbox"):
                use()
    gone.create_sandbox()
    assert gone.run("true").ok, "control: a fresh one works"
    gone.delete_sandbox()


def test_no_place_for_another_sandbox_is_sandbox_timeout_that_says_what_it_waited_for(backend: ContractBackend) -> None:
    with override({"max_sandboxes": 1}, "a test"), backend.open() as first:
        began = time.monotonic()
        with pytest.raises(SandboxTimeout, match=r"max.sandboxes") as caught:
            backend.open(acquire_timeout=0.3)
        took = time.monotonic() - began
        assert "default" in str(caught.value)
        assert 0.3 <= took < 0.3 + NOISE
        first.delete_sandbox()
        with backend.open(acquire_timeout=30) as second:
            assert second.run("true").ok, "control: once there is a place"


def test_a_backend_that_cannot_give_what_is_asked_is_backend_unavailable_with_a_cure(backend: ContractBackend) -> None:
    with backend.open() as sandbox:
        tier = sandbox.isolation
    if not backend.on_this_machine or tier == "bwrap+cgroup":
        pytest.skip("this backend gives the strongest isolation there is")
    with (
        override({"isolation_min": "bwrap+cgroup"}, "a test"),
        pytest.raises(InfrastructureError, match="isolation-min"),
    ):
        backend.open()


def test_errors_of_the_infrastructure_are_no_test_failures_and_failed_steps_are(backend: ContractBackend) -> None:
    for kind in (PoolNotFound, SandboxClosed, SandboxLost, SandboxTimeout):
        assert issubclass(kind, InfrastructureError)
        assert not issubclass(kind, AssertionError)
    with backend.open() as sandbox, pytest.raises(AssertionError) as caught:
        sandbox.run("false").check()
    assert isinstance(caught.value, StepFailed)
    assert not isinstance(caught.value, InfrastructureError)


# 19. As many results as steps

_TASKS: dict[str, list[dict[str, Any]]] = {
    "all succeed": [_command("true"), {"type": "FilePatch", "path": "x", "content": "x"}, _command("true")],
    "the first fails": [_command("false"), _command("true"), _command("true")],
    "the last fails": [_command("true"), _command("true"), _command("false")],
    "one is killed": [_command("true"), _command("sh", "-c", "kill -9 $$"), _command("true")],
    "one times out": [_command("true"), _command("sleep", "60", timeout=0.1), _command("true")],
    "one cannot start": [_command("true"), _command("no-such-program"), _command("true")],
    "one has no folder": [_command("pwd", workDir="nowhere"), _command("true")],
    "a patch fails": [{"type": "FilePatch", "path": "/proc/x", "content": "x"}, _command("true")],
    "background": [_command("sleep", "60", background=True), _command("true"), _command("false"), _command("true")],
    "a background one cannot start": [_command("no-such-program", background=True), _command("true")],
    "out of memory": [_command("python3", "-c", "x = bytearray(b'x' * (1 << 30))"), _command("true")],
    "much output": [_command("seq", "1000000"), _command("seq", "1000000"), _command("true")],
    "a hundred": [_command("true") for _ in range(100)],
}


@pytest.mark.parametrize("what", _TASKS)
def test_there_is_one_result_for_each_step(backend: ContractBackend, what: str) -> None:
    steps = _TASKS[what]
    with backend.open("small") as sandbox:
        result = sandbox.execute(steps)

    assert len(result.steps) == len(steps)
    outcomes = [step.outcome for step in result.steps]
    first_bad = next((n for n, outcome in enumerate(outcomes) if outcome != "Succeeded"), len(steps))
    assert all(outcome == "Skipped" for outcome in outcomes[first_bad + 1 :])
    assert "Skipped" not in outcomes[: first_bad + 1]
    assert result.ok == (what in ("all succeed", "much output", "a hundred"))
    for step in result.steps:
        assert (step.exit_code == 0) == (step.outcome == "Succeeded")
        assert (step.exit_code is None) == (step.outcome == "Skipped")


def test_a_cancelled_task_has_one_result_for_each_step_too(backend: ContractBackend) -> None:
    """What a listener or report learns of a task whose caller was interrupted."""
    sandbox = get_backend(backend.name, current()).acquire(AcquireRequest("default"))
    task = TaskRequest("t-cancelled", parse_steps([_command("echo", "1"), _command("sleep", "60"), _command("true")]))
    try:
        timer = threading.Timer(0.3, sandbox.cancel, [task.id])
        timer.start()
        results = sandbox.execute(task, None)
    finally:
        sandbox.close()

    assert [step.outcome for step in results] == ["Succeeded", "Cancelled", "Skipped"]
    assert results[1].exit_code not in (0, None)


def test_nothing_is_run_of_a_task_that_is_wrong(backend: ContractBackend) -> None:
    with backend.open() as sandbox:
        for wrong in (
            [],
            [_command("touch", "ran"), {"type": "Comand", "command": ["true"]}],
            [_command("touch", "ran"), _command()],
        ):
            with pytest.raises(UsageError):
                sandbox.execute(wrong)
        assert not sandbox.run("test", "-e", "ran").ok
        sandbox.run("touch", "ran").check()
        assert sandbox.run("test", "-e", "ran").ok, "control"


# 20. A task runs at most once


def test_a_task_of_one_id_runs_once_and_its_answer_can_be_asked_for_again(backend: ContractBackend) -> None:
    sandbox = get_backend(backend.name, current()).acquire(AcquireRequest("default"))
    steps = parse_steps([_command("sh", "-c", "echo ran >> log; wc -l < log; seq 100000; exit 3"), _command("true")])
    try:
        first = sandbox.execute(TaskRequest("t-1", steps), None)
        again = sandbox.execute(TaskRequest("t-1", steps), None)
        log = sandbox.read("log")
        other = sandbox.execute(TaskRequest("t-2", steps), None)
        assert sandbox.read("log") == b"ran\nran\n", "control: another id is another run"
    finally:
        sandbox.close()

    assert log == b"ran\n"
    assert again == first
    assert (first[0].stdout[:2], other[0].stdout[:2]) == ("1\n", "2\n")


def test_a_lost_task_is_not_run_again_by_retries(backend: ContractBackend) -> None:
    if not backend.on_this_machine:
        pytest.skip("its processes are not on this machine")
    marker, starts = new_marker(), []
    with backend.open() as sandbox:

        def kill(_step: str, _stream: str, data: bytes) -> None:
            starts.append(data)
            os.kill(agent_of(marker), 9)

        with pytest.raises(SandboxLost):
            sandbox.execute([_command("sh", "-c", "echo started; sleep 30; true", marker)], on_output=kill, retries=3)

    assert starts == [b"started\n"]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_task_that_never_started_is_sent_again_as_often_as_asked(backend: ContractBackend, retries: int) -> None:
    if not backend.on_this_machine:
        pytest.skip("its processes are not on this machine")
    before = agents()
    with backend.open() as sandbox:
        (agent,) = agents() - before
        os.kill(agent, 9)
        assert until(lambda: agent not in agents())

        if retries:
            assert sandbox.execute([_command("echo", "hello")], retries=retries).stdout == "hello\n"
        else:
            with pytest.raises(SandboxLost):
                sandbox.execute([_command("echo", "hello")])


# 21. Nothing waits for ever


def test_waiting_for_a_process_has_an_end_that_says_what_was_waited_for(backend: ContractBackend) -> None:
    with backend.open() as sandbox:
        process = sandbox.start("sleep", "60")
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="sleep"):
            process.wait(0.3)
        assert 0.3 <= time.monotonic() - began < 0.3 + NOISE
        process.kill()
        assert process.wait(10).outcome == "Killed", "control"


def test_callers_wait_for_their_turn_and_all_get_it_in_order(backend: ContractBackend) -> None:
    order: list[int] = []
    with backend.open() as sandbox:

        def call(number: int) -> None:
            sandbox.run("sleep", "0.1")
            order.append(number)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
            time.sleep(0.01)
        for thread in threads:
            thread.join(30)

    assert order == list(range(6))


def test_an_agent_that_says_nothing_to_a_question_is_sandbox_lost_in_the_end(
    backend: ContractBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step's timeout bounds this wait; the channel's own does. Its patience is shortened, or this took 45 s."""
    if not backend.on_this_machine:
        pytest.skip("its processes are not on this machine")
    marker = new_marker()
    with backend.open() as sandbox:
        monkeypatch.setattr("pytest_arl.agent_client.agent_socket._SILENCE_SECONDS", 0.3)
        monkeypatch.setattr("pytest_arl.agent_client.agent_socket._ANSWER_SECONDS", 2.0)
        assert sandbox.run("sleep", "1.5").ok, "control: an agent that lives may be silent for longer"

        def stop(_step: str, _stream: str, _data: bytes) -> None:
            os.kill(agent_of(marker), 19)

        began = time.monotonic()
        with pytest.raises(SandboxLost, match="answer"):
            sandbox.execute([_command("sh", "-c", "echo ready; sleep 60; true", marker)], on_output=stop)

        assert time.monotonic() - began < 2.3 + 2 * NOISE
    assert until(lambda: marked(marker) == set(), 2)
