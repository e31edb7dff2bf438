"""Pools, claims, reasons, times: what the operator promises, on a real cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.installation import images, pool
from tests.cluster.operator_room import Json, Room, command, room

pytestmark = pytest.mark.timeout(300)

MISSING = "registry.invalid/nothing:1"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with room(tmp_path_factory.mktemp("operator") / "log") as found:
        yield found


def why(body: Json, kind: str = "Ready") -> tuple[str, str]:
    for each in body.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return each["reason"], each["message"]
    return "", ""


# Claims


def test_no_two_sandboxes_ever_get_one_pod(shared: Room) -> None:
    shared.pool("race", replicas=4)
    shared.pool_ready("race", 4)
    for number in range(8):
        shared.sandbox(f"race-{number}", "race")
    pods = [shared.ready(f"race-{number}")["status"]["podName"] for number in range(8)]
    assert len(set(pods)) == 8
    for number, pod in enumerate(pods):
        (owner,) = (shared.get("pod", pod) or {})["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Sandbox", f"race-{number}")
    shared.kubectl("delete", "warmpool", "race")
    # Claimed pods are no longer the pool's.
    assert shared.run("race-0", "true")["state"] == "Succeeded"
    shared.kubectl("delete", "sandbox", *(f"race-{number}" for number in range(8)))
    for pod in pods:
        shared.until("pod", pod, lambda body: body == {})


def test_a_pool_refills_and_a_used_pod_is_not_used_again(shared: Room) -> None:
    shared.pool_ready("python", 1)
    shared.sandbox("first")
    pod = shared.ready("first")["status"]["podName"]
    shared.run("first", "sh", "-c", "echo secret > /workspace/left")
    shared.kubectl("delete", "sandbox", "first")
    shared.until("pod", pod, lambda body: body == {})
    shared.pool_ready("python", 1)
    shared.sandbox("second")
    assert shared.ready("second")["status"]["podName"] != pod
    assert shared.run("second", "ls", "/workspace")["stdout"] == ""


def test_other_resources_than_the_pools_get_a_pod_of_their_own(shared: Room) -> None:
    shared.sandbox("large", resources={"requests": {"memory": "32Mi"}, "limits": {"memory": "300Mi"}})
    pod = shared.get("pod", shared.ready("large")["status"]["podName"]) or {}
    (executor,) = [each for each in pod["spec"]["containers"] if each["name"] == "executor"]
    assert executor["resources"]["limits"]["memory"] == "300Mi"


# Reasons


def test_an_image_that_is_not_there_is_told_in_kubelets_words(shared: Room) -> None:
    shared.pool("imageless", image=MISSING)
    shared.sandbox("imageless", "imageless")
    body = shared.until("sandbox", "imageless", lambda body: why(body)[0] in ("ErrImagePull", "ImagePullBackOff"))
    assert MISSING in why(body)[1]
    pool = shared.until("warmpool", "imageless", lambda body: "ImagePull" in why(body, "Degraded")[0])
    assert MISSING in why(pool, "Degraded")[1]
    shared.kubectl("delete", "sandbox,warmpool", "imageless")


def test_a_pod_that_fits_nowhere_is_told_in_the_schedulers_words(shared: Room) -> None:
    generous = pool("generous", images()["python"], replicas=0)
    generous["spec"]["sandbox"] = {"maxResources": {"cpu": 5000}}
    shared.apply(generous)
    shared.sandbox("huge", "generous", resources={"requests": {"cpu": "5000"}})
    body = shared.until("sandbox", "huge", lambda body: why(body)[0] == "Unschedulable")
    assert "Insufficient cpu" in why(body)[1]
    shared.kubectl("delete", "sandbox/huge", "warmpool/generous")


def test_a_quota_is_told_and_when_it_is_lifted_the_sandbox_comes(shared: Room) -> None:
    shared.pool("empty", replicas=0)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    shared.apply(quota)
    shared.until("resourcequota", "none", lambda body: "hard" in body.get("status", {}))
    try:
        shared.sandbox("poor", "empty")
        body = shared.until("sandbox", "poor", lambda body: why(body)[0] == "QuotaExceeded")
        assert "exceeded quota: none" in why(body)[1]
        shared.pool("quotaed")
        pool = shared.until("warmpool", "quotaed", lambda body: why(body, "Degraded")[0] == "QuotaExceeded")
        assert "exceeded quota: none" in why(pool, "Degraded")[1]
        shared.kubectl("delete", "warmpool", "quotaed")
    finally:
        shared.kubectl("delete", "resourcequota", "none")
    shared.ready("poor")
    shared.kubectl("delete", "sandbox", "poor")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"container": {"livenessProbe": {"exec": {"command": ["true"]}}}}, "livenessProbe cannot be used"),
        ({"container": {"volumMounts": []}}, 'unknown field "spec.containers[1].volumMounts"'),
        ({"hostNetwork": True}, "hostNetwork cannot be used"),
        ({"container": {"env": [{"name": "A B", "valueFrom": {"x": 1}}]}}, "valueFrom"),
    ],
)
def test_a_template_that_is_wrong_is_told_and_reaches_the_sandbox(shared: Room, change: Json, words: str) -> None:
    shared.pool("wrong", **change)
    body = shared.until("warmpool", "wrong", lambda body: why(body)[0] == "TemplateInvalid")
    assert words in why(body)[1]
    shared.sandbox("wronged", "wrong")
    told = shared.until("sandbox", "wronged", lambda body: why(body)[0] == "TemplateInvalid")
    assert words in why(told)[1]
    shared.kubectl("delete", "sandbox/wronged", "warmpool/wrong")


def test_resources_that_no_pod_can_have_are_refused_with_a_sentence(shared: Room) -> None:
    shared.sandbox("absurd", resources={"requests": {"memory": "200Mi"}, "limits": {"memory": "100Mi"}})
    body = shared.until("sandbox", "absurd", lambda body: body.get("status", {}).get("phase") == "Failed")
    assert why(body)[0] == "PodInvalid"
    assert "spec.resources.requests.memory is 200Mi, more than the limit of 100Mi: lower the request" in why(body)[1]
    shared.kubectl("delete", "sandbox", "absurd")


def test_an_eviction_is_told_with_its_reason(shared: Room) -> None:
    shared.sandbox("evicted")
    pod = shared.ready("evicted")["status"]["podName"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": shared.namespace}}
    where = f"/api/v1/namespaces/{shared.namespace}/pods/{pod}/eviction"
    shared.kubectl("create", "--raw", where, "-f", "-", text=json.dumps(eviction))
    body = shared.until("sandbox", "evicted", lambda body: body["status"]["phase"] == "Failed", 20)
    assert why(body)[0] == "EvictionByEvictionAPI"
    status = shared.run("evicted", "true")
    assert why({"status": status}, "Failed")[0] == "SandboxFailed"
    assert "Evict" in why({"status": status}, "Failed")[1]
    shared.kubectl("delete", "sandbox", "evicted")


def test_a_pool_that_is_not_there_is_told_with_those_that_are(shared: Room) -> None:
    shared.sandbox("lonely", "no-such-pool")
    body = shared.until("sandbox", "lonely", lambda body: why(body)[0] == "PoolNotFound", 5)
    assert "python" in why(body)[1]
    assert shared.namespace in why(body)[1]
    shared.until("sandbox", "lonely", lambda body: body["status"]["phase"] == "Failed", 20)
    shared.kubectl("delete", "sandbox", "lonely")


def test_a_pool_that_comes_after_its_sandbox_is_found(shared: Room) -> None:
    shared.sandbox("early", "late")
    shared.until("sandbox", "early", lambda body: why(body)[0] == "PoolNotFound", 5)
    shared.pool("late")
    shared.ready("early")
    shared.kubectl("delete", "sandbox/early", "warmpool/late")


def test_a_container_that_runs_out_of_memory_is_told(shared: Room) -> None:
    """The agent's own memory counts in the pod's limit: what kills it ends the sandbox, with the kernel's reason."""
    limits = {"limits": {"memory": "64Mi"}, "requests": {"memory": "32Mi", "cpu": "5m"}}
    shared.sandbox("small", resources=limits)
    shared.ready("small")
    eats = "x = bytearray(500 * 1024 * 1024)"
    status = shared.run("small", "python3", "-c", eats)
    if "exitCode" in status:
        (step,) = status["steps"]
        assert (step["outcome"], step["limit"]) == ("OutOfMemory", "memory 64Mi")
    else:
        assert shared.reason("small") == "OOMKilled"
    shared.kubectl("delete", "sandbox", "small")


