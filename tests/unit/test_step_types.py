"""A type of step is one module and a row: every place that knows types takes them from there, and refuses another."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from pytest_arl import Command, FilePatch, UsageError
from pytest_arl.agent import step_types as agents
from pytest_arl.cluster.models import Task
from pytest_arl.operator import task_message
from pytest_arl.plugin.record import TestRecord, step_record
from pytest_arl.plugin.sinks.failure_sections import sections
from pytest_arl.results import StepResult
from pytest_arl.steps import STEP_TYPES, Step, StepType, parse_steps, step_type
from pytest_arl.steps.base import StepBase

EXAMPLES: dict[str, list[Step]] = {
    "Command": [
        Command(name="a", command=["true"]),
        Command(
            name="b", command=["x", "\u00fc"], env={"A": "1"}, work_dir="/w", stdin="in", timeout=1.5, cpu_time=2, background=True
        ),
    ],
    "FilePatch": [
        FilePatch(name="a", path="p", content="text"),
        FilePatch(name="b", path="/q", content=b"\xff\0", mode=0o600),
    ],
}  # fmt: skip
each_example = pytest.mark.parametrize(
    "step", [step for steps in EXAMPLES.values() for step in steps], ids=lambda step: f"{step.type}-{step.name}"
)


def test_every_type_has_its_row_on_both_sides_and_an_example_here() -> None:
    assert set(STEP_TYPES) == set(agents._TYPES) == set(get_args(StepType)) == set(EXAMPLES)
    assert {model.__name__ for model in StepBase.__subclasses__()} == set(STEP_TYPES)


@each_example
def test_the_operator_makes_the_message_that_a_client_makes(step: Step) -> None:
    assert step.fits_object
    made = step_type(step.type).message_from_json(json.loads(json.dumps(step.to_json())), None)
    assert made == step.to_agent()


@each_example
def test_an_agent_takes_it(step: Step) -> None:
    assert agents.checked({**step.to_agent()}) == step.to_agent()


@each_example
def test_how_long_it_may_take_is_the_same_in_its_message(step: Step) -> None:
    assert step_type(step.type).longest_of(step.to_agent()) == step.longest


@each_example
def test_the_api_server_takes_what_it_is_and_what_describes_it(step: Step) -> None:
    for body in (step.to_json(), step.described()):
        task = Task.model_validate({"spec": {"sandboxRef": "s", "steps": [body]}})
        assert task.spec.steps[0].to_json() == body


@each_example
def test_reports_have_it(step: Step) -> None:
    record = step_record(step, None, sandbox="x", pool="p", task="t", phase="call") | {"number": 1}
    assert json.loads(json.dumps(record)) == record
    model = step_type(record["type"])
    assert model.record_line(record)
    assert model.record_command(record)
    assert "\n" not in step.shown


UNKNOWN = ["NoSuch", "command", "", None, 3, ["Command"], {"Command": 1}]


@pytest.mark.parametrize("name", UNKNOWN, ids=repr)
def test_another_type_is_no_one_s(name: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown type|'type' must be 'Command'"):
        step_type(name)
    with pytest.raises(UsageError, match=r"^step 1"):
        parse_steps([{"name": "x", "type": name, "command": ["true"]}])
    with pytest.raises((ValueError, TypeError)):
        agents.checked({"type": name, "argv": [b"true"]})


@pytest.mark.parametrize("name", UNKNOWN, ids=repr)
def test_an_object_with_another_type_is_refused_and_says_why(name: Any) -> None:
    task = {"metadata": {"uid": "u"}, "spec": {"steps": [{"name": "x", "type": name, "command": ["true"]}]}}
    with pytest.raises(task_message.Refused, match=r"^step 'x': (unknown type|'type' must be)") as caught:
        task_message.message(task, boot="b", epoch=1, pool=None)
    assert caught.value.reason == "SpecInvalid"


def test_an_object_without_a_type_is_refused() -> None:
    task = {"metadata": {"uid": "u"}, "spec": {"steps": [{"name": "x", "command": ["true"]}]}}
    with pytest.raises(task_message.Refused, match=r"^step 'x': 'type' must be"):
        task_message.message(task, boot="b", epoch=1, pool=None)


def test_no_result_and_no_report_is_made_of_another_type() -> None:
    with pytest.raises(ValueError, match="type"):
        StepResult(name="x", type="NoSuch", outcome="Succeeded", exit_code=0)  # type: ignore[arg-type] # on purpose
    record = step_record(EXAMPLES["Command"][0], None, sandbox="x", pool="p", task="t", phase="call")
    record |= {"number": 1, "type": "NoSuch"}
    with pytest.raises(UsageError, match="unknown type 'NoSuch'"):
        sections(TestRecord(1), [record], "call", blamed=None, everything=False)
