"""An installation does what docs/cluster.md says, is allowed what it needs, and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.installation import Installation, manifests, pool, stream

Json = dict[str, Any]

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```yaml\n# ([\w-]+\.yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CONSOLES = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(installation: Installation, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who reads docs/cluster.md: its files, and a kubectl in a namespace."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(_for_this_cluster(text, installation))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(installation.kubectl("config", "view", "--raw", "--flatten").stdout)
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PWD": str(tmp_path)}
    command = ["kubectl", "config", "set-context", "--current", f"--namespace={installation.namespace}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return environment


def _for_this_cluster(text: str, installation: Installation) -> str:
    return re.sub(r"image: python:\S+", f"image: {installation.images['python']}", text)


def typed(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=environment["PWD"], env=environment, capture_output=True, text=True, check=False
    )
    return f"{done.stdout}{done.stderr}".rstrip("\n")


@pytest.mark.timeout(300)
def test_the_page_s_session_goes_as_it_is_printed(installation: Installation, desk: dict[str, str]) -> None:
    assert len(CONSOLES) >= 4
    try:
        for console in CONSOLES:
            for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", console, re.MULTILINE):
                assert typed(command, desk) == printed.rstrip("\n"), f"$ {command}\n{installation.report()}"
        _two_tasks_ran_at_the_same_time_in_two_pods(installation)
    finally:
        made = ["sandbox/demo", "sandbox/left", "sandbox/right", "task/nowhere", "warmpool/python-39-std"]
        installation.kubectl("delete", *made, "--ignore-not-found")


def _two_tasks_ran_at_the_same_time_in_two_pods(installation: Installation) -> None:
    status = {name: installation.get("task", name)["status"] for name in ("on-the-left", "on-the-right")}
    left, right = status.values()
    assert left["steps"][0]["stdout"].strip()
    assert left["steps"][0]["stdout"] != right["steps"][0]["stdout"]
    spans = [[datetime.fromisoformat(one[key]) for key in ("startTime", "completionTime")] for one in (left, right)]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans), spans


def test_the_examples_pool_is_that_of_the_page() -> None:
    shipped = (Path(__file__).parents[2] / "conftest_examples" / "pools.yaml").read_text(encoding="utf-8")
    first = re.sub(r"^#.*\n", "", shipped, flags=re.MULTILINE).split("---\n")[0]
    assert first == FILES["pool.yaml"]


# --- the stream


def test_applying_again_changes_nothing(installation: Installation) -> None:
    text = stream(installation)
    lines = installation.kubectl("apply", "--dry-run=server", "-f", "-", text=text, namespace="").stdout
    changed = [line for line in lines.splitlines() if not line.endswith("unchanged (server dry run)")]
    # What another run's version of this package changed for all is not this test's.
    assert [line for line in changed if installation.namespace in line or "customresource" not in line] == []
    other = text.replace("replicas: 1 ", "replicas: 2 ")
    assert "deployment.apps/arl-operator configured" in (
        installation.kubectl("apply", "--dry-run=server", "-f", "-", text=other, namespace="").stdout
    )


def test_the_api_server_takes_the_form_for_all_namespaces(installation: Installation) -> None:
    text = manifests("--everywhere", "--namespace", "default", "--sandboxes", "default")
    done = installation.kubectl("apply", "--dry-run=server", "-f", "-", text=text, namespace="")
    assert "clusterrolebinding.rbac.authorization.k8s.io/arl-operator-default" in done.stdout


# --- rights


def may(installation: Installation, account: str, *words: str, namespace: str) -> bool:
    done = installation.kubectl("auth", "can-i", *words, f"--as={account}", namespace=namespace, check=False)
    assert done.stdout.strip() in ("yes", "no"), done.stderr
    return done.stdout.strip() == "yes"


def test_the_operator_has_its_rights_where_it_serves_and_nowhere_else(installation: Installation) -> None:
    account = f"system:serviceaccount:{installation.operator_namespace}:arl-operator"
    for words in (("create", "pods"), ("patch", "sandboxes.arl.infra.io", "--subresource=status"), ("list", "leases")):
        assert may(installation, account, *words, namespace=installation.namespace), words
        assert not may(installation, account, *words, namespace="default"), words


def test_the_operator_reads_one_secret(installation: Installation) -> None:
    account = f"system:serviceaccount:{installation.operator_namespace}:arl-operator"
    own = installation.operator_namespace
    assert may(installation, account, "get", "secret/arl-operator-key", namespace=own)
    assert not may(installation, account, "get", "secret/another", namespace=own)
    assert not may(installation, account, "list", "secrets", namespace=own)
    assert not may(installation, account, "get", "secret/arl-operator-key", namespace=installation.namespace)
    assert installation.get("-n", own, "secret", "arl-operator-key")["data"]


def test_who_runs_tests_may_do_that_and_make_no_pods(installation: Installation) -> None:
    installation.kubectl("create", "serviceaccount", "runner")
    installation.kubectl(
        "create", "rolebinding", "runner", "--clusterrole=arl-user", f"--serviceaccount={installation.namespace}:runner"
    )
    account = f"system:serviceaccount:{installation.namespace}:runner"
    here = installation.namespace
    allowed = ["create sandboxes", "create tasks", "watch tasks", "list warmpools", "create leases"]
    allowed += ["create pods --subresource=portforward", "get pods --subresource=portforward"]
    refused = ["create pods", "create warmpools", "get secrets", "update leases"]
    refused += ["create pods --subresource=exec", "patch tasks --subresource=status"]
    assert [line for line in allowed if not may(installation, account, *line.split(), namespace=here)] == []
    assert [line for line in refused if may(installation, account, *line.split(), namespace=here)] == []
    # Whether the operator lives, everybody may see; nothing else of its namespace.
    own = installation.operator_namespace
    assert may(installation, account, "get", "lease/arl-operator", namespace=own)
    assert not may(installation, account, "list", "leases", namespace=own)


def test_the_operator_leads_by_its_lease(installation: Installation) -> None:
    lease = installation.get("-n", installation.operator_namespace, "lease", "arl-operator")
    assert lease["spec"]["holderIdentity"]


# --- pods


def test_pods_are_what_pod_security_restricted_asks_for(installation: Installation) -> None:
    namespace = installation.restricted_namespace
    text = _for_this_cluster(FILES["restricted.yaml"], installation)
    installation.kubectl("apply", "-f", "-", text=text, namespace=namespace)
    installation.wait("condition=Ready", "warmpool/restricted", namespace=namespace)
    installation.kubectl("apply", "-f", "-", text=_whoami(), namespace=namespace)
    installation.wait("jsonpath={.status.state}=Succeeded", "task/whoami", namespace=namespace)
    status = installation.get("-n", namespace, "task", "whoami")["status"]
    assert status["steps"][0]["stdout"] == "1000\n"
    installation.kubectl("delete", "sandbox/whoami", "warmpool/restricted", namespace=namespace)


def test_what_restricted_refuses_is_said_by_the_pool(installation: Installation) -> None:
    namespace = installation.restricted_namespace
    installation.kubectl("apply", "-f", "-", text=str(pool("root", installation.images["python"])), namespace=namespace)
    installation.wait("condition=Ready=False", "warmpool/root", namespace=namespace)

    def message() -> str:
        conditions = installation.get("-n", namespace, "warmpool", "root")["status"]["conditions"]
        return " ".join(f"{condition['reason']} {condition.get('message', '')}" for condition in conditions)

    installation.wait('jsonpath={.status.conditions[?(@.type=="Ready")].message}', "warmpool/root", namespace=namespace)
    assert "runAsNonRoot" in message(), message()
    installation.kubectl("delete", "warmpool/root", namespace=namespace)


def test_the_operator_itself_runs_under_restricted(installation: Installation) -> None:
    labels = installation.get("namespace", installation.operator_namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def stand_in(installation: Installation, name: str, **spec: Any) -> Json:
    """A pod that is to the scheduler as the operator's own."""
    there = installation.get("-n", installation.operator_namespace, "deployment", "arl-operator")
    found = there["spec"]["template"]["spec"]
    (container,) = found["containers"]
    security = {"securityContext": container["securityContext"], "imagePullPolicy": "IfNotPresent"}
    idle = {"name": "idle", "image": installation.images["busybox"], "command": ["sleep", "600"], **security}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"stands-in": "for-the-operator"}},
        "spec": {
            "securityContext": found["securityContext"],
            "terminationGracePeriodSeconds": 0,
            "containers": [idle],
            **{key: found[key] for key in ("priorityClassName",) if key in found},
            **spec,
        },
    }