# Tasks


def test_a_task_that_is_cancelled_ends_and_the_rest_is_skipped(shared: Room) -> None:
    shared.sandbox("cancel")
    shared.ready("cancel")
    task = command("cancel-1", "cancel", "sleep", "60")
    task["spec"]["steps"].append({"name": "never", "type": "Command", "command": ["true"]})
    shared.tasks(task, command("cancel-2", "cancel", "true"))
    shared.until("task", "cancel-1", lambda body: body.get("status", {}).get("state") == "Running")
    patch = json.dumps({"spec": {"cancel": True}})
    shared.kubectl("patch", "task", "cancel-2", "--type=merge", "-p", patch)
    began = time.monotonic()
    shared.kubectl("patch", "task", "cancel-1", "--type=merge", "-p", patch)
    first, second = shared.finished("cancel-1"), shared.finished("cancel-2")
    assert time.monotonic() - began < 10
    assert [step["outcome"] for step in first["steps"]] == ["Cancelled", "Skipped"]
    assert [step["outcome"] for step in second["steps"]] == ["Cancelled"]
    assert (first["exitCode"], second["exitCode"]) == (137, 137)
    shared.kubectl("delete", "sandbox", "cancel")


def test_statuses_of_steps_appear_as_the_steps_finish(shared: Room) -> None:
    shared.sandbox("steps")
    shared.ready("steps")
    task = command("steps-1", "steps", "echo", "one")
    task["spec"]["steps"].append({"name": "long", "type": "Command", "command": ["sleep", "5"]})
    shared.tasks(task)
    body = shared.until("task", "steps-1", lambda body: body.get("status", {}).get("steps"))
    assert body["status"]["state"] == "Running"
    assert [step["stdout"] for step in body["status"]["steps"]] == ["one\n"]
    assert [step["outcome"] for step in shared.finished("steps-1")["steps"]] == ["Succeeded", "Succeeded"]
    shared.kubectl("delete", "sandbox", "steps")


