"""Who may make a pod a pool's: nobody but the operator, and what its own Deployment asks for. And whose Leases are whose."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pytest_arl.cluster.pod import LEASE_LABEL, POOL_LABEL, PORT, RUN_LABEL, SANDBOX_LABEL, STATUS_LABEL
from tests.cluster.installation import Installation, images, pool
from tests.cluster.operator_room import Room, room

pytestmark = pytest.mark.timeout(300)

Json = dict[str, Any]

IDLE = {POOL_LABEL: "python", STATUS_LABEL: "idle"}


def forbidden(told: str) -> bool:
    """Whether one of our policies has refused something, and not by a rule that could not be evaluated."""
    return "ValidatingAdmissionPolicy 'arl-" in told and "denied request" in told and "resulted in error" not in told


class Maker:
    """Somebody who may make whatever has pods in one namespace, and nothing of ours."""

    def __init__(self, installation: Installation, account: str) -> None:
        self._installation = installation
        self.account = f"system:serviceaccount:{installation.namespace}:{account}"

    def tries(self, *words: str, body: Json | None = None) -> str:
        """What the API server says to it; empty where it is taken."""
        text = None if body is None else json.dumps(body)
        done = self._installation.kubectl(*words, f"--as={self.account}", text=text, check=False)
        return done.stderr if done.returncode else ""

    def creates(self, body: Json) -> str:
        """Of an object that is then not there."""
        return self.tries("create", "--dry-run=server", "-f", "-", body=body)

    def patches(self, what: str, change: Json, *words: str) -> str:
        return self.tries("patch", what, "--type=merge", "-p", json.dumps(change), *words)


@pytest.fixture(scope="module")
def maker(installation: Installation) -> Maker:
    return _account(
        installation,
        "podmaker",
        {"apiGroups": [""], "resources": ["pods", "replicationcontrollers"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods/ephemeralcontainers", "pods/resize", "pods/status"], "verbs": ["*"]},
        {"apiGroups": ["apps", "batch"], "resources": ["*"], "verbs": ["*"]},
    )


def _account(installation: Installation, name: str, *rules: Json) -> Maker:
    installation.make("serviceaccount", name)
    meta = {"name": name}
    group = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    installation.apply(
        {**group, "kind": "Role", "metadata": meta, "rules": list(rules)},
        {**group, "kind": "RoleBinding", "metadata": meta, "roleRef": role, "subjects": [_subject(installation, name)]},
    )
    return Maker(installation, name)


def _subject(installation: Installation, name: str) -> Json:
    return {"kind": "ServiceAccount", "name": name, "namespace": installation.namespace}


def pod_of(labels: Json, command: str = "import time; time.sleep(600)", **meta: Any) -> Json:
    spec = {
        "terminationGracePeriodSeconds": 0,
        "containers": [
            {
                "name": "executor",
                "image": images()["python"],
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-u", "-c", command],
            }
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stray", "labels": labels, **meta},
        "spec": spec,
    }


def workload(kind: str, labels: Json, name: str) -> Json:
    """One of the kinds that make pods, whose pods have these labels."""
    versions = {"Job": "batch/v1", "CronJob": "batch/v1", "ReplicationController": "v1"}
    made = pod_of(labels | {"app": name})
    template: Json = {"metadata": {"labels": made["metadata"]["labels"]}, "spec": made["spec"]}
    spec: Json = {"template": template, "selector": {"matchLabels": {"app": name}}}
    if kind in ("Job", "CronJob"):
        del spec["selector"]
        template["spec"]["restartPolicy"] = "Never"
    if kind == "CronJob":
        spec = {"schedule": "* * * * *", "jobTemplate": {"spec": spec}}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if kind == "ReplicationController":
        spec["selector"] = {"app": name}
    return {"apiVersion": versions.get(kind, "apps/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec}


# Pods


def test_nobody_makes_a_pod_with_the_label(installation: Installation, maker: Maker) -> None:
    assert maker.creates(pod_of({})) == ""
    assert maker.creates(pod_of({STATUS_LABEL: "idle"})) == "", "without a pool it is nobody's"
    for labels in (IDLE, {POOL_LABEL: "no-such-pool"}, {POOL_LABEL: "python", STATUS_LABEL: "allocated"}):
        assert forbidden(maker.creates(pod_of(labels))), labels
    assert forbidden(installation.refused(pod_of(IDLE))), "an administrator neither"
    # Where no operator serves, the label is nobody's. (Another test has one serve `default`.)
    dry = ("create", "--dry-run=server", "-f", "-")
    installation.kubectl(*dry, namespace="kube-public", text=json.dumps(pod_of(IDLE)))


def test_no_pod_beside_sandboxes_takes_the_operators_place(installation: Installation, maker: Maker) -> None:
    """The scheduler would end the operator's pod for it, again and again, or keep it from every node."""

    def creates(**spec: Any) -> str:
        body = pod_of({})
        return maker.creates({**body, "spec": {**body["spec"], **spec}})

    def apart(when: str = "requiredDuringSchedulingIgnoredDuringExecution", **where: Any) -> Json:
        term: Json = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}, **where}
        if when.startswith("preferred"):
            term = {"weight": 1, "podAffinityTerm": term}
        return {"podAntiAffinity": {when: [term]}}

    mine, others = installation.namespace, installation.operator_namespace
    taken: list[Json] = [
        {},
        {"affinity": apart()},
        {"affinity": apart(namespaces=[mine])},
        {"affinity": apart("preferredDuringSchedulingIgnoredDuringExecution", namespaces=[others])},
    ]
    for spec in taken:
        assert creates(**spec) == "", spec
    refused: list[Json] = [
        {"priorityClassName": "system-node-critical"},
        {"priorityClassName": "system-cluster-critical"},
        {"affinity": apart(namespaces=[mine, others])},
        {"affinity": apart(namespaceSelector={})},
    ]
    for spec in refused:
        assert forbidden(creates(**spec)), spec
    body = pod_of({})
    body["spec"]["priorityClassName"] = "system-cluster-critical"
    installation.kubectl("create", "--dry-run=server", "-f", "-", namespace="kube-public", text=json.dumps(body))


