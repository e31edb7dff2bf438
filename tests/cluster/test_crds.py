"""What the API server itself refuses, with a sentence that helps; each beside what it takes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_arl.cluster.names import MOST_SPEC_BYTES, MOST_WORDS
from tests.cluster.installation import Installation, pool

Json = dict[str, Any]

API = "arl.infra.io/v1alpha1"
COMMAND = {"name": "a", "type": "Command", "command": ["true"]}
PATCH = {"name": "a", "type": "FilePatch", "path": "x", "content": ""}


def task(*steps: Json, name: str = "t", **spec: Any) -> Json:
    spec = {"sandboxRef": "nowhere", "steps": list(steps), **spec}
    return {"apiVersion": API, "kind": "Task", "metadata": {"name": name}, "spec": spec}


def sandbox(name: str = "s", **spec: Any) -> Json:
    return {"apiVersion": API, "kind": "Sandbox", "metadata": {"name": name}, "spec": {"poolRef": "p", **spec}}


def defaults(**sandbox: Any) -> Json:
    found = pool("p", "i", replicas=0)
    found["spec"]["sandbox"] = sandbox
    return found


def template(**spec: Any) -> Json:
    found = pool("p", "i", replicas=0)
    found["spec"]["template"]["spec"] |= spec
    return found


def take(installation: Installation, *objects: Json) -> None:
    """The positive control: the API server takes this."""
    for thing in objects:
        installation.kubectl("apply", "--dry-run=server", "-f", "-", text=str(thing).replace("None", "null"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a", "type": "Shell", "command": ["true"]}, 'supported values: "Command", "FilePatch"'),
        ({"name": "a", "type": "Command"}, "a Command needs command: a list such as [echo, hi]"),
        ({"name": "a", "type": "Command", "command": []}, "should have at least 1 items"),
        ({"name": "a", "type": "FilePatch", "path": "x"}, "a FilePatch needs path and content"),
        ({"name": "a", "type": "FilePatch", "path": "", "content": ""}, "should be at least 1 chars long"),
        ({**PATCH, "command": ["true"]}, "belong to a Command"),
        ({**COMMAND, "content": "x"}, "belong to a FilePatch"),
        ({**COMMAND, "timeout": "soon"}, "should match"),
        ({**COMMAND, "env": {"A": 1}}, "must be of type string"),
        ({**PATCH, "encoding": "latin-1"}, 'supported values: "utf-8", "base64"'),
        ({**PATCH, "mode": 0o10000}, "should be less than or equal to 4095"),
        ({"type": "Command", "command": ["true"]}, "steps[0].name: Required value"),
        ({**COMMAND, "comand": ["true"]}, 'unknown field "spec.steps[0].comand"'),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_step_that_is_none_is_refused(installation: Installation, wrong: Json, said: str) -> None:
    assert said in installation.refused(task(wrong))


def test_steps_that_are_right_are_taken(installation: Installation) -> None:
    rich = {**COMMAND, "env": {"A": "1"}, "workDir": "/", "stdin": "x", "timeout": "1m30s", "background": True}
    take(installation, task(rich, {**PATCH, "name": "b", "encoding": "base64", "mode": 0o755}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (task(), "should have at least 1 items"),
        (task(COMMAND, COMMAND), "spec.steps[1]: Duplicate value"),
        (task(COMMAND, retries=11), "should be less than or equal to 10"),
        (task(COMMAND, ttlSecondsAfterFinished=-1), "should be greater than or equal to 0"),
        (task(*({**COMMAND, "name": f"s{number}"} for number in range(257))), "must have at most 256 items"),
        (task(COMMAND, payloadHash="abc"), "should match '^[0-9a-f]{64}$'"),
        (sandbox(poolRef=""), "should be at least 1 chars long"),
        (sandbox(holder={"run": "r"}), "secretHash: Required value"),
        (sandbox(holder={"secretHash": "not a hash"}), "should match"),
        (sandbox(idleTimeoutSeconds=-1), "should be greater than or equal to 0"),
        (sandbox("x" * 64), "at most 63 lower-case letters"),
        (sandbox("a.b"), "becomes part of a pod's"),
        (pool("x" * 48, "i"), "at most 47 lower-case letters"),
        (pool("p", "i", replicas=-1), "should be greater than or equal to 0"),
        (template(containers=[{}] * 65), "spec.template.spec.containers: Too many: 65: must have at most 64 items"),
        (template(initContainers=[{}] * 65), "spec.template.spec.initContainers: Too many: 65"),
        (
            template(volumes=[{"name": f"v{number}"} for number in range(257)]),
            "spec.template.spec.volumes: Too many: 257: must have at most 256 items",
        ),
        (template(containers={"executor": "x"}), 'unknown field "spec.template.spec.containers.executor"'),
        (template(containers=["executor"]), "spec.template.spec.containers[0]: Invalid value"),
        (defaults(kept="lots"), "spec.sandbox.kept: Invalid value"),
        (defaults(kept="-1"), "spec.sandbox.kept: Invalid value"),
        (defaults(maxResources={"memory": "lots"}), "should match"),
        (sandbox(resources={"limits": {"memory": "lots"}}), "should match"),
        (sandbox(resources={"limits": {"memory": "1" * 25}}), "may not be more than 24 bytes"),
        (sandbox(resources={"requests": {"cpu": -1}}), "should be greater than or equal to 0"),
        (sandbox(resources={"requests": {"cpu": 0.5}}), "spec.resources.requests.cpu: Invalid value"),
        (sandbox(resources={"limits": {"x" * 129: 1}}), "the name of a resource has at most 128 characters"),
        (sandbox(resources={"limits": {f"n{number}": 1 for number in range(17)}}), "must have at most 16 items"),
        (sandbox(resources={"limits": ["cpu"]}), "spec.resources.limits: Invalid value"),
        (sandbox(resources={"claims": [{"name": "gpu"}]}), 'unknown field "spec.resources.claims"'),
        ({"apiVersion": API, "kind": "WarmPool", "metadata": {"name": "p"}, "spec": {"replicas": 1}}, "spec.template"),
        ({"apiVersion": API, "kind": "Task", "metadata": {"name": "t"}}, "spec: Required value"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else value["kind"],
)
def test_an_object_that_is_none_is_refused(installation: Installation, wrong: Json, said: str) -> None:
    assert said in installation.refused(wrong)


def test_objects_that_are_right_are_taken(installation: Installation) -> None:
    many = ({**COMMAND, "name": f"s{number}"} for number in range(256))
    take(
        installation,
        task(*many, retries=10, ttlSecondsAfterFinished=0, timeout="90s", traceID="x", payloadHash="0" * 64),
        sandbox("x" * 63, keepAlive=True, holder={"secretHash": "0" * 64}, resources={"limits": {"memory": "1Gi"}}),
        pool("x" * 47, "i", replicas=0),
        template(
            containers=[{"name": "x", "new": {"of": ["a", "later", "Kubernetes"]}}] * 64, initContainers=[{}] * 64
        ),
        template(volumes=[{"name": "x"}] * 256, initContainers=None, hostUsers=False),
        defaults(kept="1Gi"),
        defaults(kept="0"),
        defaults(maxResources={"cpu": 4, "memory": "8Gi", "nvidia.com/gpu": 1}),
        sandbox(resources={}),
        sandbox(resources={"limits": {"cpu": 1, "memory": "1.5Gi"}, "requests": {"cpu": "500m", "memory": "1e9"}}),
        sandbox(resources={"limits": {f"n{number}": 1 for number in range(15)} | {"x" * 128: "1" * 24}}),
    )


# --- what was made does not change


# Workers share a namespace.
FIXED = f"fixed-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


@pytest.fixture
def made(installation: Installation) -> Iterator[Json]:
    """A Sandbox with all that cannot be changed, and a Task in it. No pool of its name is there, so nothing runs."""
    things = (
        sandbox(FIXED, holder={"secretHash": "0" * 64, "run": "r"}, resources={"limits": {"memory": "64Mi"}}),
        task(COMMAND, {**COMMAND, "name": "b"}, name=FIXED, sandboxRef=FIXED, timeout="90s"),
    )
    installation.apply(*things)
    yield {thing["kind"]: thing for thing in things}
    installation.kubectl("delete", f"sandbox/{FIXED}", f"task/{FIXED}", "--ignore-not-found")


def patched(installation: Installation, kind: str, patch: str) -> str:
    done = installation.kubectl("patch", kind, FIXED, "--type=merge", "-p", patch, "--dry-run=server", check=False)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    "patch",
    [
        '{"spec": {"sandboxRef": "other"}}',
        '{"spec": {"steps": [{"name": "a", "type": "Command", "command": ["false"]}]}}',
        '{"spec": {"steps": [{"name": "b", "type": "Command", "command": ["true"]}, {"name": "a", "type": "Command", "command": ["true"]}]}}',
        '{"spec": {"timeout": "91s"}}',
        '{"spec": {"timeout": null}}',
        '{"spec": {"retries": 1}}',
        '{"spec": {"payloadHash": "%s"}}' % ("0" * 64),
    ],
)
def test_a_task_is_not_changed(installation: Installation, made: Json, patch: str) -> None:
    assert "a Task cannot be changed once it is created" in patched(installation, "task", patch)


def test_a_task_is_cancelled_and_stays_so(installation: Installation, made: Json) -> None:
    assert patched(installation, "task", '{"spec": {"cancel": true}}') == ""
    assert patched(installation, "task", '{"spec": {"ttlSecondsAfterFinished": 5}}') == ""
    installation.kubectl("patch", "task", FIXED, "--type=merge", "-p", '{"spec": {"cancel": true}}')
    for undone in ('{"spec": {"cancel": false}}', '{"spec": {"cancel": null}}'):
        assert "cancel goes from false to true only" in patched(installation, "task", undone)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ('{"spec": {"poolRef": "other"}}', "poolRef cannot be changed: create another Sandbox"),
        ('{"spec": {"holder": {"run": "other"}}}', "the holder of a Sandbox cannot be changed"),
        ('{"spec": {"holder": null}}', "the holder of a Sandbox cannot be changed"),
        ('{"spec": {"resources": null}}', "resources cannot be added or removed"),
        ('{"spec": {"resources": {"limits": {"memory": "65Mi"}}}}', "resources cannot be changed"),
    ],
)
def test_a_sandbox_keeps_its_pool_and_its_holder(installation: Installation, made: Json, patch: str, said: str) -> None:
    assert said in patched(installation, "sandbox", patch)
    assert patched(installation, "sandbox", '{"spec": {"idleTimeoutSeconds": 5}}') == ""


# --- what kubectl shows


def test_kubectl_knows_short_names_and_columns(installation: Installation, made: Json) -> None:
    assert installation.kubectl("get", "sb").stdout.split("\n")[0].split() == [
        "NAME",
        "POOL",
        "PHASE",
        "POD",
        "REASON",
        "AGE",
    ]
    assert installation.kubectl("get", "tasks").stdout.split("\n")[0].split() == [
        "NAME",
        "SANDBOX",
        "STATE",
        "EXIT",
        "DURATION",
        "AGE",
    ]
    installation.apply(pool("shown", "no.example/such-image", replicas=0))
    assert installation.kubectl("get", "wp", "shown").stdout.split("\n")[0].split() == [
        "NAME",
        "DESIRED",
        "READY",
        "ALLOCATED",
        "STATUS",
        "AGE",
    ]
    installation.kubectl("delete", "wp", "shown")


def test_a_pool_is_scaled_by_kubectl(installation: Installation) -> None:
    installation.apply(pool("scaled", "no.example/such-image", replicas=0))
    installation.kubectl("scale", "warmpool/scaled", "--replicas=1")
    assert installation.get("warmpool", "scaled")["spec"]["replicas"] == 1
    installation.kubectl("delete", "warmpool", "scaled")


def test_explain_tells_what_a_field_is(installation: Installation) -> None:
    assert "Idle sandboxes to keep" in installation.kubectl("explain", "warmpool.spec.replicas").stdout


def test_a_status_is_not_written_with_the_spec(installation: Installation, made: Json) -> None:
    forged = copy.deepcopy(made["Task"])
    forged["status"] = {"state": "Succeeded", "exitCode": 0}
    installation.apply(forged)
    assert installation.get("task", FIXED).get("status", {}).get("state") != "Succeeded"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            lambda size: [
                {**COMMAND, "stdin": "x" * (size - 4 - 400_000)},
                {**PATCH, "name": "b", "content": "y" * 400_000},
            ],
            id="stdin and content",
        ),
        pytest.param(
            lambda size: [
                {**COMMAND, "command": ["\u00e9" * 65_536] * 5 + ["x" * 131_072] * 3 + ["x" * (size - 720_896)]}
            ],
            id="command",
        ),
        pytest.param(
            lambda size: [
                {
                    **COMMAND,
                    "env": {f"V{number}": "x" * 131_070 for number in range(5)},
                    "stdin": "x" * (size - 4 - 5 * 131_072),
                }
            ],
            id="env",
        ),
    ],
)
def test_steps_that_leave_their_status_no_room_are_refused(installation: Installation, steps: Any) -> None:
    def created(size: int) -> str:
        made = json.dumps(task(*steps(size)))
        return installation.kubectl("create", "--dry-run=server", "-f", "-", text=made, check=False).stderr

    assert created(MOST_SPEC_BYTES) == ""
    assert f"more than {MOST_SPEC_BYTES} characters" in created(MOST_SPEC_BYTES + 1)


@pytest.mark.parametrize("what", ["command", "env"])
def test_a_task_has_so_many_words_and_variables(installation: Installation, what: str) -> None:
    """Each costs the API server at every change of the Task, of a label too."""

    def created(count: int) -> str:
        parts = [1000] * (count // 1000) + [count % 1000]
        values: list[Any] = [
            ["x"] * part if what == "command" else {f"v{number}": "x" for number in range(part - 1)} for part in parts
        ]
        steps = [{**COMMAND, "name": f"s{number}", what: value} for number, value in enumerate(values)]
        made = json.dumps(task(*steps))
        return installation.kubectl("create", "--dry-run=server", "-f", "-", text=made, check=False).stderr

    assert created(MOST_WORDS) == ""
    assert f"more than {MOST_WORDS} words" in created(MOST_WORDS + 1)
