"""Attacks that once stopped the operator for everybody, one by one: nothing of them reaches another namespace."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_arl.cluster.pod import POOL_LABEL, STATUS_ALLOCATED, STATUS_IDLE, STATUS_LABEL
from tests.cluster.hostile.bystanders import Neighbour, Operator, still_well, unharmed, well
from tests.cluster.hostile.conftest import Ground
from tests.cluster.hostile.tenants import agent_pod, sandbox, task
from tests.cluster.installation import Installation, Json, pool

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("alone")]

FORBIDDEN = (403, 422)
_VISITED_SECONDS = 3.0
"""After a pod is ready: more than the operator takes to greet its agent."""

_RESYNC_SECONDS = 75.0
"""After which the operator has listed everything anew."""


def labelled(pool_name: str, status: str = STATUS_IDLE) -> Json:
    """The labels of a pool's pod."""
    return {POOL_LABEL: pool_name, STATUS_LABEL: status}


def play(ground: Ground, name: str, script: dict[str, Any], labels: Json) -> bool:
    """A pod with that agent runs and has been looked at; false where the API server does not take such labels."""
    body = agent_pod(name, ground.there.images["python"], [script], labels=labels)
    status, answer = ground.pod_maker.create("pods", body)
    if status in FORBIDDEN and "exceeded quota" not in str(answer):
        return False
    assert status == 201, answer
    ground.there.wait("condition=Ready", f"pod/{name}")
    time.sleep(_VISITED_SECONDS)
    return True


@pytest.fixture(autouse=True)
def nothing_left(ground: Ground) -> Any:
    yield
    ground.there.kubectl("delete", "tasks,sandboxes,warmpools,pods", "--all", "--wait=false", "--grace-period=0")


def test_who_may_make_pods_may_make_one(ground: Ground) -> None:
    """The control of what is refused below."""
    assert play(ground, "control", {}, {"app": "control"})
    assert ground.there.kubectl("logs", "control").stdout == "listening\n"


@pytest.mark.parametrize("answer", ["older epoch", "another boot", "not configured"])
def test_a_pod_that_speaks_of_another_leader_ends_no_operator(
    installation: Installation, ground: Ground, neighbour: Neighbour, answer: str
) -> None:
    with unharmed(installation, neighbour):
        play(ground, "liar", {"greeting": [["right", "refusal", {"text": answer}, []]]}, labelled("no-such-pool"))


@pytest.mark.parametrize("size", [400_000_000, 2**63 - 1])
def test_a_number_as_nonce_becomes_no_bytes(
    installation: Installation, ground: Ground, neighbour: Neighbour, size: int
) -> None:
    with unharmed(installation, neighbour):
        play(ground, "bomb", {"greeting": [["right", "greeting", {"nonce": size}, []]]}, labelled("no-such-pool"))


