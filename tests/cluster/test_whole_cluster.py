"""The way that docs/cluster.md begins with, and its end: an operator for all namespaces, and nothing left of it.

Such an operator takes every pool of the cluster for its own, and removing it removes the custom resources. So this is for
a cluster that nobody else uses meanwhile, other tests of this folder included: $ARL_TEST_WHOLE_CLUSTER says that it is one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.installation import Installation, images, manifests, missing, pool

ROOT = Path(__file__).parents[2]
POOLS = (ROOT / "conftest_examples" / "pools.yaml").read_text(encoding="utf-8")


def _why_not() -> str:
    if "ARL_TEST_WHOLE_CLUSTER" not in os.environ:
        return "ARL_TEST_WHOLE_CLUSTER is not set: this needs a cluster that nobody else uses meanwhile"
    return missing()


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_arl.cli", *words], capture_output=True, text=True, timeout=120, check=False
    )


def left(cluster: Installation) -> list[str]:
    """What the stream is made of, as far as it is there, and what came of it."""
    made = "clusterroles,clusterrolebindings,namespaces,roles,rolebindings,networkpolicies,serviceaccounts,deployments,"
    made += "validatingadmissionpolicies,validatingadmissionpolicybindings"
    found = cluster.kubectl(
        "get", made, "-A", "-l", "app.kubernetes.io/part-of=pytest-arl", "-o", "name"
    ).stdout.split()
    found += [name for name in cluster.kubectl("get", "crds", "-o", "name").stdout.split() if "arl.infra.io" in name]
    return found + cluster.kubectl("get", "pods", "-A", "-l", "arl.infra.io/pool", "-o", "name").stdout.split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Installation]:
    """Everything as `pytest-arl manifests --everywhere` prints it, but for the images' names; pools in `default`."""
    found = Installation("default", "", "arl-system")
    stream = manifests("--everywhere", "--operator-image", images()["operator"], "--agent-image", images()["agent"])
    found.kubectl("apply", "-f", "-", text=stream, namespace="")
    try:
        status = ("rollout", "status", "deployment/arl-operator", "--timeout=120s")
        assert found.kubectl(*status, namespace="arl-system", check=False).returncode == 0, found.report()
        found.kubectl("apply", "-f", "-", text=re.sub(r"image: python:\S+", f"image: {images()['python']}", POOLS))
        found.wait("condition=Ready", "warmpool/python-39-std")
        yield found
    finally:
        found.kubectl("delete", "warmpools", "-A", "--all", "--timeout=60s", namespace="", check=False)
        found.kubectl("delete", "-f", "-", text=stream, namespace="", check=False)


def test_the_readme_s_samples_pass(cluster: Installation) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *(
                "--arl-backend",
                "kubernetes",
                "--arl-pool",
                "python-39-std",
                str(ROOT / "conftest_examples" / "arl_readme"),
            ),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}{cluster.report()}"


def test_the_doctor_needs_no_options(cluster: Installation) -> None:
    done = command("doctor", "--backend", "kubernetes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "leads in namespace arl-system" in done.stdout


def test_every_namespace_is_served(cluster: Installation) -> None:
    cluster.kubectl("create", "namespace", "arl-test-elsewhere")
    try:
        elsewhere = Installation("arl-test-elsewhere", "", "arl-system")
        elsewhere.apply(pool("busybox", images()["busybox"], replicas=1))
        elsewhere.wait("condition=Ready", "warmpool/busybox")
        api = "arl.infra.io/v1alpha1"
        step = {"name": "a", "type": "Command", "command": ["true"]}
        elsewhere.apply(
            {"apiVersion": api, "kind": "Sandbox", "metadata": {"name": "s"}, "spec": {"poolRef": "busybox"}},
            {
                "apiVersion": api,
                "kind": "Task",
                "metadata": {"name": "t"},
                "spec": {"sandboxRef": "s", "steps": [step]},
            },
        )
        elsewhere.wait("jsonpath={.status.state}=Succeeded", "task/t")
    finally:
        cluster.kubectl("delete", "namespace", "arl-test-elsewhere", "--timeout=60s")


def test_removing_it_as_the_page_says_leaves_nothing(cluster: Installation) -> None:
    assert left(cluster)
    assert command("gc", "-A").returncode == 0
    cluster.kubectl("delete", "warmpools", "-A", "--all", "--timeout=60s", namespace="")
    cluster.kubectl("delete", "-f", "-", text=command("manifests", "--everywhere").stdout, namespace="")
    cluster.kubectl("wait", "--for=delete", "pods", "-A", "-l", "arl.infra.io/pool", "--timeout=60s", namespace="")
    assert left(cluster) == []
