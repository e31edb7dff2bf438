"""A Sandbox's status, phase by phase."""

from __future__ import annotations

import pytest

from pytest_arl.cluster.models import SandboxStatus
from pytest_arl.cluster.objects import MOST_MESSAGE
from pytest_arl.operator import sandbox_status
from pytest_arl.operator.pod_problems import Problem
from tests.operator.objects import pod, sandbox


def test_a_claim_that_never_waited_got_a_ready_pod() -> None:
    the_pod = pod("p")
    the_pod["status"]["podIP"] = "10.0.0.1"
    waited = sandbox_status.pending(sandbox(), Problem("NoPod", "none is ready"))

    at_once = sandbox_status.ready(sandbox(), the_pod, "boot", "/workspace")
    later = sandbox_status.ready(sandbox(status=waited), the_pod, "boot", "/workspace")

    assert (at_once["warm"], later["warm"]) == (True, False)
    assert SandboxStatus.model_validate(at_once).to_json()["warm"] is True


@pytest.mark.parametrize("char", ["\x1b", "\x9b", "\x07", "\u202e", "\u2066", "\u2028", "\u200e", "\udc80"])
def test_no_terminal_obeys_what_an_agent_says_in_a_condition(char: str) -> None:
    (told,) = sandbox_status.failed(sandbox(), Problem("AgentUnreachable", f"it says {char}[2J"))["conditions"]
    assert char not in told["message"]
    assert told["message"].startswith("it says \\")


def test_a_condition_is_bounded_and_says_what_people_write() -> None:
    said = "größe 日本:\n\tpage two"
    (told,) = sandbox_status.failed(sandbox(), Problem("Failed", said))["conditions"]
    assert told["message"] == said
    (told,) = sandbox_status.failed(sandbox(), Problem("Failed", "x" * 10**6))["conditions"]
    assert len(told["message"]) == MOST_MESSAGE
