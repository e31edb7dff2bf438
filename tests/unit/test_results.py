import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_arl import SandboxLost, StepFailed, StepResult, TaskResult, UsageError
from pytest_arl.results import bind
from pytest_arl.steps import parse_steps


def step(name: str = "build", **changes: Any) -> StepResult:
    return StepResult(**{"name": name, "type": "Command", "outcome": "Succeeded", "exit_code": 0, **changes})


def failed(name: str = "build", **changes: Any) -> StepResult:
    return step(name, **{"outcome": "Failed", "exit_code": 2, "duration": 4.1, **changes})


def task(*steps: StepResult, total: int | None = None) -> TaskResult:
    result = TaskResult(
        id="task-1",
        sandbox="sb",
        pool_ref="p",
        steps=steps,
        duration=4.25,
        total=len(steps) if total is None else total,
        started_at=1_700_000_000.5,
    )
    asked = [{"name": one.name, "type": "Command", "command": ["make", one.name]} for one in steps]
    return bind(result, parse_steps(asked), 90.0, "session")


def test_a_result_has_no_truth_value() -> None:
    for result in (step(), failed(), task(step())):
        with pytest.raises(TypeError, match=r"use \.ok or \.check\(\)"):
            bool(result)


def test_text_replaces_what_is_no_utf_8_and_bytes_stay_exact() -> None:
    result = step(stdout_bytes=b"caf\xe9\n", stderr_bytes=b"\xff")
    assert (result.stdout, result.stderr) == ("caf\ufffd\n", "\ufffd")
    assert (result.stdout_bytes, result.stderr_bytes) == (b"caf\xe9\n", b"\xff")


def test_sizes_are_those_of_the_bytes_unless_more_was_printed() -> None:
    whole = step(stdout_bytes=b"abc")
    assert (whole.stdout_size, whole.stderr_size, whole.truncated) == (3, 0, False)
    assert step(stdout_bytes=b"abc", stdout_size=10).truncated
    assert step(stderr_bytes=b"abc", stderr_size=10).truncated


def test_check_returns_what_succeeded() -> None:
    good = step()
    assert good.check() is good
    result = task(good)
    assert result.check() is result


def test_check_names_the_step_its_command_code_and_time() -> None:
    broken = failed(stderr_bytes=b"cc: no such file\nmake: *** Error 1\n")
    result = task(step("a"), step("b"), broken, step("d", outcome="Skipped", exit_code=None))
    with pytest.raises(StepFailed) as caught:
        result.check()
    first, *rest = str(caught.value).splitlines()
    assert first == "step 3/4 'build' (make build) exited 2 after 4.1 s"
    assert rest[-2:] == ["  | cc: no such file", "  | make: *** Error 1"]
    assert caught.value.step is result.steps[2]
    assert caught.value.result is result
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exit_code": 139, "signal": "SIGSEGV"}, "was killed by SIGSEGV after 4.1 s (exit code 139)"),
        ({"outcome": "Killed", "exit_code": 137, "signal": "SIGKILL"}, "was killed by SIGKILL"),
        ({"outcome": "TimedOut", "exit_code": 124, "duration": 10.0}, "timed out after 10 s (exit code 124)"),
        (
            {"outcome": "OutOfMemory", "exit_code": 137, "limit": "memory 512Mi"},
            "ran out of memory after 4.1 s (limit 512Mi, exit code 137)",
        ),
        (
            {"outcome": "OutOfMemory", "exit_code": 137, "limit": "memory"},
            "ran out of memory after 4.1 s (exit code 137)",
        ),
        ({"outcome": "Cancelled", "exit_code": 137}, "was cancelled after 4.1 s (exit code 137)"),
        ({"outcome": "Skipped", "exit_code": None}, "was skipped: an earlier step did not succeed"),
        ({"limit": "processes 512"}, "exited 2 after 4.1 s (limit processes 512)"),
    ],
)
def test_check_says_how_a_step_ended(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StepFailed) as caught:
        failed(**changes).check()
    assert str(caught.value).startswith(f"step 'build' {says}")


def test_check_shows_the_end_of_stdout_where_stderr_is_empty() -> None:
    with pytest.raises(StepFailed, match=r"the end of its stdout \(12 bytes\):\n  \| 1 failed"):
        failed(stdout_bytes=b"1 failed\n", stdout_size=12).check()


def test_check_neutralises_what_the_sandbox_printed() -> None:
    with pytest.raises(StepFailed) as caught:
        failed(stderr_bytes=b"\x1b[2Jgone\n::error::x\n" + b"y" * 10_000).check()
    assert "\x1b" not in str(caught.value)
    assert "\n::" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_repr_is_one_line_without_output() -> None:
    long = failed("n\nx" * 100, stdout_bytes=b"secret", stderr_bytes=b"secret")
    for result in (long, task(long), task(step(stdout_bytes=b"secret"))):
        for text in (repr(result), str(result), f"{result}"):
            assert "secret" not in text
            assert "\n" not in text
            assert len(text) < 200
    assert repr(failed()) == "<StepResult 'build' exited 2 after 4.1 s, stdout 0 bytes, stderr 0 bytes>"


