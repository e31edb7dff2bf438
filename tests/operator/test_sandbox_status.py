"""A Sandbox's status, phase by phase."""

from __future__ import annotations

from pytest_arl.crds.models import SandboxStatus
from pytest_arl.operator import sandbox_status
from pytest_arl.operator.trouble import Trouble
from tests.operator.objects import pod, sandbox


def test_who_never_waited_got_a_pod_that_was_ready() -> None:
    the_pod = pod("p")
    the_pod["status"]["podIP"] = "10.0.0.1"
    waited = sandbox_status.pending(sandbox(), Trouble("NoPod", "none is ready"))

    at_once = sandbox_status.ready(sandbox(), the_pod, "boot", "/workspace")
    later = sandbox_status.ready(sandbox(status=waited), the_pod, "boot", "/workspace")

    assert (at_once["warm"], later["warm"]) == (True, False)
    assert SandboxStatus.model_validate(at_once).to_json()["warm"] is True