def test_an_agent_of_a_sandbox_that_answers_with_numbers_fills_nothing(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    wrong = [["right", "step", {"o": 400_000_000, "e": 2**31, "limit": ["x"], "at": float("nan")}, []]]
    with unharmed(installation, neighbour):
        _served_by(ground, "numbers", {"task": [*wrong, ["right", "done", {}, []]]})


def _served_by(ground: Ground, name: str, script: dict[str, Any]) -> Json:
    """The status of a Task of a sandbox whose pool has a pod with that agent; empty where no such pod is taken."""
    ground.there.apply(pool(name, ground.there.images["python"], replicas=0))
    time.sleep(1)
    play(ground, f"{name}-agent", script, labelled(name))
    ground.there.apply(sandbox(f"{name}-sandbox", name))
    ground.there.apply(
        task(f"{name}-task", f"{name}-sandbox", {"name": "s", "type": "Command", "command": ["false"]}, timeout="20s")
    )
    ground.there.wait("jsonpath={.status.completionTime}", f"task/{name}-task", seconds=90)
    status: Json = ground.there.get("task", f"{name}-task")["status"]
    return status


def test_a_pod_with_a_pools_labels_is_given_no_task_and_not_believed(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    with unharmed(installation, neighbour):
        status = _served_by(ground, "forged", {})

    assert (status["state"], status.get("exitCode")) == ("Failed", 1), "`false` exits 1, in a pod of the pool's own"
    assert status["stdout"] == ""


_ENDS_THE_AGENT = "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (8, 8))"


def test_what_takes_the_agents_port_after_its_end_is_not_believed(ground: Ground) -> None:
    """A container beside it, which a step may have taken over, knows all of the agent that is public."""
    image = ground.there.images["python"]
    body = pool("shared", image, replicas=0)
    beside = agent_pod("unused", image, [{}])["spec"]["containers"][0]
    del beside["readinessProbe"]
    beside |= {"name": "beside", "env": [*beside["env"], {"name": "TAKES_OVER", "value": "yes"}]}
    body["spec"]["template"]["spec"]["containers"].append(beside)
    ground.there.apply(body)
    ground.there.apply(sandbox("shared-sandbox", "shared"))
    ground.there.wait("jsonpath={.status.phase}=Ready", "sandbox/shared-sandbox", seconds=90)

    states = []
    for number, argv in enumerate((["python3", "-c", _ENDS_THE_AGENT], ["false"])):
        command = {"name": "s", "type": "Command", "command": argv}
        ground.there.apply(task(f"shared-{number}", "shared-sandbox", command, timeout="20s"))
        ground.there.wait("jsonpath={.status.completionTime}", f"task/shared-{number}", seconds=90)
        states.append(ground.there.get("task", f"shared-{number}")["status"])

    assert states[0]["state"] == "Succeeded", "control: the agent itself ran this one"
    assert states[1]["state"] == "Failed", states[1]
    assert "stdout" not in states[1]
    ground.there.wait("jsonpath={.status.phase}=Failed", "sandbox/shared-sandbox", seconds=90)


@dataclass(frozen=True, slots=True)
class Planted:
    """Pods that the operator meets when it lists everything anew, after it has.

    Attributes:
        before: the operator before that.
        bystander: the UID of a Deployment's pod that was given a pool's labels.
        found: that pod now.
    """

    before: Operator
    bystander: str
    found: Json


@pytest.fixture(scope="module")
def planted(installation: Installation, ground: Ground, neighbour: Neighbour) -> Planted:
    before = well(installation, neighbour)
    maker, image = ground.pod_maker, ground.there.images["python"]
    status, made = maker.create("pods", agent_pod("bystander", image, [{}], labels={"app": "web"}))
    assert status == 201, made
    ground.there.wait("condition=Ready", "pod/bystander")
    uid: str = made["metadata"]["uid"]
    maker.patch("pods", "bystander", {"metadata": {"labels": labelled("x", STATUS_ALLOCATED)}})
    for number, name in enumerate(["..", "../../../../../../healthz", "a%2fb", "x?y=z", ".", "a#b"]):
        body = agent_pod(f"stray-{number}", image, [{}], labels={POOL_LABEL: "x"})
        reference = {"apiVersion": "no.such/v1", "kind": "Sandbox", "name": name}
        body["metadata"]["ownerReferences"] = [{**reference, "uid": f"00000000-0000-0000-0000-00000000000{number}"}]
        body["spec"]["schedulingGates"] = [{"name": "example.com/never"}]
        status, made = maker.create("pods", body)
        assert status in (201, *FORBIDDEN), made
    time.sleep(_RESYNC_SECONDS)
    return Planted(before, uid, maker.get("pods", "bystander"))


def test_an_owners_name_never_becomes_a_path(
    installation: Installation, neighbour: Neighbour, planted: Planted
) -> None:
    still_well(installation, neighbour, planted.before)


def test_a_deployments_pod_that_gets_a_pools_labels_is_not_deleted(planted: Planted) -> None:
    assert planted.found.get("metadata", {}).get("uid") == planted.bystander
    assert "deletionTimestamp" not in planted.found["metadata"]


def test_a_task_whose_status_has_no_room_left_keeps_nobody_waiting(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    with unharmed(installation, neighbour):
        taken = _largest_task(ground, "poison")
        ground.user.create("tasks", taken)
        time.sleep(12)  # a Task without a Sandbox is told so, and failed after ten seconds


def _largest_task(ground: Ground, name: str) -> Json:
    """The largest one that the API server takes, within 500 bytes."""
    low, high = 100_000, 1_600_000
    while high - low > 500:
        size = (low + high) // 2
        status, _ = ground.user.create("tasks", _of_size(f"{name}-{size}", size))
        if status == 201:
            low = size
            ground.user.delete("tasks", f"{name}-{size}")
        else:
            high = size
    return _of_size(name, low)


def _of_size(name: str, size: int) -> Json:
    parts = [min(700_000, size - at) for at in range(0, size, 700_000)]
    steps = [
        {"name": f"s{number}", "type": "Command", "command": ["true"], "stdin": "x" * part}
        for number, part in enumerate(parts)
    ]
    return task(name, "no-such-sandbox", *steps)


def test_many_large_tasks_do_not_fill_the_operator(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    with unharmed(installation, neighbour):
        taken = 0
        for number in range(70):
            for size in (1_400_000, 700_000):
                if ground.user.create("tasks", _of_size(f"many-{number}", size))[0] == 201:
                    taken += 1
                    break
        assert taken, "none was taken: this tests nothing"
        time.sleep(_RESYNC_SECONDS)


@pytest.mark.parametrize("depth", [900, 3_000, 9_900])
def test_a_template_that_nests_deep_hides_no_other_pool(
    installation: Installation, ground: Ground, neighbour: Neighbour, depth: int
) -> None:
    """The API server takes nesting of 10,000, more than Python reads by itself."""
    name = f"deep-{depth}"
    nested = '{"a":' * depth + "1" + "}" * depth
    meta = f'{{"name": "{name}", "namespace": "{ground.there.namespace}"}}'
    spec = f'{{"replicas": 0, "template": {{"spec": {nested}}}}}'
    body = f'{{"apiVersion": "arl.infra.io/v1alpha1", "kind": "WarmPool", "metadata": {meta}, "spec": {spec}}}'
    reason = 'jsonpath={.status.conditions[?(@.type=="Ready")].reason}'
    with unharmed(installation, neighbour):
        made = ground.there.kubectl("create", "-f", "-", text=body, check=False)
        assert made.returncode == 0, made.stderr
        try:
            ground.there.wait(f"{reason}=TemplateInvalid", f"warmpool/{name}", seconds=30)
        finally:
            ground.there.kubectl("delete", "warmpool", name)


def test_a_pools_other_containers_get_nothing_of_the_agents(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    deputy = pool("deputy", ground.there.images["python"], replicas=1)
    containers = deputy["spec"]["template"]["spec"]["containers"]
    containers.append(
        {
            "name": "beside",
            "image": ground.there.images["busybox"],
            "command": ["sleep", "9999"],
            "volumeMounts": [{"name": "arl-folder", "mountPath": "/agent"}],
        }
    )
    with unharmed(installation, neighbour):
        status, answer = ground.pool_admin.create("warmpools", deputy)
        assert status in (201, *FORBIDDEN), answer
        if status == 201:
            _until_invalid(ground, "deputy")


def _until_invalid(ground: Ground, name: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        conditions = ground.there.get("warmpool", name).get("status", {}).get("conditions", ())
        if any(each["reason"] == "TemplateInvalid" for each in conditions):
            return
        assert time.monotonic() < deadline, f"such a pool is taken: {conditions}"
        time.sleep(0.5)


def test_a_word_of_an_agent_is_one_harmless_line_in_the_operators_log(
    installation: Installation, ground: Ground, neighbour: Neighbour
) -> None:
    said = "\x1b]0;title\x07 \x9b2J \u202e\u2028 fake\n" + '{"level":"critical"}'
    with unharmed(installation, neighbour):
        play(ground, "speaker", {"greeting": [["right", "refusal", {"text": said}, []]]}, labelled("no-such-pool"))
    log = installation.kubectl("logs", "deployment/arl-operator", namespace=installation.operator_namespace).stdout

    assert not set("\x1b\x07\x9b\u202e\u2028") & set(log)
    assert '\n{"level":"critical"}' not in log