def test_a_task_succeeds_when_all_its_steps_do() -> None:
    result = task(step("a", stdout_bytes=b"1"), step("b", stdout_bytes=b"2", stderr_bytes=b"e"))
    assert (result.ok, result.state, result.exit_code) == (True, "Succeeded", 0)
    assert (result.stdout, result.stderr) == ("12", "e")


def test_a_task_fails_with_the_code_of_the_step_that_failed() -> None:
    result = task(step("a"), failed("b"), step("c", outcome="Skipped", exit_code=None))
    assert (result.ok, result.state, result.exit_code) == (False, "Failed", 2)


def test_a_partial_result_is_never_a_success() -> None:
    result = task(step("a"), total=3)
    assert (result.ok, result.state, result.exit_code) == (False, "Failed", None)
    assert "exitCode" not in result["status"]
    with pytest.raises(SandboxLost, match="after 1 of 3 steps"):
        result.check()


def test_a_step_is_found_by_its_name() -> None:
    result = task(step("a"), step("build"))
    assert result.step("build") is result.steps[1]
    with pytest.raises(UsageError, match="no step 'biuld'; did you mean 'build'"):
        result.step("biuld")


def test_a_task_is_read_as_the_clusters_json() -> None:
    result = task(step("a", stdout_bytes=b"hi\n", started_at=1_700_000_000.25, duration=0.5), failed("b"))
    assert isinstance(result, Mapping)
    assert list(result) == ["metadata", "spec", "status"] == list(result.keys())
    assert dict(result) == result.to_json()
    assert result["metadata"] == {"name": "task-1"}
    assert result["spec"]["sandboxRef"] == "sb"
    assert result["spec"]["timeout"] == "90s"
    assert result["spec"]["steps"][0] == {"name": "a", "type": "Command", "command": ["make", "a"]}
    status = result["status"]
    assert {key: status[key] for key in ("state", "exitCode", "stdout", "duration", "startTime", "completionTime")} == {
        "state": "Failed",
        "exitCode": 2,
        "stdout": "hi\n",
        "duration": "4.25s",
        "startTime": "2023-11-14T22:13:20.500000Z",
        "completionTime": "2023-11-14T22:13:24.750000Z",
    }
    assert status.get("steps", [])[0] == {
        "name": "a", "type": "Command", "outcome": "Succeeded", "exitCode": 0, "signal": None, "stdout": "hi\n",
        "stderr": "", "stdoutSize": 3, "stderrSize": 0, "truncated": False, "limit": None,
        "startedAt": "2023-11-14T22:13:20.250000Z", "durationSeconds": 0.5, "usage": None,
    }  # fmt: skip


def test_the_mapping_has_a_mappings_manners() -> None:
    result = task(step())
    assert "status" in result
    assert "nope" not in result
    assert result.get("nope", 3) == 3
    assert len(result) == 3
    with pytest.raises(KeyError):
        result["nope"]
    with pytest.raises(TypeError):
        result["status"] = {}  # type: ignore[index] # on purpose
    result["status"]["state"] = "forged"
    assert result["status"]["state"] == "Succeeded"


def test_the_exit_code_of_a_skipped_step_is_null() -> None:
    (asked,) = parse_steps([{"type": "Command", "command": ["a"]}])
    body = StepResult.skipped(asked).to_json()
    assert body["exitCode"] is None
    assert body["outcome"] == "Skipped"


def test_the_json_is_json_whatever_was_printed() -> None:
    result = task(step("a", stdout_bytes=b"\xff\0"), failed(exit_code=None, outcome="Skipped"))
    json.dumps(result.to_json()).encode("utf-8")


def test_environment_values_stay_out_of_the_mappings_repr_and_in_its_json() -> None:
    result = task(step("a"))
    asked = parse_steps([{"name": "a", "type": "Command", "command": ["a"], "env": {"TOKEN": "hunter2"}}])
    bind(result, asked, None, "session")
    assert "hunter2" not in repr(result["spec"])
    assert "hunter2" in json.dumps(result["spec"])


def test_a_result_is_frozen_equal_by_value_and_survives_pickle() -> None:
    result = task(step("a"), failed("b"))
    with pytest.raises(ValueError, match="frozen"):
        result.steps[0].exit_code = 0
    assert pickle.loads(pickle.dumps(result)) == result
    assert step("a") == result.steps[0] != result.steps[1]
    assert hash(step("a")) == hash(result.steps[0])