def test_a_timeout_of_the_task_ends_its_step(shared: Room) -> None:
    shared.sandbox("timed")
    shared.ready("timed")
    shared.tasks(command("timed-1", "timed", "sleep", "60", timeout="500ms"))
    status = shared.finished("timed-1")
    (step,) = status["steps"]
    assert (step["outcome"], status["exitCode"]) == ("TimedOut", 124)
    assert why({"status": status}, "Failed")[0] == "TimedOut"
    shared.kubectl("delete", "sandbox", "timed")


@pytest.mark.parametrize("byte", ["\\0", "x", "\\n", "<"])
def test_a_megabyte_of_any_byte_has_a_status(shared: Room, byte: str) -> None:
    shared.sandbox("mega")
    shared.ready("mega")
    status = shared.run("mega", "python3", "-c", f"import sys; sys.stdout.write('{byte}' * 1_000_000)")
    (step,) = status["steps"]
    assert (status["exitCode"], step["stdoutSize"], step["truncated"]) == (0, 1_000_000, True)
    assert len(step["stdout"]) > 10_000
    shared.kubectl("delete", "sandbox", "mega")


def test_what_a_task_holds_is_in_no_log(shared: Room) -> None:
    shared.sandbox("quiet")
    shared.ready("quiet")
    task = command("quiet-1", "quiet", "sh", "-c", "echo hunter2-out $SECRET; exit 3")
    task["spec"]["steps"][0]["env"] = {"SECRET": "hunter2-env"}
    task["spec"]["steps"].insert(0, {"name": "f", "type": "FilePatch", "path": "f", "content": "hunter2-content"})
    shared.tasks(task)
    assert shared.finished("quiet-1")["exitCode"] == 3
    log = shared.log()
    assert "quiet-1" in log
    assert "hunter2" not in log
    shared.kubectl("delete", "sandbox", "quiet")


