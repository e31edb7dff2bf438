"""The record by itself: its bounds."""

from __future__ import annotations

import json

from pytest_arl.plugin.record import MAX_COMMAND, MAX_TEST, StepRecord, TestRecord, step_record
from pytest_arl.results import StepResult
from pytest_arl.steps import Command, FilePatch


def record_of(stdout: bytes = b"", command: tuple[str, ...] = ("true",)) -> StepRecord:
    step = Command(name="s", command=command)
    result = StepResult(name="s", type="Command", outcome="Succeeded", exit_code=0, stdout_bytes=stdout)
    return step_record(step, result, sandbox="x", pool="p", task="t", phase="call")


def test_many_small_steps_are_all_kept() -> None:
    record = TestRecord(1)
    for _ in range(1500):
        record.add([record_of(b"hello\n")])
    assert record.omitted == 0
    assert all(step["stdout"] for step in record.steps)


def test_the_oldest_outputs_go_first_then_the_oldest_steps() -> None:
    record = TestRecord(1)
    for number in range(4000):
        record.add([record_of(str(number).encode() * 100)])
    assert len(json.dumps(record.steps)) <= MAX_TEST + 2 * len(record.steps)
    assert record.omitted > 0
    assert record.count == 4000
    assert [step["number"] for step in record.steps] == list(range(record.omitted + 1, 4001))
    assert record.steps[0]["stdout"] == ""
    assert record.steps[-1]["stdout"].startswith("3999")
    emptied = [step["stdout"] == "" for step in record.steps]
    assert emptied == sorted(emptied, reverse=True)


def test_since_counts_what_was_left_out() -> None:
    record = TestRecord(1)
    for number in range(4000):
        record.add([record_of(str(number).encode() * 100)])
    assert [step["number"] for step in record.since(3998)] == [3999, 4000]
    assert record.since(0) == record.steps


def test_escaped_output_is_measured_as_it_is_written() -> None:
    record = TestRecord(1)
    for _ in range(40):
        record.add([record_of(b"\0" * 60_000)])
    assert len(json.dumps(record.steps)) <= MAX_TEST + 2 * len(record.steps)


def test_a_command_is_cut_where_it_is_long() -> None:
    command = record_of(command=("python3", "-c", "x" * 1_000_000, "last"))["command"]
    assert len(json.dumps(command)) <= MAX_COMMAND
    assert command[:2] == ["python3", "-c"]
    assert command[2].endswith("...")


def test_content_of_a_file_is_not_recorded() -> None:
    step = FilePatch(name="f", path="secret", content=b"s3cret")
    result = StepResult(name="f", type="FilePatch", outcome="Succeeded", exit_code=0)
    assert "s3cret" not in json.dumps(step_record(step, result, sandbox="x", pool="p", task="t", phase="call"))


def test_a_step_without_a_result_has_every_key() -> None:
    with_result = record_of()
    without = step_record(Command(name="s", command=("true",)), None, sandbox="x", pool="p", task="t", phase="call")
    assert set(without) == set(with_result)
    assert without["outcome"] is None