def test_nobody_makes_one_that_names_a_replica_set_as_its_maker(
    installation: Installation, maker: Maker, python_pool: str
) -> None:
    (idle, *_) = _idle(installation, python_pool)
    copied = pod_of(idle["metadata"]["labels"], ownerReferences=idle["metadata"]["ownerReferences"])
    assert forbidden(maker.creates(copied))
    assert maker.creates(pod_of({}, ownerReferences=idle["metadata"]["ownerReferences"])) == ""


def _idle(installation: Installation, pool_name: str) -> list[Json]:
    labels = f"{POOL_LABEL}={pool_name},{STATUS_LABEL}=idle"
    found: list[Json] = installation.get("pods", "-l", labels)["items"]
    assert found
    return found


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet"])
def test_nobody_asks_for_pods_with_the_label(installation: Installation, maker: Maker, kind: str) -> None:
    assert maker.creates(workload(kind, {}, "stranger")) == ""
    assert forbidden(maker.creates(workload(kind, IDLE, "stranger")))
    # Nor later.
    installation.apply(workload(kind, {}, "stranger") | {"metadata": {"name": "stranger"}})
    try:
        change = {"spec": {"template": {"metadata": {"labels": IDLE}}}}
        assert forbidden(maker.patches(f"{kind}/stranger", change))
        assert maker.patches(f"{kind}/stranger", {"spec": {"template": {"metadata": {"labels": {"x": "y"}}}}}) == ""
    finally:
        installation.kubectl("delete", f"{kind}/stranger")


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "Job", "ReplicationController"])
def test_no_other_kind_makes_pods_with_the_label(installation: Installation, maker: Maker, kind: str) -> None:
    name = kind.lower()
    try:
        assert maker.tries("create", "-f", "-", body=workload(kind, IDLE, f"{name}-labelled")) == ""
        assert maker.tries("create", "-f", "-", body=workload(kind, {}, f"{name}-plain")) == ""
        deadline = time.monotonic() + 60
        while not forbidden(told := _events(installation, f"{name}-labelled")):
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
        assert installation.get("pods", "-l", f"app={name}-labelled")["items"] == []
        while not installation.get("pods", "-l", f"app={name}-plain")["items"]:
            assert time.monotonic() < deadline, "its plain twin makes no pod either"
            time.sleep(0.5)
    finally:
        installation.kubectl("delete", f"{kind}/{name}-labelled", f"{kind}/{name}-plain", "--ignore-not-found")


