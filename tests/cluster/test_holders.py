"""A colleague who may make Tasks in the namespace, and the sandbox that somebody else's test holds."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from pytest_arl import SandboxSession
from tests.cluster.installation import Installation

Json = dict[str, Any]


def task(name: str, sandbox: str, *argv: str) -> Json:
    steps = [{"name": "s", "type": "Command", "command": list(argv)}]
    spec = {"sandboxRef": sandbox, "steps": steps}
    return {"apiVersion": "arl.infra.io/v1alpha1", "kind": "Task", "metadata": {"name": name}, "spec": spec}


def ended(found: Installation, body: Json) -> tuple[str, str]:
    """State and reason of a Task that somebody makes."""
    found.kubectl("create", "-f", "-", text=json.dumps(body))
    name, deadline = body["metadata"]["name"], time.monotonic() + 30
    while time.monotonic() < deadline:
        status = found.get("task", name).get("status") or {}
        if "completionTime" in status:
            return status["state"], " ".join(f"{each['reason']}: {each['message']}" for each in status["conditions"])
        time.sleep(0.1)
    raise AssertionError(found.report())


def test_only_the_run_that_holds_a_sandbox_runs_tasks_in_it(installation: Installation, python_pool: str) -> None:
    with SandboxSession(pool_ref=python_pool, backend="kubernetes", namespace=installation.namespace) as sandbox:
        sandbox.run("sh", "-c", "echo mine >> runs").check()
        name = sandbox._held().sandbox.name
        assert installation.get("sandbox", name)["spec"]["holder"]["sealedKey"]

        state, why = ended(installation, task("a-colleagues", name, "sh", "-c", "echo theirs >> runs"))
        assert state == "Failed"
        assert "NotTheHolders: the sandbox is held by a test run" in why

        (own,) = (
            each
            for each in installation.get("tasks")["items"]
            if each["spec"]["sandboxRef"] == name and "proof" in each["spec"]
        )
        copy = {key: own[key] for key in ("apiVersion", "kind", "spec")}
        state, why = ended(installation, {**copy, "metadata": {"name": "under-another-name"}})
        assert (state, "NotTheHolders" in why) == ("Failed", True)
        installation.kubectl("delete", "task", own["metadata"]["name"])
        state, why = ended(installation, {**copy, "metadata": {"name": own["metadata"]["name"]}})
        assert (state, "it is a copy" in why) == ("Failed", True)

        assert sandbox.run("cat", "runs").stdout == "mine\n"
        sandbox.run("cat", stdin=b"\xff\x00" * 500_000).check()  # the steps go to the agent itself


def test_one_that_is_kept_is_open_to_all_and_has_its_holder(installation: Installation, python_pool: str) -> None:
    with SandboxSession(
        pool_ref=python_pool, backend="kubernetes", namespace=installation.namespace, keep_alive=True
    ) as sandbox:
        sandbox.write("mine", b"kept")
        name = sandbox._held().sandbox.name
        try:
            holder = installation.get("sandbox", name)["spec"]["holder"]
            assert holder["openToAll"] is True
            assert holder["sealedKey"], "by which its agent is known again"
            assert ended(installation, task("anybodys", name, "test", "-e", "mine"))[0] == "Succeeded"
            assert sandbox.run("cat", "mine").stdout == "kept"
            assert sandbox.read("mine") == b"kept"
        finally:
            installation.kubectl("delete", "sandbox", name, "--wait=false")


@pytest.mark.parametrize("held", [True, False], ids=["kept", "without-holder"])
def test_a_sandbox_that_is_there_for_all_runs_the_tasks_of_all(
    installation: Installation, python_pool: str, held: bool
) -> None:
    name = f"for-all-{held}".lower()
    spec: Json = {"poolRef": python_pool, "keepAlive": True}
    if held:
        spec["holder"] = {"secretHash": "0" * 64, "openToAll": True}
    body = {"apiVersion": "arl.infra.io/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": spec}
    installation.apply(body)
    try:
        assert ended(installation, task(f"{name}-task", name, "true"))[0] == "Succeeded"
    finally:
        installation.kubectl("delete", "sandbox", name)