# Times


def test_a_finished_task_goes_after_its_ttl(shared: Room) -> None:
    shared.sandbox("ttl")
    shared.ready("ttl")
    shared.tasks(command("ttl-1", "ttl", "true", ttlSecondsAfterFinished=1), command("ttl-2", "ttl", "true"))
    shared.finished("ttl-2")
    shared.until("task", "ttl-1", lambda body: body == {}, 15)
    assert shared.get("task", "ttl-2") is not None
    shared.kubectl("delete", "sandbox", "ttl")
    shared.until("task", "ttl-2", lambda body: body == {}, 30)


def test_idle_and_old_sandboxes_end(shared: Room) -> None:
    shared.sandbox("idle", idleTimeoutSeconds=3)
    shared.tasks(command("idle-1", "idle", "sleep", "6"))
    assert shared.finished("idle-1")["state"] == "Succeeded"  # a running task is not idle
    shared.sandbox("old", maxLifetimeSeconds=1)
    shared.sandbox("kept")
    shared.ready("kept")
    for name in ("idle", "old"):
        shared.until("sandbox", name, lambda body: body == {}, 20)
    assert shared.get("sandbox", "kept") is not None
    shared.kubectl("delete", "sandbox", "kept")


def test_a_lease_that_nobody_renews_takes_its_sandboxes_along(shared: Room) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "arl-run-1", "labels": {"arl.infra.io/run": "1", "arl.infra.io/lease": "arl-run-1"}},
        "spec": {"holderIdentity": "arl-run-1", "leaseDurationSeconds": 12, "renewTime": "1999-01-01T00:00:00.000000Z"},
    }
    shared.apply(lease)
    uid = (shared.get("lease", "arl-run-1") or {})["metadata"]["uid"]
    owner = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "arl-run-1", "uid": uid}
    shared.apply(
        {
            "apiVersion": "arl.infra.io/v1alpha1",
            "kind": "Sandbox",
            "metadata": {"name": "leased", "ownerReferences": [owner]},
            "spec": {"poolRef": "python"},
        }
    )
    pod = shared.ready("leased")["status"]["podName"]
    for kind, name in (("lease", "arl-run-1"), ("sandbox", "leased"), ("pod", pod)):
        shared.until(kind, name, lambda body: body == {}, 30)


# Images


@pytest.mark.parametrize("role", ["busybox", "pause"])
def test_an_image_without_python_or_even_a_shell_is_a_sandbox(shared: Room, role: str) -> None:
    shared.pool(role, image=images()[role])
    shared.sandbox(f"{role}-1", role)
    shared.ready(f"{role}-1")
    name = f"{role}-1-write"
    patch = {"name": "w", "type": "FilePatch", "path": "hello", "content": "hi"}
    task = command(name, f"{role}-1", "/nothing")
    task["spec"]["steps"].insert(0, patch)
    shared.tasks(task)
    status = shared.finished(name)
    assert [step.get("exitCode") for step in status["steps"]] == [0, 127]
    shared.kubectl("delete", f"sandbox/{role}-1", f"warmpool/{role}")


# The original operator


def test_the_original_operators_finalizer_does_not_keep_a_sandbox(shared: Room) -> None:
    shared.sandbox("legacy")
    shared.ready("legacy")
    patch = {"metadata": {"finalizers": ["arl.infra.io/sandbox-finalizer"]}}
    shared.kubectl("patch", "sandbox", "legacy", "--type=merge", "-p", json.dumps(patch))
    shared.kubectl("delete", "sandbox", "legacy", "--wait=false")
    shared.until("sandbox", "legacy", lambda body: body == {}, 15)