def _events(installation: Installation, name: str) -> str:
    events = installation.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
    return " ".join(str(event.get("message")) for event in events)


CHANGES = {
    "pool": {"metadata": {"labels": {POOL_LABEL: "other"}}},
    "no pool": {"metadata": {"labels": {POOL_LABEL: None}}},
    "status": {"metadata": {"labels": {STATUS_LABEL: "allocated"}}},
    "no status": {"metadata": {"labels": {STATUS_LABEL: None}}},
    "sandbox": {"metadata": {"labels": {SANDBOX_LABEL: "mine"}}},
    "no owner": {"metadata": {"ownerReferences": None}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_owner_of_a_pools_pod_cannot_be_changed(
    installation: Installation, maker: Maker, python_pool: str, change: Json
) -> None:
    pod = f"pod/{_idle(installation, python_pool)[0]['metadata']['name']}"
    assert forbidden(maker.patches(pod, change, "--dry-run=server"))
    told = maker.patches(pod, change, "--dry-run=server", "--subresource=status")
    assert told == "" if "ownerReferences" in change["metadata"] else forbidden(told), "a status has no owners"
    assert maker.patches(pod, {"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}}}, "--dry-run=server") == ""


def test_nobody_claims_a_pod_or_changes_what_runs_in_it(
    installation: Installation, maker: Maker, python_pool: str
) -> None:
    body = _idle(installation, python_pool)[0]
    pod = f"pod/{body['metadata']['name']}"
    owner = {"apiVersion": "arl.infra.io/v1alpha1", "kind": "Sandbox", "name": "mine", "uid": "u-1"}
    owners = [*body["metadata"]["ownerReferences"], owner]
    assert forbidden(maker.patches(pod, {"metadata": {"ownerReferences": owners}}, "--dry-run=server"))
    spec = copy.deepcopy(body["spec"]["containers"])
    spec[0]["image"] = "evil:1"
    assert forbidden(maker.patches(pod, {"spec": {"containers": spec}}, "--dry-run=server"))
    more = {"spec": {"ephemeralContainers": [{"name": "e", "image": images()["busybox"]}]}}
    change = ("patch", pod, "--subresource=ephemeralcontainers", "--dry-run=server", "-p", json.dumps(more))
    assert forbidden(maker.tries(*change))
    if '"pods/resize"' in installation.kubectl("get", "--raw", "/api/v1", namespace="").stdout:
        less = {"spec": {"containers": [{"name": "executor", "resources": {"limits": {"memory": "511Mi"}}}]}}
        told = maker.tries("patch", pod, "--subresource=resize", "--dry-run=server", "-p", json.dumps(less))
        assert forbidden(told), told
    # To a pod of his own he may add one.
    assert maker.tries("create", "-f", "-", body=pod_of({}, namespace=installation.namespace)) == ""
    try:
        assert maker.tries("patch", "pod/stray", *change[2:]) == ""
        assert forbidden(maker.patches("pod/stray", {"metadata": {"labels": IDLE}}, "--dry-run=server"))
    finally:
        installation.kubectl("delete", "pod/stray")


def test_a_pools_deployment_is_changed_by_its_operator_alone(
    installation: Installation, maker: Maker, python_pool: str
) -> None:
    deployment = f"deployment/{python_pool}"
    (sets, *_) = installation.get("replicasets", "-l", f"{POOL_LABEL}={python_pool}")["items"]
    evil = {"spec": {"template": {"spec": {"securityContext": {"runAsUser": 1234}}}}}
    for what in (deployment, f"replicaset/{sets['metadata']['name']}"):
        assert forbidden(maker.patches(what, evil, "--dry-run=server"))
        assert maker.patches(what, {"metadata": {"annotations": {"x": "y"}}}, "--dry-run=server") == ""


def test_an_init_containers_image_is_its_pools_too(installation: Installation, maker: Maker) -> None:
    """A native sidecar listens before the agent does."""
    body = pool("sidecar", images()["python"], replicas=1)
    sidecar = {"name": "db", "image": images()["busybox"], "restartPolicy": "Always", "command": ["sleep", "9999"]}
    body["spec"]["template"]["spec"]["initContainers"] = [{**sidecar, "imagePullPolicy": "IfNotPresent"}]
    installation.apply(body)
    try:
        installation.wait("jsonpath={.status.readyReplicas}=1", "warmpool/sidecar", seconds=90)
        (found, *_) = _idle(installation, "sidecar")
        change = {"spec": {"initContainers": [{"name": "db", "image": images()["python"]}]}}
        words = ("patch", f"pod/{found['metadata']['name']}", "--type=strategic", "--dry-run=server")
        assert forbidden(maker.tries(*words, "-p", json.dumps(change)))
        same = {"metadata": {"annotations": {"x": "y"}}}
        assert maker.tries(*words, "-p", json.dumps(same)) == "", "control"
    finally:
        installation.kubectl("delete", "warmpool", "sidecar")


# Leases


def lease(name: str, *, holder: str | None = None, label: str | None = None, seconds: int = 300) -> Json:
    labels = {RUN_LABEL: "r1", LEASE_LABEL: name if label is None else label}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": labels},
        "spec": {"holderIdentity": name if holder is None else holder, "leaseDurationSeconds": seconds},
    }


def test_who_runs_tests_touches_no_lease_but_those_of_runs(installation: Installation) -> None:
    user = _account(installation, "lessee")
    editor = _account(installation, "editor")
    for name, role in (("lessee", "arl-user"), ("editor", "edit")):
        words = (f"--clusterrole={role}", f"--serviceaccount={installation.namespace}:{name}")
        installation.make("rolebinding", f"{name}-{role}", *words)
    installation.apply(lease("leader", holder="somebody"), lease("arl-r1-main-1-abcdef"))
    try:
        assert user.creates(lease("arl-r1-main-2-abcdef")) == ""
        for wrong in (lease("leader-2"), lease("arl-x", holder="me"), lease("arl-x", label="y"), lease("arl-operator")):
            assert forbidden(user.creates(wrong)), wrong
            assert editor.creates(wrong) == ""
        renewed = {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}
        assert user.patches("lease/arl-r1-main-1-abcdef", renewed) == ""
        assert forbidden(user.patches("lease/leader", {"spec": {"holderIdentity": "leader"}}))
        assert forbidden(user.patches("lease/arl-r1-main-1-abcdef", {"spec": {"holderIdentity": "me"}}))
        assert forbidden(user.tries("delete", "lease/leader"))
        assert user.tries("delete", "lease/arl-r1-main-1-abcdef", "--dry-run=server") == ""
        assert editor.tries("delete", "lease/leader", "--dry-run=server") == ""
    finally:
        installation.kubectl("delete", "lease", "leader", "arl-r1-main-1-abcdef", "--ignore-not-found")


# What the operator itself believes, where no policy is in the way


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with room(tmp_path_factory.mktemp("operator") / "log") as found:
        yield found


LISTENS = f"""
import socket
server = socket.create_server(("", {PORT}))
print("listens")
while True:
    server.accept()[0].close()
    print("connected")
"""


def test_a_pod_with_a_pools_labels_is_not_the_pools(unguarded: Room) -> None:
    labelled = workload("Deployment", IDLE, "labelled")
    labelled["spec"]["template"]["spec"] = pod_of({}, LISTENS)["spec"]
    orphan = pod_of({POOL_LABEL: "python", STATUS_LABEL: "allocated", SANDBOX_LABEL: "x"}, LISTENS)
    unguarded.pool("python", replicas=0)
    unguarded.apply(labelled, orphan)
    unguarded.kubectl("wait", "--for=condition=Available", "deployment/labelled", "--timeout=60s")
    unguarded.kubectl("wait", "--for=condition=Ready", "pod/stray", "--timeout=60s")
    (fake,) = unguarded.all("pods", "-l", "app=labelled")
    unguarded.stop()
    unguarded.start()  # a new one looks at everything
    unguarded.sandbox("own")
    assert unguarded.ready("own")["status"]["podName"].startswith("own-"), "it was given somebody's pod"
    assert unguarded.run("own", "true")["state"] == "Succeeded"
    body = unguarded.get("warmpool", "python") or {}
    assert body["status"]["replicas"] == body["status"].get("readyReplicas", 0) == 0
    unguarded.kubectl("delete", "sandbox", "own")
    for name in (fake["metadata"]["name"], "stray"):
        there = unguarded.get("pod", name) or {}
        assert there["metadata"]["deletionTimestamp" if "deletionTimestamp" in there["metadata"] else "uid"]
        assert "deletionTimestamp" not in there["metadata"]
        assert unguarded.kubectl("logs", name).split() == ["listens"], "somebody has connected"
    unguarded.kubectl("delete", "deployment/labelled", "pod/stray")
    unguarded.pool("python", replicas=1)
    unguarded.pool_ready("python", 1)
    unguarded.sandbox("warm")
    assert not unguarded.ready("warm")["status"]["podName"].startswith("warm-"), "its own Deployment's pods are its"
    unguarded.kubectl("delete", "sandbox", "warm")


def test_a_sandbox_does_not_take_a_pod_that_says_it_is_its(unguarded: Room) -> None:
    unguarded.pool_ready("python", 1)
    unguarded.sandbox("honest")
    body = unguarded.ready("honest")
    real = unguarded.get("pod", body["status"]["podName"]) or {}
    copied = {key: real["metadata"][key] for key in ("labels", "annotations", "ownerReferences")}
    forged = pod_of({}, LISTENS, name="forged")
    forged["metadata"] |= copied
    unguarded.apply(forged)
    unguarded.kubectl("wait", "--for=condition=Ready", "pod/forged", "--timeout=60s")
    unguarded.stop()
    unguarded.start()
    assert unguarded.run("honest", "hostname")["stdout"].strip() == body["status"]["podName"]
    assert unguarded.kubectl("logs", "forged").split() == ["listens"]
    assert "deletionTimestamp" not in (unguarded.get("pod", "forged") or {})["metadata"]
    unguarded.kubectl("delete", "pod/forged", "sandbox/honest")


def test_a_lease_ends_if_name_label_and_holder_agree(unguarded: Room) -> None:
    bodies = [
        lease("somebodys", holder="somebody", seconds=1),
        lease("arl-a", holder="b", seconds=1),
        lease("arl-b", label="c", seconds=1),
    ]
    unguarded.apply(*bodies, lease("arl-r1-main-1-abcdef", seconds=1))
    unguarded.until("lease", "arl-r1-main-1-abcdef", lambda body: body == {}, 30)
    time.sleep(2)
    left = {each["metadata"]["name"] for each in unguarded.all("leases")}
    assert {"somebodys", "arl-a", "arl-b"} <= left
    unguarded.kubectl("delete", "lease", "somebodys", "arl-a", "arl-b")


def isolated(body: Json) -> tuple[str, str]:
    conditions = body.get("status", {}).get("conditions", ())
    found = [each for each in conditions if each["type"] == "Isolated"]
    return (found[0]["status"], found[0]["message"]) if found else ("", "")


def test_a_pool_says_whether_a_network_policy_is_around_it(
    unguarded: Room, installation: Installation, python_pool: str
) -> None:
    status, message = isolated(unguarded.until("warmpool", "python", lambda body: isolated(body)[0] != ""))
    assert status == "False"
    assert f"--sandboxes {unguarded.namespace}" in message
    assert isolated(installation.get("warmpool", python_pool)) == ("True", "NetworkPolicy arl-sandboxes")
    text = yaml.safe_dump(installation.get("networkpolicy", "arl-sandboxes") | {"metadata": {"name": "mine"}})
    unguarded.kubectl("apply", "-f", "-", text=text)
    unguarded.apply(pool("python", images()["python"], replicas=0))
    unguarded.until("warmpool", "python", lambda body: isolated(body) == ("True", "NetworkPolicy mine"))
    unguarded.kubectl("delete", "networkpolicy", "mine")
