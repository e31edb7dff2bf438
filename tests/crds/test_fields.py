"""What client, operator and command line read and write of the custom resources is what the models have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.kubernetes.manifests import holder_of, sandbox_manifest, task_manifest
from pytest_arl.cluster import fields
from pytest_arl.cluster.models import (
    Holder,
    Resource,
    Sandbox,
    SandboxDefaults,
    SandboxSpec,
    SandboxStatus,
    Task,
    TaskSpec,
    TaskStatus,
    TaskStep,
    WarmPool,
    WarmPoolSpec,
    WarmPoolStatus,
)
from pytest_arl.cluster.objects import Key
from pytest_arl.operator import pooling, sandbox_status, task_status
from pytest_arl.operator.pod_problems import Problem
from pytest_arl.operator.pool_status import Told, pool_status
from pytest_arl.operator.progress import Progress, StepEnd
from pytest_arl.steps import parse_steps
from pytest_arl.usage import Usage
from tests.operator import objects

META = {"name": "x", "namespace": "ns"}
POOL = WarmPool(
    metadata=META,
    spec=WarmPoolSpec(replicas=1, template={}, sandbox=SandboxDefaults(work_dir="/w")),
    status=WarmPoolStatus(task_key="ff"),
).to_json()
SANDBOX = Sandbox(
    metadata=META,
    spec=SandboxSpec(pool_ref="pool", holder=Holder(secret_hash="0" * 64)),
    status=SandboxStatus(
        phase="Ready", pod_name="pod", agentBootID="boot", warm=True, last_task_time="1970-01-01T00:00:05Z"
    ),
).to_json()
TASK = Task(
    metadata=META,
    spec=TaskSpec(sandbox_ref="sandbox", steps=[TaskStep(name="s", type="Command", command=["true"])]),
    status=TaskStatus(state="Running"),
).to_json()


def test_what_is_read_is_where_the_models_have_it() -> None:
    assert fields.sandbox_defaults(POOL) == {"workDir": "/w"}
    assert fields.task_key(POOL) == "ff"
    assert fields.pool_of(SANDBOX) == Key("ns", "pool")
    assert fields.holder(SANDBOX) == {"secretHash": "0" * 64}
    assert fields.phase(SANDBOX) == "Ready"
    assert fields.pod_name(SANDBOX) == "pod"
    assert fields.boot_id(SANDBOX) == "boot"
    assert fields.warm(SANDBOX) is True
    assert fields.last_task_time(SANDBOX) == 5
    assert fields.sandbox_of(TASK) == Key("ns", "sandbox")
    assert fields.state(TASK) == "Running"


def test_this_file_reads_with_every_reader() -> None:
    test = test_what_is_read_is_where_the_models_have_it.__code__.co_names
    assert set(fields.__all__) - {"has_begun", "is_over"} <= set(test)


@pytest.mark.parametrize(("state", "begun", "over"), [("Pending", 0, 0), ("Running", 1, 0), ("Failed", 1, 1)])
def test_how_far_a_task_is(state: str, begun: int, over: int) -> None:
    found = {"status": {"state": state}}
    assert (fields.has_begun(found), fields.is_over(found)) == (bool(begun), bool(over))


@pytest.mark.parametrize("status", [None, "x", [], {}, {"conditions": None}])
def test_of_an_object_without_a_status_nothing_is_known(status: Any) -> None:
    for body in ({"status": status}, {}, None):
        assert (fields.phase(body), fields.pod_name(body), fields.boot_id(body), fields.state(body)) == ("",) * 4
        assert not fields.warm(body)
        assert not fields.is_over(body)


@pytest.mark.parametrize("odd", [1, None, ["Ready"], {"a": "b"}, True])
def test_what_has_another_type_in_a_status_is_not_there(odd: Any) -> None:
    """Whoever may write a status may write what the API server's schema lets through, and an older schema lets more."""
    body = {"status": dict.fromkeys(("phase", "podName", "agentBootID", "state", "lastTaskTime", "taskKey"), odd)}
    read: list[Callable[[Any], str]] = [
        fields.phase,
        fields.pod_name,
        fields.boot_id,
        fields.state,
        fields.task_key,
    ]
    assert [each(body) for each in read] == [""] * len(read)
    assert fields.last_task_time(body) is None
    assert fields.warm({"status": {"warm": "yes"}}) is False


