"""What a Sandbox or a template asks for and does not get, on a real cluster, each beside what it gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.installation import images, pool
from tests.cluster.operator_room import Json, Room, room

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with room(tmp_path_factory.mktemp("operator") / "log") as found:
        yield found


def told(body: Json, kind: str = "Ready") -> Json:
    found = [each for each in body.get("status", {}).get("conditions", ()) if each["type"] == kind]
    return found[0] if found else {}


def limits_of(shared: Room, sandbox: str) -> Json:
    pod = shared.get("pod", shared.ready(sandbox)["status"]["podName"]) or {}
    (executor,) = [each for each in pod["spec"]["containers"] if each["name"] == "executor"]
    found: Json = executor["resources"]["limits"]
    return found


def test_a_sandbox_does_not_lift_its_pools_limits(shared: Room) -> None:
    shared.sandbox("nothing", resources={})
    shared.sandbox("less", resources={"limits": {"memory": "256Mi", "cpu": "1"}})
    assert limits_of(shared, "nothing") == {"memory": "512Mi"}
    assert limits_of(shared, "less") == {"memory": "256Mi", "cpu": "1"}
    for name, asked, said in (
        (
            "more",
            {"limits": {"memory": "18Gi"}},
            "spec.resources.limits.memory is 18Gi, but pool python allows up to 512Mi",
        ),
        ("cores", {"requests": {"cpu": "64"}}, "spec.resources.requests.cpu is 64, but pool python allows up to 5m"),
        ("none", {"limits": {"memory": 0}}, "spec.resources.limits.memory is 0, which is not a limit"),
        (
            "other",
            {"limits": {"nvidia.com/gpu": 1}},
            "spec.resources.limits.nvidia.com/gpu: pool python has no such resource",
        ),
    ):
        shared.sandbox(name, resources=asked)
        body = shared.until("sandbox", name, lambda body: body.get("status", {}).get("phase") == "Failed")
        assert told(body)["reason"] == "PodInvalid"
        assert said in told(body)["message"]
    assert not [
        each for each in shared.all("pods") if each["metadata"]["name"].startswith(("more-", "cores-", "none-"))
    ]
    shared.kubectl("delete", "sandboxes", "--all")


def test_a_pool_may_allow_more_than_it_gives(shared: Room) -> None:
    roomy = pool("roomy", images()["python"], replicas=0)
    roomy["spec"]["sandbox"] = {"maxResources": {"memory": "600Mi"}}
    shared.apply(roomy)
    shared.sandbox("roomy", "roomy", resources={"limits": {"memory": "600Mi"}})
    assert limits_of(shared, "roomy") == {"memory": "600Mi"}
    shared.kubectl("delete", "sandbox/roomy", "warmpool/roomy")


def test_steps_are_not_told_where_the_clusters_api_is(shared: Room) -> None:
    shared.pool("told", container={"env": [{"name": "KUBERNETES_SERVICE_PORT", "value": "mine"}]})
    shared.sandbox("told", "told")
    shared.sandbox("untold")
    seen = {}
    for name in ("told", "untold"):
        pod = shared.ready(name)["status"]["podName"]
        container = shared.kubectl("exec", pod, "-c", "executor", "--", "env")
        assert "KUBERNETES_SERVICE_HOST=" in container, "the control: the kubelet tells every container"
        seen[name] = [
            line for line in shared.run(name, "env")["stdout"].splitlines() if line.startswith(("KUBERNETES_", "ARL_"))
        ]
    assert seen == {"told": ["KUBERNETES_SERVICE_PORT=mine"], "untold": []}
    shared.kubectl("delete", "sandbox/told", "sandbox/untold", "warmpool/told")


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"volumes": [{"name": "host", "hostPath": {"path": "/etc"}}]}, "volume host: hostPath cannot be used"),
        ({"initContainers": [{"name": "i", "image": "x", "securityContext": {"privileged": True}}]}, "container i: "),
        ({"container": {"terminationMessagePath": "/arl/boot.py"}}, "reserved for the agent"),
        (
            {
                "container": {"volumeMounts": [{"name": "v", "mountPath": path} for path in ("/vol", "/vol/up/x")]},
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "has mounts at /vol and below it, at /vol/up/x",
        ),
        (
            {"affinity": {"podAntiAffinity": {_REQUIRED: [{"topologyKey": "t", "namespaces": ["arl-system"]}]}}},
            "affinity.podAntiAffinity: namespaces cannot be used",
        ),
        ({"securityContext": "none"}, "spec.template.spec.securityContext is not a mapping"),
    ],
)
def test_a_template_that_asks_for_too_much_is_told_so(shared: Room, change: Json, said: str) -> None:
    shared.pool("greedy", **change)
    body = shared.until("warmpool", "greedy", lambda body: told(body).get("reason") == "TemplateInvalid")
    assert said in told(body)["message"]
    assert not shared.all("pods", "-l", "arl.infra.io/pool=greedy")
    shared.kubectl("delete", "warmpool", "greedy")


def test_a_pool_whose_steps_can_read_secrets_says_so(shared: Room) -> None:
    sources = [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]
    shared.pool(
        "deputy",
        container={"volumeMounts": [{"name": "token", "mountPath": "/token"}]},
        volumes=[{"name": "token", "projected": {"sources": sources}}],
    )
    shared.pool_ready("deputy", 1)
    body = shared.get("warmpool", "deputy") or {}
    assert told(body, "ExposesSecrets")["status"] == "True"
    assert "a token of the service account default (volume token)" in told(body, "ExposesSecrets")["message"]
    assert told(shared.get("warmpool", "python") or {}, "ExposesSecrets") == {}
    shared.kubectl("delete", "warmpool", "deputy")


def test_a_finalizer_does_not_keep_a_sandboxes_pod(shared: Room) -> None:
    """Who may make Sandboxes may give them finalizers."""
    shared.sandbox("held")
    pod = shared.ready("held")["status"]["podName"]
    keep = '{"metadata": {"finalizers": ["example.com/keep"]}}'
    shared.kubectl("patch", "sandbox", "held", "--type=merge", "-p", keep)
    try:
        shared.kubectl("delete", "sandbox", "held", "--wait=false")
        shared.until("pod", pod, lambda body: body == {})
        body = shared.until("sandbox", "held", lambda body: body["status"]["phase"] == "Terminating")
        assert body["metadata"]["finalizers"] == ["example.com/keep"], "the control: the Sandbox is still there"
        reasons = {each["reason"] for each in shared.run("held", "true")["conditions"]}
        assert "SandboxFailed" in reasons, "nor does a Task wait for it"
    finally:
        shared.kubectl("patch", "sandbox", "held", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_a_pod_that_a_finalizer_keeps_runs_no_longer_and_is_not_given_out(shared: Room) -> None:
    """Who may patch pods may give them finalizers."""
    shared.pool_ready("python", 1)
    (pod,) = [each["metadata"]["name"] for each in shared.all("pods", "-l", "arl.infra.io/pool=python")]
    keep = '{"metadata": {"finalizers": ["example.com/keep"]}}'
    shared.kubectl("patch", "pod", pod, "--type=merge", "-p", keep)
    try:
        shared.kubectl("delete", "pod", pod, "--wait=false")
        shared.until(
            "pod",
            pod,
            lambda body: all("terminated" in each["state"] for each in body["status"]["containerStatuses"]),
        )
        shared.sandbox("next")
        assert shared.ready("next")["status"]["podName"] != pod
        shared.kubectl("delete", "sandbox", "next")
    finally:
        shared.kubectl("patch", "pod", pod, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


NET_RAW = 13


def has_net_raw(shared: Room, pod: str, container: str) -> bool:
    status = shared.kubectl("exec", pod, "-c", container, "--", "cat", "/proc/1/status")
    (bounding,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")]
    return bool(int(bounding, 16) >> NET_RAW & 1)


def test_a_container_beside_the_agent_reads_nothing_off_its_network(shared: Room) -> None:
    """Runtimes give NET_RAW to every container, and those of a pod share one network."""
    idle = {"image": images()["busybox"], "imagePullPolicy": "IfNotPresent", "command": ["sleep", "9999"]}
    body = pool("beside", images()["python"], replicas=1)
    body["spec"]["template"]["spec"]["containers"].append({**idle, "name": "beside"})
    shared.apply(body)
    plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain"}}
    shared.apply({**plain, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{**idle, "name": "plain"}]}})
    shared.kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=60s")
    shared.pool_ready("beside", 1)
    (pod,) = [each["metadata"]["name"] for each in shared.all("pods", "-l", "arl.infra.io/pool=beside")]
    assert has_net_raw(shared, "plain", "plain"), "control"
    assert not has_net_raw(shared, pod, "beside")
    shared.kubectl("delete", "warmpool/beside", "pod/plain")
