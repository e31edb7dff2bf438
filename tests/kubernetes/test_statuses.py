"""A Task's status, read as the results of its steps."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl import InfrastructureError, Usage
from pytest_arl.backends.kubernetes import statuses
from pytest_arl.results import StepResult
from pytest_arl.steps import parse_steps

STEPS = parse_steps([{"type": "Command", "command": ["a"]}, {"type": "FilePatch", "path": "b", "content": ""}])


def task(*steps: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"status": {"steps": list(steps), **status}}


def label(limit: str | None) -> str | None:
    return f"{limit} 1Gi" if limit == "memory" else limit


def test_a_result_that_went_through_a_status_is_the_same() -> None:
    result = StepResult(
        name="step-1",
        type="Command",
        outcome="OutOfMemory",
        exit_code=137,
        signal="SIGKILL",
        stdout_bytes="out ü".encode(),
        stderr_bytes=b"",
        limit="memory 1Gi",
        started_at=1700000000.25,
        duration=1.5,
        usage=Usage(user_time=1.5, max_rss=2**30),
    )
    found = task({**result.to_json(), "limit": "memory"})
    assert statuses.read_steps(STEPS, found, label) == [result]
    assert statuses.is_whole(found)


def test_an_operator_that_says_nothing_of_what_a_step_used_is_understood() -> None:
    (result,) = statuses.read_steps(STEPS, task({"outcome": "Succeeded", "exitCode": 0}), label)
    assert result.usage is None


def test_what_a_step_cannot_have_used_is_no_status_of_ours() -> None:
    one = {"outcome": "Succeeded", "exitCode": 0, "usage": {"userTime": -1}}
    with pytest.raises(InfrastructureError, match="another version"):
        statuses.read_steps(STEPS, task(one), label)


def test_steps_that_were_skipped_are_not_among_the_results_and_have_no_exit_code() -> None:
    failed = {"name": "step-1", "type": "Command", "outcome": "Failed", "exitCode": 3}
    skipped = {"name": "step-2", "type": "FilePatch", "outcome": "Skipped"}
    assert [step.exit_code for step in statuses.read_steps(STEPS, task(failed, skipped), label)] == [3]


@pytest.mark.parametrize(
    ("text", "size", "whole"),
    [
        ("", 0, True),
        ("abc", 3, True),
        ("abc", 4, False),
        ("ü", 2, True),
        ("ü", 1, False),
        ("\ufffd", 1, False),
        # Three bytes that are no text become one U+FFFD, which is three bytes too.
        ("\ufffd", 3, False),
    ],
)
def test_a_status_is_whole_only_where_every_byte_can_be_read_from_it(text: str, size: int, whole: bool) -> None:
    for stream in ("stdout", "stderr"):
        step = {"outcome": "Succeeded", "exitCode": 0, stream: text, f"{stream}Size": size}
        assert statuses.is_whole(task(step)) == whole


def test_a_task_without_an_exit_code_is_the_infrastructures_failure() -> None:
    conditions = [{"type": "Failed", "status": "True", "reason": "SandboxLost", "message": "evicted"}]
    assert statuses.why_failed(task(state="Failed", conditions=conditions)) == ("SandboxLost", "evicted")
    assert statuses.why_failed(task(state="Failed", exitCode=1, conditions=conditions)) is None
    assert statuses.why_failed(task(state="Succeeded", exitCode=0)) is None
    assert statuses.why_failed(task(state="Running")) is None
    assert statuses.why_failed(task(state="Failed")) == ("", "")


def test_a_task_was_taken_where_it_runs_or_a_step_began() -> None:
    def taken(state: str | None, *steps: dict[str, Any], **more: Any) -> bool:
        return statuses.taken({"status": {"state": state, "steps": list(steps), **more}})

    begun, cancelled, skipped = {"startedAt": "2026-01-01T00:00:00Z"}, {"outcome": "Cancelled"}, {"outcome": "Skipped"}
    assert [taken(state) for state in (None, "Pending", "Running", "Succeeded", "Failed")] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert not taken("Failed", {**cancelled, "exitCode": 137}, skipped, exitCode=137), "it never began"
    assert taken("Failed", {**cancelled, **begun, "exitCode": 137}, skipped, exitCode=137)
    assert taken("Failed", {"outcome": "TimedOut"}, exitCode=124)


def test_a_status_of_another_version_is_an_infrastructure_error() -> None:
    with pytest.raises(InfrastructureError, match=r"step-1.*version"):
        statuses.read_steps(STEPS, task({"outcome": "Exploded", "exitCode": 1}), label)


def test_why_an_object_is_as_it_is_is_one_line() -> None:
    found = {"status": {"phase": "Failed", "conditions": [{"type": "Ready", "reason": "Evicted", "message": "disk"}]}}
    assert (statuses.why(found, "Ready"), statuses.why(None, "Ready")) == ("Evicted: disk", "")


@pytest.mark.parametrize("moment", ["yesterday", 5, ["x"]])
def test_a_step_that_began_at_no_time_is_no_status_of_ours(moment: Any) -> None:
    with pytest.raises(InfrastructureError, match="another version"):
        statuses.read_steps(STEPS, task({"outcome": "Succeeded", "exitCode": 0, "startedAt": moment}), label)
