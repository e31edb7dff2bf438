"""The commands against a real cluster: what the doctor finds there, what gc takes away, what an ordinary account sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.installation import Installation, pool

Json = dict[str, Any]


def run(installation: Installation, *words: str, kubeconfig: str = "") -> tuple[int, str]:
    """The exit code of a command, and all that it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_ARL_")}
    command = [sys.executable, "-m", "pytest_arl.cli", *words, "-n", installation.namespace]
    done = subprocess.run(
        command,
        env={**environment, "KUBECONFIG": kubeconfig or os.environ["KUBECONFIG"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def doctor(installation: Installation, **options: str) -> tuple[int, str]:
    own = ("--operator-namespace", installation.operator_namespace)
    return run(installation, "doctor", "--backend", "kubernetes", *own, **options)


# --- doctor


def test_the_doctor_finds_a_fresh_installation_well(installation: Installation, python_pool: str) -> None:
    code, said = doctor(installation)
    assert code == 0, said
    assert "MISSING" not in said
    assert "custom resources arl.infra.io/v1alpha1, as this version has them" in said
    assert f"leads in namespace {installation.operator_namespace}" in said
    assert f"pool {python_pool} (" in said


def test_the_doctor_says_why_a_pool_has_no_pods(installation: Installation) -> None:
    installation.apply(pool("no-image", "localhost/no-such-image:1", replicas=1))
    try:
        installation.wait("condition=Ready=False", "warmpool/no-image")
        code, said = _when(lambda: doctor(installation), lambda answer: "Image" in answer[1])
        assert code == 1, said
        assert "MISSING  pool no-image" in said
        assert "check the image's name in the pool's template" in said
    finally:
        installation.kubectl("delete", "warmpool/no-image")


def _when(look: Any, seen: Any, tries: int = 15) -> Any:
    """What `look` gives once `seen` is content: the kubelet takes a moment to give its reason."""
    for _ in range(tries):
        answer = look()
        if seen(answer):
            return answer
    return answer


def test_the_doctor_tells_the_operator_s_absence(installation: Installation) -> None:
    elsewhere = ("--operator-namespace", "default")
    code, said = run(installation, "doctor", "--backend", "kubernetes", *elsewhere)
    assert code == 1
    assert "no operator has ever run in namespace default" in said


def test_a_cluster_that_is_away_is_said_in_seconds(installation: Installation, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    text = installation.kubectl("config", "view", "--raw", "--flatten", "-o", "json").stdout
    config = json.loads(text)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    kubeconfig.write_text(json.dumps(config))
    began = datetime.now(UTC)
    code, said = doctor(installation, kubeconfig=str(kubeconfig))
    assert datetime.now(UTC) - began < timedelta(seconds=20)
    assert code == 1
    assert "cannot reach the cluster" in said
    assert "Traceback" not in said


@pytest.fixture
def ordinary(installation: Installation, tmp_path: Path) -> Iterator[str]:
    """The kubeconfig of an account that may do nothing yet; it is called `ordinary`."""
    installation.kubectl("create", "serviceaccount", "ordinary")
    token = installation.kubectl("create", "token", "ordinary").stdout.strip()
    config = json.loads(installation.kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "ordinary"
    path.write_text(json.dumps(config))
    yield str(path)
    installation.kubectl("delete", "serviceaccount/ordinary")
    installation.kubectl("delete", "rolebinding/ordinary", "--ignore-not-found")


def test_the_doctor_names_the_rights_that_are_missing_and_their_rule(
    installation: Installation, ordinary: str, python_pool: str
) -> None:
    code, said = doctor(installation, kubeconfig=ordinary)
    assert code == 1
    assert "MISSING  this user may not" in said
    assert f"kubectl create rolebinding arl-user -n {installation.namespace} --clusterrole arl-user" in said
    account = f"--serviceaccount={installation.namespace}:ordinary"
    installation.kubectl("create", "rolebinding", "ordinary", "--clusterrole=arl-user", account)
    code, said = doctor(installation, kubeconfig=ordinary)
    assert code == 0, said
    assert "this user has the rights that tests need for" in said
    assert f"leads in namespace {installation.operator_namespace}" in said


# --- pools


def test_pools_are_listed_as_they_are(installation: Installation, python_pool: str) -> None:
    code, said = run(installation, "pools", "--backend", "kubernetes", "-o", "json")
    assert code == 0, said
    (found,) = [one for one in json.loads(said)["kubernetes"] if one["name"] == python_pool]
    assert (found["desired"], found["status"]) == (2, "Ready")


def test_pools_of_a_namespace_without_any_are_none(installation: Installation) -> None:
    code, said = run(installation, "pools", "--backend", "kubernetes", "-n", "kube-public")
    assert code == 0
    assert said


# --- gc


def lease(run_id: str, *, renewed: timedelta) -> Json:
    when = (datetime.now(UTC) - renewed).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": f"lease-{run_id}", "labels": {"arl.infra.io/run": run_id}},
        "spec": {"holderIdentity": "a test", "leaseDurationSeconds": 60, "renewTime": when},
    }


def sandbox(name: str, run_id: str | None, *, kept: bool = False) -> Json:
    labels = {"arl.infra.io/run": run_id} if run_id else {}
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "Sandbox",
        "metadata": {"name": name, "labels": labels},
        "spec": {"poolRef": "no-such-pool", "keepAlive": kept},
    }


def there(installation: Installation) -> set[str]:
    found = installation.get("sandboxes,leases")["items"]
    return {thing["metadata"]["name"] for thing in found if thing["metadata"]["name"].startswith(("gc-", "lease-gc-"))}


def test_gc_takes_what_ended_runs_left_and_nothing_else(installation: Installation) -> None:
    installation.apply(
        lease("gc-lives", renewed=timedelta(0)),
        sandbox("gc-1", "gc-lives"),
        sandbox("gc-2", "gc-over"),
        sandbox("gc-3", "gc-over", kept=True),
        sandbox("gc-4", None),
    )
    try:
        _, dry = run(installation, "gc", "--dry-run")
        assert "would remove 1 Sandbox of run gc-over" in dry
        assert there(installation) == {"lease-gc-lives", "gc-1", "gc-2", "gc-3", "gc-4"}
        code, said = run(installation, "gc")
        assert code == 0, said
        assert there(installation) == {"lease-gc-lives", "gc-1", "gc-3", "gc-4"}
        run(installation, "gc", "--kept")
        assert there(installation) == {"lease-gc-lives", "gc-1", "gc-4"}
        run(installation, "gc", "--run", "gc-lives")
        assert there(installation) == {"gc-4"}
    finally:
        names = [f"sandbox/gc-{number}" for number in range(1, 5)]
        installation.kubectl("delete", "lease/lease-gc-lives", *names, "--ignore-not-found")
