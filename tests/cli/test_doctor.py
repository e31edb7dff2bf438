"""What the doctor sees on a cluster: each thing that can be missing, with its cure, beside the same thing in order."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest
import yaml

from pytest_arl.cli import doctor
from pytest_arl.cli import main as run_main
from pytest_arl.cli.cluster_checks import examine_cluster
from pytest_arl.cli.findings import Finding, bad
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import Settings
from tests.cli.conftest import FakeCluster

Json = dict[str, Any]

OURS = "/apis/arl.infra.io/v1alpha1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/arl-system/leases/arl-operator"
POLICY = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/arl-sandboxes"
POOLS = f"{OURS}/namespaces/team/warmpools"
PODS = "/api/v1/namespaces/team/pods"
CONFIG = "/api/v1/nodes/n/proxy/configz"


def lease(*, renewed: float) -> Json:
    when = datetime.fromtimestamp(time.time() - renewed, UTC).isoformat()
    return {"metadata": {}, "spec": {"holderIdentity": "pod-1", "renewTime": when, "leaseDurationSeconds": 15}}


def pool(*, ready: int, reason: str = "Ready", message: str = "") -> Json:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": message}
    return {
        "metadata": {"name": "python", "namespace": "team"},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "executor", "image": "python:3"}]}}},
        "status": {"readyReplicas": ready, "conditions": [condition]},
    }


def waiting(reason: str, message: str) -> Json:
    return {"status": {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]}}


@pytest.fixture
def healthy(cluster: FakeCluster) -> FakeCluster:
    """A cluster on which nothing is missing."""
    cluster.objects |= {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"},
        "/api/v1/namespaces/team": {},
        OURS: {"resources": [{"name": name} for name in ("warmpools", "warmpools/status", "sandboxes", "tasks")]},
        LEASE: lease(renewed=3),
        POLICY: {},
        CONFIG: {"kubeletconfig": {"podPidsLimit": 1024}},
    }
    for plural in ("warmpools", "sandboxes", "tasks"):
        text = (resources.files("pytest_arl.cluster") / "crds" / f"{plural}.yaml").read_text()
        cluster.objects[f"{DEFINITIONS}/{plural}.arl.infra.io"] = yaml.safe_load(text)
    cluster.put_list(POOLS, pool(ready=2))
    cluster.put_list("/api/v1/nodes", {"metadata": {"name": "n"}})
    return cluster


def examine(cluster: FakeCluster, **settings: str) -> list[Finding]:
    return [*examine_cluster(cluster, Settings.build(cli=settings), "arl-system", sleep=lambda _: None)]


def troubles(cluster: FakeCluster, **settings: str) -> list[Finding]:
    return [finding for finding in examine(cluster, **settings) if finding.level != "ok"]


def test_nothing_is_missing_where_nothing_is(healthy: FakeCluster) -> None:
    assert troubles(healthy) == []
    assert len(examine(healthy)) >= 8


def one_trouble(cluster: FakeCluster, level: str, what: str, cure: str) -> None:
    """There is this one finding that is not ok, and every trouble has a cure."""
    (finding,) = troubles(cluster)
    assert finding.level == level
    assert what in finding.what
    assert cure in finding.cure


def test_an_old_cluster(healthy: FakeCluster) -> None:
    healthy.objects["/version"]["minor"] = "29+"
    one_trouble(healthy, "MISSING", "v1.34.4 at https://somewhere (context fake) is too old", "1.30")


def test_a_namespace_that_is_not_there(healthy: FakeCluster) -> None:
    del healthy.objects["/api/v1/namespaces/team"]
    one_trouble(healthy, "MISSING", "no namespace team", "kubectl create namespace team")


def test_custom_resources_that_are_not_installed(healthy: FakeCluster) -> None:
    del healthy.objects[OURS]
    one_trouble(healthy, "MISSING", "are not installed", "pytest-arl manifests | kubectl apply -f -")


def test_custom_resources_of_another_api_version(healthy: FakeCluster) -> None:
    del healthy.objects[OURS]
    healthy.objects["/apis/arl.infra.io"] = {"versions": [{"version": "v1"}]}
    one_trouble(healthy, "MISSING", "serves v1 of arl.infra.io, not v1alpha1", "pytest-arl manifests")


def test_one_custom_resource_that_is_missing(healthy: FakeCluster) -> None:
    healthy.objects[OURS] = {"resources": [{"name": "warmpools"}, {"name": "sandboxes"}]}
    one_trouble(healthy, "MISSING", "custom resources are missing: tasks", "pytest-arl manifests")


def test_custom_resources_of_another_version_of_this_package(healthy: FakeCluster) -> None:
    schema = healthy.objects[f"{DEFINITIONS}/tasks.arl.infra.io"]["spec"]["versions"][0]["schema"]
    del schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["payloadHash"]
    one_trouble(healthy, "warning", "another version than this pytest-arl: tasks", "pytest-arl manifests")


def test_a_right_without_which_no_test_runs(healthy: FakeCluster) -> None:
    healthy.refused = {("create", "sandboxes")}
    one_trouble(healthy, "MISSING", "may not create sandboxes", "kubectl create rolebinding arl-user -n team")


def test_a_right_without_which_something_is_missed(healthy: FakeCluster) -> None:
    healthy.refused = {("get", "pods/portforward"), ("create", "pods/portforward")}
    one_trouble(healthy, "warning", "may not get or create pods/portforward: no files", "--clusterrole arl-user")


def test_an_operator_that_was_never_there(healthy: FakeCluster) -> None:
    del healthy.objects[LEASE]
    healthy.put_list("/api/v1/namespaces/arl-system/pods", waiting("ImagePullBackOff", "no such image"))
    one_trouble(healthy, "MISSING", "no operator has ever run", "kubectl apply")
    assert "ImagePullBackOff: no such image" in troubles(healthy)[0].what


def test_an_operator_that_stopped(healthy: FakeCluster) -> None:
    healthy.objects[LEASE] = lease(renewed=100)
    one_trouble(
        healthy, "MISSING", "the operator is not running: pod-1 last renewed its Lease", "logs deployment/arl-operator"
    )


def test_an_operator_that_was_stopped_says_so_at_once(healthy: FakeCluster) -> None:
    healthy.objects[LEASE]["spec"]["holderIdentity"] = ""
    one_trouble(healthy, "MISSING", "the operator was stopped", "logs deployment/arl-operator")


def test_an_operator_whose_clock_differs_lives(healthy: FakeCluster) -> None:
    healthy.objects[LEASE] = lease(renewed=100)

    def sleep(_: float) -> None:
        healthy.objects[LEASE] = lease(renewed=95)

    found = [*examine_cluster(healthy, Settings.build(), "arl-system", sleep=sleep)]
    assert [finding.cure for finding in found if finding.level != "ok"] == ["set the clocks (NTP)"]


def test_a_namespace_without_the_network_policy(healthy: FakeCluster) -> None:
    del healthy.objects[POLICY]
    one_trouble(healthy, "warning", "may reach the network", "manifests --sandboxes team | kubectl apply")


def test_a_namespace_without_pools(healthy: FakeCluster) -> None:
    healthy.put_list(POOLS)
    one_trouble(healthy, "MISSING", "no pool in namespace team", "docs/cluster.md")


def test_a_configured_pool_that_is_not_there(healthy: FakeCluster) -> None:
    (finding,) = troubles(healthy, pool="pyton")
    assert finding.what == "the configured pool 'pyton' (--arl-pool) is not in namespace team"
    assert finding.cure == "pools there: python"
    assert troubles(healthy, pool="python") == []


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("ImagePullBackOff", "check the image's name"),
        ("CreateContainerConfigError", "kubectl describe pod says which"),
        ("CrashLoopBackOff", "kubectl logs says why"),
        ("Whatever", "kubectl -n team describe warmpool python"),
    ],
)
def test_a_pool_whose_pods_do_not_start(healthy: FakeCluster, reason: str, cure: str) -> None:
    healthy.put_list(POOLS, pool(ready=0, reason="NotReady"))
    healthy.put_list(PODS, waiting(reason, "in its own words"), waiting(reason, "in its own words"))
    one_trouble(healthy, "MISSING", f"0 of 2 ready, 0 in use; {reason} (2): in its own words", cure)


def test_a_pool_that_finds_no_node(healthy: FakeCluster) -> None:
    healthy.put_list(POOLS, pool(ready=0, reason="NotReady"))
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    healthy.put_list(PODS, {"status": {"conditions": [scheduled]}})
    one_trouble(healthy, "MISSING", "Unschedulable (1): 0/1 nodes", "add a node")


def test_pods_that_wait_for_their_turn_are_no_trouble(healthy: FakeCluster) -> None:
    healthy.put_list(POOLS, pool(ready=0, reason="Starting"))
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "not yet"}
    healthy.put_list(PODS, {"status": {"conditions": [gated]}})
    one_trouble(healthy, "note", "0 of 2 ready, 0 in use; its pods are starting", "in a moment")
    healthy.put_list(PODS, waiting("ErrImagePull", "no such image"))
    one_trouble(healthy, "MISSING", "ErrImagePull (1): no such image", "check the image's name")


def test_a_pool_whose_pods_are_not_even_made(healthy: FakeCluster) -> None:
    healthy.put_list(POOLS, pool(ready=0, reason="QuotaExceeded", message="exceeded quota: few"))
    one_trouble(healthy, "MISSING", "QuotaExceeded: exceeded quota: few", "ResourceQuota")


def test_nodes_without_a_limit_of_processes(healthy: FakeCluster) -> None:
    healthy.objects[CONFIG] = {"kubeletconfig": {"podPidsLimit": -1}}
    one_trouble(healthy, "warning", "no podPidsLimit on n", "podPidsLimit: 1024")


def test_a_user_with_few_rights_is_told_what_was_not_checked(healthy: FakeCluster) -> None:
    healthy.forbidden = {
        "/api/v1/namespaces/team",
        f"{DEFINITIONS}/warmpools.arl.infra.io",
        LEASE,
        POLICY,
        "/api/v1/nodes",
    }
    assert {finding.level for finding in troubles(healthy)} == {"note"}
    assert any("arl-system" in finding.what for finding in troubles(healthy))


# --- the command


def run_doctor(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster | BackendUnavailable, *words: str, configured: bool = True
) -> int:
    def connect(settings: Settings) -> FakeCluster:
        if isinstance(cluster, BackendUnavailable):
            raise cluster
        return cluster

    monkeypatch.setattr(doctor, "connect", connect)
    monkeypatch.setattr(doctor, "has_cluster", lambda settings: configured)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return run_main(["doctor", *words])


def test_a_healthy_cluster_has_no_findings(
    healthy: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(monkeypatch, healthy, "--backend", "kubernetes") == 0
    assert "MISSING" not in capsys.readouterr().out


def test_what_is_missing_counts_for_the_backend_in_question_only(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(monkeypatch, cluster, "--backend", "kubernetes") == 1
    said = capsys.readouterr().out
    assert "MISSING" in said
    assert "this machine" not in said
    monkeypatch.setenv("PYTEST_ARL_BACKEND", "kubernetes")
    assert run_doctor(monkeypatch, cluster) == 1
    assert "this machine" in capsys.readouterr().out
    monkeypatch.setenv("PYTEST_ARL_BACKEND", "local")
    assert run_doctor(monkeypatch, cluster) == 0


def test_a_machine_without_bubblewrap_is_enough_for_the_kubernetes_backend(
    healthy: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_machine", lambda settings: iter([bad("no bubblewrap", "install it")]))
    monkeypatch.setenv("PYTEST_ARL_BACKEND", "kubernetes")
    assert run_doctor(monkeypatch, healthy) == 0
    assert "  MISSING  no bubblewrap\n           install it\n" in capsys.readouterr().out
    monkeypatch.setenv("PYTEST_ARL_BACKEND", "local")
    assert run_doctor(monkeypatch, healthy) == 1


def test_a_cluster_that_is_away_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    away = BackendUnavailable("the cluster at https://x is not reached: connection refused")
    assert run_doctor(monkeypatch, away, "--backend", "kubernetes") == 1
    assert "  MISSING  the cluster at https://x is not reached" in capsys.readouterr().out


def test_without_a_kubeconfig_this_machine_alone_is_looked_at(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(monkeypatch, cluster, configured=False) == 0
    said = capsys.readouterr().out
    assert "no kubeconfig here" in said
    assert "bwrap" in said
    assert cluster.asked == []
