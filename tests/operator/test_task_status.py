import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.cluster.models import TaskStatus
from pytest_arl.cluster.names import MOST_STATUS_BYTES
from pytest_arl.operator.progress import Progress, StepEnd
from pytest_arl.operator.task_status import cancelled, encoded_size, failed, fit, result, running, waiting
from tests.operator.objects import command, task


def end(outcome: Any = "Succeeded", code: Any = 0, out: Any = b"", err: Any = b"", **more: Any) -> Any:
    value: Any = {"outcome": outcome, "code": code, "out": len(out), "err": len(err), "at": 1000.0, "s": 0.5, **more}
    found = StepEnd.read(value, (b"", b""))
    found.output = out, err
    return found


def status_of(the_task: Any, *ends: Any, limits: Any = None, output: Any = True) -> Any:
    progress = Progress(the_task["spec"]["steps"], list(ends), done=True)
    found = result(the_task, progress, began=1000.0, ended=1000.5, limits=limits or {}, output=output)
    TaskStatus.model_validate(found)
    return found


def condition(status: Any, kind: Any) -> Any:
    return next((each for each in status["conditions"] if each["type"] == kind), None)


def test_success() -> None:
    found = status_of(task(), end(out=b"hi\n", err=b"e"))
    assert (found["state"], found["exitCode"]) == ("Succeeded", 0)
    assert (found["stdout"], found["stderr"]) == ("hi\n", "e")
    assert found["duration"] == "0.5s"
    assert found["startTime"] == "1970-01-01T00:16:40.000000Z"
    assert condition(found, "Complete")["status"] == "True"
    assert condition(found, "Failed") is None
    (step,) = found["steps"]
    assert (step["stdout"], step["stdoutSize"], step["truncated"]) == ("hi\n", 3, False)


def test_the_second_of_three_fails() -> None:
    the_task = task("t", command("a"), command("b"), command("c"))
    found = status_of(the_task, end(), end("Failed", 42))
    assert (found["state"], found["exitCode"]) == ("Failed", 42)
    assert [step["outcome"] for step in found["steps"]] == ["Succeeded", "Failed", "Skipped"]
    assert found["steps"][1]["exitCode"] == 42
    assert "exitCode" not in found["steps"][2]
    told = condition(found, "Failed")
    assert told["reason"] == "StepFailed"
    assert told["message"] == "step 'b' exited 42 after 500 ms"


@pytest.mark.parametrize("outcome", ["TimedOut", "OutOfMemory", "Killed", "Cancelled"])
def test_the_reason_is_the_outcome(outcome: Any) -> None:
    assert condition(status_of(task(), end(outcome, 137)), "Failed")["reason"] == outcome


def test_what_a_step_used_is_told_as_far_as_it_is_known() -> None:
    figures = struct.pack("!2d8q", 1.5, 0.25, -1, 2**27, 512, 0, 3, -1, 7, 8)
    used, silent = status_of(task("t", command("a"), command("b")), end(u=figures), end())["steps"]
    assert used["usage"] == {
        "userTime": 1.5, "systemTime": 0.25, "memoryPeak": 2**27, "readBytes": 512, "writeBytes": 0, "processes": 3,
        "voluntaryContextSwitches": 7, "involuntaryContextSwitches": 8,
    }  # fmt: skip
    assert "usage" not in silent


def test_a_limit_has_the_pools_value() -> None:
    the_end = end("OutOfMemory", 137, limit="memory", signal="SIGKILL")
    step = status_of(task(), the_end, limits={"memory": "512Mi"})["steps"][0]
    assert (step["limit"], step["signal"]) == ("memory 512Mi", "SIGKILL")
    assert status_of(task(), the_end)["steps"][0]["limit"] == "memory"


def test_what_the_agent_did_not_send_makes_it_truncated() -> None:
    the_end = end(out=b"head")
    the_end.sizes = 10_000_000, 0
    step = status_of(task(), the_end)["steps"][0]
    assert step["truncated"]
    assert step["stdoutSize"] == 10_000_000


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    step = status_of(task(), end(out=b"a\xffb"))["steps"][0]
    assert step["stdout"] == "a\N{REPLACEMENT CHARACTER}b"
    assert step["truncated"] is False


def test_a_message_holds_neither_command_nor_output() -> None:
    the_task = task("t", command("s", "hunter2", env={"K": "hunter2"}))
    found = status_of(the_task, end("Failed", 1, out=b"x"))
    assert "hunter2" not in json.dumps(found)


def test_a_start_that_was_told_stays() -> None:
    the_task = task(status={"startTime": "2026-01-01T00:00:00.000000Z"})
    assert status_of(the_task, end())["startTime"] == "2026-01-01T00:00:00.000000Z"


# Bounds