@pytest.mark.timeout(600)
def test_the_operators_pod_finds_a_node_whatever_pods_want_beside_them(installation: Installation) -> None:
    """Kubernetes keeps the anti-affinity of pods that stand for those that come later. Beside sandboxes it is refused."""
    elsewhere = f"{installation.namespace}-elsewhere"
    own, nodes = installation.operator_namespace, len(installation.get("nodes")["items"])
    term = {
        "labelSelector": {"matchLabels": {"stands-in": "for-the-operator"}},
        "namespaces": [own],
        "topologyKey": "kubernetes.io/hostname",
    }
    alone = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    spread = [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
        | {"labelSelector": {"matchLabels": {"hostile": "loner"}}}
    ]
    installation.kubectl("create", "namespace", elsewhere, namespace="")
    try:
        for number in range(nodes):
            loner = stand_in(installation, f"loner-{number}", affinity=alone, topologySpreadConstraints=spread)
            loner["metadata"]["labels"] = {"hostile": "loner"}
            loner["spec"].pop("priorityClassName", None)
            installation.kubectl("apply", "-f", "-", namespace=elsewhere, text=json.dumps(loner))
        pods = [f"pod/loner-{number}" for number in range(nodes)]
        installation.wait("condition=PodScheduled", *pods, namespace=elsewhere)
        control = stand_in(installation, "control")
        control["spec"].pop("priorityClassName", None)
        installation.kubectl("apply", "-f", "-", namespace=own, text=json.dumps(control))
        installation.wait("condition=PodScheduled=False", "pod/control", namespace=own)
        assert "anti-affinity" in str(installation.get("-n", own, "pod", "control")["status"]), "control"
        installation.kubectl("delete", "pod", "control", namespace=own)
        installation.kubectl("apply", "-f", "-", namespace=own, text=json.dumps(stand_in(installation, "operator")))
        # The scheduler may see only at its look at all that wait, each five minutes, that there is room now.
        wait = ("wait", "--for=condition=PodScheduled", "pod/operator", "--timeout=130s")
        done = any(installation.kubectl(*wait, namespace=own, check=False).returncode == 0 for _ in range(3))
        assert done, installation.report()
    finally:
        installation.kubectl("delete", "namespace", elsewhere, "--wait=false", namespace="", check=False)
        installation.kubectl(
            "delete", "pod", "-l", "stands-in=for-the-operator", "--wait=false", namespace=own, check=False
        )


def test_sandboxes_are_selected_by_the_network_policy(installation: Installation, python_pool: str) -> None:
    policy = installation.get("networkpolicy", "arl-sandboxes")["spec"]
    (expression,) = policy["podSelector"]["matchExpressions"]
    for pod in installation.get("pods", "-l", f"{expression['key']}={python_pool}")["items"]:
        assert pod["spec"]["containers"]
    assert installation.get("pods", "-l", f"{expression['key']}={python_pool}")["items"]


def _whoami() -> str:
    return """
apiVersion: arl.infra.io/v1alpha1
kind: Sandbox
metadata: { name: whoami }
spec: { poolRef: restricted }
---
apiVersion: arl.infra.io/v1alpha1
kind: Task
metadata: { name: whoami }
spec:
  sandboxRef: whoami
  steps:
    - { name: id, type: Command, command: [id, -u] }
"""
