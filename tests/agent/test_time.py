"""Timeouts and cancelling: a step ends when it must, all of it, and says what it had printed."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.messages import task_message
from pytest_arl.agent_client.task_run import GRACE_SECONDS
from pytest_arl.errors import SandboxLost
from tests.agent.harness import Sandbox, command, task
from tests.waiting import until

FORKER = "import os, time\nfor _ in range({depth}):\n  if os.fork() == 0: os.setsid()\ntime.sleep(100)"

STUBBORN = {
    "plain": "sleep 100",
    "ignores SIGTERM": "trap '' TERM INT HUP; sleep 100; sleep 100",
    "a session of its own": "setsid sleep 100 & sleep 100",
    "forked twice": "(setsid sh -c 'sleep 100 & sleep 100' &) & sleep 100",
    "stopped": "kill -STOP $$",
    "a stopped child": "sh -c 'kill -STOP $$' & sleep 100",
    "closed its outputs": "exec >&- 2>&- <&-; sleep 100",
    "prints without end": "yes",
    "forks without end": "while :; do sleep 0.001 & done 2>/dev/null",
}


@pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN)
def test_a_step_that_reaches_its_timeout_is_gone_at_once(sandbox: Sandbox, script: str) -> None:
    """Within half a second where there is nothing else to do, and before its host gives the agent up."""
    began = time.monotonic()
    result = sandbox.sh(f"echo begun; {script}", timeout=0.2)
    took = time.monotonic() - began

    assert (result.outcome, result.exit_code, result.limit) == ("TimedOut", 124, "timeout")
    assert result.stdout.startswith("begun\n")
    assert 0.19 < took < 0.2 + GRACE_SECONDS
    assert sandbox.processes() == []


def test_a_tree_of_a_hundred_sessions_is_gone_too(sandbox: Sandbox) -> None:
    result = sandbox.python(FORKER.format(depth=7), timeout=0.5)

    assert result.outcome == "TimedOut"
    assert sandbox.processes() == []


def test_a_timed_out_step_keeps_what_it_printed_to_the_last_byte(sandbox: Sandbox) -> None:
    result = sandbox.sh("printf out; printf err >&2; sleep 100", timeout=0.2)

    assert (result.stdout, result.stderr) == ("out", "err")


def test_a_step_that_ends_in_time_is_not_timed_out(sandbox: Sandbox) -> None:
    assert sandbox.sh("sleep 0.1; exit 3", timeout=5).exit_code == 3


def test_steps_after_one_that_timed_out_are_skipped(sandbox: Sandbox) -> None:
    results = sandbox.execute(command("sleep", "9", timeout=0.1), command("touch", "mark"))

    assert [result.outcome for result in results] == ["TimedOut", "Skipped"]
    assert not sandbox.sh("test -e mark").ok


def test_a_tasks_timeout_bounds_all_its_steps_together(sandbox: Sandbox) -> None:
    began = time.monotonic()
    results = sandbox.execute(*[command("sleep", "0.6")] * 5, timeout=1.5)

    assert [result.outcome for result in results] == ["Succeeded", "Succeeded", "TimedOut", "Skipped", "Skipped"]
    assert 1.5 <= time.monotonic() - began < 1.5 + GRACE_SECONDS


def test_the_nearer_of_two_timeouts_counts(sandbox: Sandbox) -> None:
    (by_step,) = sandbox.execute(command("sleep", "9", timeout=0.1), timeout=5)
    (by_task,) = sandbox.execute(command("sleep", "9", timeout=5), timeout=0.1)

    assert (by_step.outcome, by_task.outcome) == ("TimedOut", "TimedOut")
    assert max(by_step.duration, by_task.duration) < 5, "of nine that it would sleep"


def test_a_task_whose_time_is_over_starts_no_step(sandbox: Sandbox) -> None:
    (result,) = sandbox.execute(command("touch", "mark"), timeout=0)

    assert (result.outcome, result.exit_code) == ("TimedOut", 124)
    assert not sandbox.sh("test -e mark").ok


def test_file_patches_count_towards_the_tasks_timeout(sandbox: Sandbox) -> None:
    patches = [{"type": "FilePatch", "path": "f", "content": "x" * 10_000}] * 2000
    results = sandbox.execute(*patches, timeout=0.01)

    assert "TimedOut" in {result.outcome for result in results}


@pytest.mark.parametrize("seconds", [3_000_000.0, 300_000_000.0])
def test_a_timeout_of_a_month_or_of_years_is_one_like_any_other(sandbox: Sandbox, seconds: float) -> None:
    assert sandbox.sh("sleep 0.1; echo done", timeout=seconds).stdout == "done\n"
    assert sandbox.execute(command("true"), timeout=seconds)[0].ok


def test_no_timeout_hides_where_none_is_given(sandbox: Sandbox) -> None:
    assert sandbox.sh("sleep 1.5").ok


def cancel_soon(sandbox: Sandbox, name: str, seconds: float = 0.2) -> None:
    threading.Timer(seconds, lambda: sandbox.handle.cancel(name)).start()


def test_a_cancelled_step_ends_with_what_it_printed(sandbox: Sandbox) -> None:
    cancel_soon(sandbox, "mine")
    first, second = sandbox.execute(command("sh", "-c", "echo begun; sleep 100"), command("true"), name="mine")

    assert (first.outcome, first.exit_code, first.stdout) == ("Cancelled", 137, "begun\n")
    assert second.outcome == "Skipped"
    assert first.duration < 1
    assert sandbox.processes() == []


def test_cancelling_ends_what_ignores_signals(sandbox: Sandbox) -> None:
    cancel_soon(sandbox, "mine")
    (result,) = sandbox.execute(command("sh", "-c", "trap '' TERM; setsid sleep 100 & sleep 100; sleep 9"), name="mine")

    assert result.outcome == "Cancelled"
    assert sandbox.processes() == []


def test_a_task_that_is_cancelled_between_two_commands_runs_no_more_of_them(sandbox: Sandbox) -> None:
    patch = {"type": "FilePatch", "path": "f", "content": "x"}
    request = task(*[patch] * 20_000, command("touch", "mark"), name="mine")
    with sandbox.stream() as stream:
        stream.send(frames.TASK, task_message(request, 1000, live=False))
        sandbox.handle.cancel("mine")
        results = []
        while (received := stream.receive(time.monotonic() + 10))[0] != frames.DONE:
            results.append(received[1]["outcome"])

    assert results[-1] == "Cancelled"
    assert len(results) < 20_000
    assert not sandbox.sh("test -e mark").ok


def test_cancelling_another_task_or_one_that_is_over_does_nothing(sandbox: Sandbox) -> None:
    sandbox.execute(command("true"), name="over")
    cancel_soon(sandbox, "over", 0.1)
    cancel_soon(sandbox, "never", 0.1)

    assert sandbox.sh("sleep 0.3").ok


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, TimeoutError, SystemExit])
def test_an_exception_of_the_watching_caller_cancels_the_step_and_is_raised(
    sandbox: Sandbox, kind: type[BaseException]
) -> None:
    def fail(_step: str, _stream: str, _data: bytes) -> None:
        raise kind("from on_output")

    with pytest.raises(kind, match="from on_output"):
        sandbox.sh("echo begun; sleep 100", on_output=fail)

    assert sandbox.handle.partial[0].outcome == "Cancelled"
    assert until(lambda: sandbox.processes() == [])
    assert sandbox.run("true").ok


def test_a_stopped_agent_does_not_hang_its_host(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    monkeypatch.setattr("pytest_arl.agent_client.task_run.GRACE_SECONDS", 0.5)
    agent = sandbox.pid
    threading.Timer(0.2, lambda: os.kill(agent, signal.SIGSTOP)).start()
    with pytest.raises(SandboxLost, match="in time"):
        sandbox.sh("echo begun; sleep 100", timeout=0.5)

    assert sandbox.ended()