def in_etcd(value: Any) -> Any:
    """As Go's encoder writes it."""
    text = json.dumps(value, ensure_ascii=False)
    return (
        len(text.encode())
        + 3 * (text.count("\u2028") + text.count("\u2029"))
        + 5 * sum(text.count(char) for char in "<>&")
    )


@pytest.mark.parametrize("char", ["x", "\0", "<", "é", "\N{GRINNING FACE}", '"', "\\", "\u2028", "\x1b"])
@pytest.mark.parametrize("steps", [1, 3, 256])
def test_a_status_is_never_larger_than_it_may_be(char: Any, steps: Any) -> None:
    the_task = task("t", *(command(f"s{number}") for number in range(steps)))
    found = status_of(the_task, *(end(out=(char * 300000).encode()[:300000]) for _ in range(steps)))
    assert in_etcd(found) <= MOST_STATUS_BYTES
    assert all(step["truncated"] for step in found["steps"])
    if steps < 256:
        assert in_etcd(found) > MOST_STATUS_BYTES / 2  # the room is used


def test_a_short_output_is_whole_beside_a_long_one() -> None:
    the_task = task("t", command("a"), command("b"))
    found = status_of(the_task, end(out=b"short"), end(out=b"x" * 131072, err=b"y" * 131072))
    assert found["steps"][0]["stdout"] == "short"
    assert not found["steps"][0]["truncated"]
    assert found["steps"][1]["truncated"]


def test_the_middle_is_cut() -> None:
    (found,) = fit(["a" * 500 + "b" * 1000 + "c" * 500], 400)
    assert found.startswith("a" * 150)
    assert found.endswith("c" * 150)
    assert "b" not in found


@given(st.lists(st.text(max_size=300), max_size=6), st.integers(min_value=0, max_value=1000))
def test_fitted_texts_have_room(texts: Any, room: Any) -> None:
    found = fit(texts, room)
    assert sum(map(encoded_size, found)) <= room
    assert all(len(short) <= len(text) for short, text in zip(found, texts, strict=True))


@given(st.text(max_size=200))
def test_the_encoded_size_is_an_upper_bound(text: Any) -> None:
    assert in_etcd(text) - 2 <= encoded_size(text)


@given(st.text(max_size=200))
def test_texts_that_have_room_are_left_unchanged(text: Any) -> None:
    assert fit([text], encoded_size(text)) == [text]


def test_without_output_where_it_was_refused() -> None:
    found = status_of(task(), end(out=b"x" * 1000), output=False)
    assert (found["stdout"], found["steps"][0]["stdout"]) == ("", "")
    assert found["steps"][0]["stdoutSize"] == 1000
    assert found["steps"][0]["truncated"]
    assert found["exitCode"] == 0


# Without an end by the agent


def test_a_failure_of_the_infrastructure_has_no_exit_code() -> None:
    found = failed(task(), "SandboxLost", "why", 5.0)
    TaskStatus.model_validate(found)
    assert found["state"] == "Failed"
    assert "exitCode" not in found
    assert "steps" not in found
    assert condition(found, "Failed")["reason"] == "SandboxLost"


def test_the_steps_that_had_ended_are_told() -> None:
    the_task = task("t", command("a"), command("b"))
    found = failed(the_task, "SandboxLost", "why", 5.0, Progress(the_task["spec"]["steps"], [end(out=b"hi")]))
    assert [step["stdout"] for step in found["steps"]] == ["hi"]


def test_a_task_that_was_cancelled_before_it_began() -> None:
    found = cancelled(task("t", command("a"), command("b")), 5.0)
    TaskStatus.model_validate(found)
    assert [step["outcome"] for step in found["steps"]] == ["Cancelled", "Skipped"]
    assert (found["exitCode"], found["steps"][0]["exitCode"]) == (137, 137)


def test_a_running_task_tells_the_steps_that_have_ended() -> None:
    the_task = task("t", command("a"), command("b"))
    found = running(the_task, Progress(the_task["spec"]["steps"], [end(out=b"hi")]), 1000.0, {})
    TaskStatus.model_validate(found)
    assert found["state"] == "Running"
    assert [step["name"] for step in found["steps"]] == ["a"]
    assert condition(found, "Started")["status"] == "True"
    assert "steps" not in running(the_task, Progress(the_task["spec"]["steps"]), 1000.0, {})


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = waiting(task(), "SandboxNotFound", "x")
    again = waiting(task(status=first), "SandboxNotFound", "y")
    assert again["conditions"][0]["lastTransitionTime"] == first["conditions"][0]["lastTransitionTime"]
    later = running(task(status=first), Progress([command()]), 1000.0, {})
    assert [each["type"] for each in later["conditions"]] == ["Started"]
    assert later["conditions"][0]["status"] == "True"