def known(model: type[Resource | SandboxStatus | TaskStatus | WarmPoolStatus], found: Any) -> bool:
    """True if the model has every field, in the type that it has here."""
    given = without_none(found)
    return bool(model.model_validate(given).model_dump(mode="json", by_alias=True, exclude_unset=True) == given)


def without_none(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_none(each) for key, each in found.items() if each is not None}
    return [without_none(each) for each in found] if isinstance(found, list) else found


def test_a_field_that_no_model_has_is_found() -> None:
    assert known(SandboxStatus, {"phase": "Ready", "podIP": "10.0.0.1"})
    assert not known(SandboxStatus, {"phase": "Ready", "podIp": "10.0.0.1"})


WHY = Problem("Reason", "message")


@pytest.mark.parametrize(
    "status",
    [
        sandbox_status.pending(objects.sandbox(), WHY),
        sandbox_status.bound(objects.sandbox(), objects.pod("p"), WHY),
        sandbox_status.ready(objects.sandbox(), objects.pod("p"), "boot", "/workspace"),
        sandbox_status.failed(objects.sandbox(), WHY),
        sandbox_status.terminating(objects.sandbox()),
        {"lastTaskTime": "1970-01-01T00:00:05Z"},
    ],
)
def test_what_the_operator_writes_of_a_sandbox_is_in_its_model(status: Any) -> None:
    assert known(SandboxStatus, status)


def ended() -> Progress:
    value: Any = {
        "outcome": "Failed",
        "code": 1,
        "out": 2,
        "err": 0,
        "at": 1.0,
        "s": 0.5,
        "limit": "memory",
    }
    step = StepEnd.read(value, (b"", b""))
    step.output, step.usage = (b"hi", b""), Usage(user_time=1.0, max_rss=5)
    return Progress(objects.task()["spec"]["steps"], [step], done=True)


@pytest.mark.parametrize(
    "status",
    [
        task_status.waiting(objects.task(), "Reason", "message"),
        task_status.running(objects.task(), ended(), 1.0, {}),
        task_status.result(objects.task(), ended(), began=1.0, ended=2.0, limits={"memory": "1Gi"}),
        task_status.failed(objects.task(), "Reason", "message", 2.0),
        task_status.cancelled(objects.task(), 2.0),
    ],
)
def test_what_the_operator_writes_of_a_task_is_in_its_model(status: Any) -> None:
    assert known(TaskStatus, status)


def test_what_the_operator_writes_of_a_pool_is_in_its_model() -> None:
    found = pooling.sort_pods([], set(), set())
    network = {"type": "Isolated", "status": "True", "reason": "PolicySelects", "message": "one"}
    told = Told(found, 1, WHY, network, "every step can read the Secret s", valid=True, sidecar=True)
    assert known(WarmPoolStatus, pool_status(objects.pool(), told, "ff"))


@pytest.mark.parametrize("exact", [True, False])
def test_what_the_client_creates_is_in_the_models(exact: bool) -> None:
    request = AcquireRequest("pool", keep_alive=True, idle_timeout=1, max_lifetime=2, labels={"test": "t"})
    holder = holder_of(request, "run", "worker", b"secret", "00")
    owner = {"apiVersion": "v1", "kind": "Lease", "name": "l", "uid": "u"}
    assert known(Sandbox, sandbox_manifest("x", request, {"a": "b"}, holder, owner))
    step = {
        "type": "Command",
        "command": ["a", "b" if exact else "\udcff"],
        "env": {"A": "b"},
        "timeout": 5,
        "cpu_time": 1,
    }
    steps = parse_steps([step, {"type": "FilePatch", "path": "p", "content": "c"}])
    manifest, _ = task_manifest("x", {"name": "s", "uid": "u"}, {}, TaskRequest("id", steps, timeout=9), b"k" * 32)
    assert known(Task, manifest)
