"""What a step used, as a value."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from pydantic import ValidationError

import pytest_arl
from pytest_arl import StepResult, Usage
from pytest_arl.agent import usage_meter as agent_usage

FIGURES = (1.5, 0.25, 2**26, 2**27, 512, 1024, 3, 0, 7, 8)
USAGE = Usage(
    user_time=1.5,
    system_time=0.25,
    max_rss=2**26,
    memory_peak=2**27,
    read_bytes=512,
    write_bytes=1024,
    processes=3,
    oom_kills=0,
    voluntary_context_switches=7,
    involuntary_context_switches=8,
)


def packed(*figures: float) -> bytes:
    return struct.pack("!2d8q", *figures)


def test_an_agents_figures_are_in_the_order_of_the_fields() -> None:
    assert Usage.from_agent(packed(*FIGURES)) == USAGE
    assert Usage.from_agent(packed(*FIGURES) + b"of a later version") == USAGE
    sums = agent_usage.Sums()
    assert Usage.from_agent(sums.used()) == Usage()
    assert USAGE.cpu_time == 1.75


def test_an_agent_that_says_nothing_says_nothing() -> None:
    assert Usage.from_agent(None) is None


def test_what_an_agent_does_not_know_is_none() -> None:
    assert Usage.from_agent(packed(0, 0, -1, -1, 0, 0, -1, -1, 0, 0)) == Usage()


@pytest.mark.parametrize(
    "figures",
    [
        b"",
        packed(*FIGURES)[:-1],
        "figures",
        list(FIGURES),
        packed(-1.0, *FIGURES[1:]),
        packed(math.nan, *FIGURES[1:]),
        packed(math.inf, *FIGURES[1:]),
        packed(*FIGURES[:-1], -1),
        packed(*FIGURES[:2], -2, *FIGURES[3:]),
    ],
    ids=str,
)
def test_figures_that_cannot_be_are_refused(figures: object) -> None:
    with pytest.raises(ValueError):
        Usage.from_agent(figures)


def test_json_is_camel_case_and_comes_back() -> None:
    found = json.loads(json.dumps(USAGE.to_json()))
    assert found == {
        "userTime": 1.5, "systemTime": 0.25, "maxRss": 2**26, "memoryPeak": 2**27, "readBytes": 512, "writeBytes": 1024,
        "processes": 3, "oomKills": 0, "voluntaryContextSwitches": 7, "involuntaryContextSwitches": 8,
    }  # fmt: skip
    assert Usage.from_json(found) == USAGE


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_status_without_usage_gives_none(nothing: dict[str, Any] | None) -> None:
    assert Usage.from_json(nothing) is None


def test_what_a_status_leaves_out_is_not_known_and_what_is_new_there_is_left_out() -> None:
    found = Usage.from_json({"userTime": 1.0, "systemTime": 0.0, "gpuTime": 3.0})
    assert found is not None
    assert (found.user_time, found.max_rss, found.memory_peak, found.oom_kills) == (1.0, None, None, None)


def test_it_is_frozen_and_part_of_a_results_value() -> None:
    with pytest.raises(ValidationError):
        USAGE.user_time = 0.0
    first, second = (
        StepResult(name="a", type="Command", outcome="Succeeded", exit_code=0, usage=usage) for usage in (USAGE, None)
    )
    assert first != second
    assert len({first, second, first.model_copy()}) == 2
    assert first.to_json()["usage"] == USAGE.to_json()


def test_it_is_exported() -> None:
    assert pytest_arl.Usage is Usage
