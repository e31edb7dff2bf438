"""An installation of its own for a test run, in a real cluster: by `pytest-arl manifests | kubectl apply`, as a user's.

The cluster is $KUBECONFIG's and the images are those of $ARL_TEST_*: that all of them are set says that this cluster is there
to be changed. The operator and the sandboxes get a namespace each, with names that no other run has; the operator may touch
these only, so that many runs share a cluster. Workers of pytest-xdist share one installation: the first one makes it, the
last one takes it away. The custom resources and the ClusterRoles stay, since others may be using them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

__all__ = [
    "IMAGES",
    "Installation",
    "images",
    "installed",
    "locked",
    "manifests",
    "missing",
    "pool",
    "remove",
    "shared_folder",
    "start_operator",
    "stream",
]

Json = dict[str, Any]

IMAGES = ("agent", "operator", "python", "busybox", "pause")
_PATIENCE = 180
"""Seconds for the operator and the first pods of a pool: images may have to be pulled."""


def images() -> dict[str, str]:
    """The images to use, by their role; those that are not named are left out."""
    named = {role: os.environ.get(f"ARL_TEST_{role.upper()}_IMAGE", "") for role in IMAGES}
    return {role: name for role, name in named.items() if name}


def missing() -> str:
    """Why there is no cluster to test with; empty where there is one."""
    absent = [f"ARL_TEST_{role.upper()}_IMAGE" for role in IMAGES if role not in images()]
    if not os.environ.get("KUBECONFIG"):
        absent.insert(0, "KUBECONFIG")
    if absent:
        return f"no cluster to test with: {', '.join(absent)} not set (CONTRIBUTING.md)"
    if shutil.which("kubectl") is None:
        return "no cluster to test with: kubectl is not on the path"
    return ""


@dataclass(frozen=True)
class Installation:
    """What is installed, and kubectl in its namespace.

    Attributes:
        namespace: where pools and sandboxes are.
        restricted_namespace: another one for these, under the Pod Security level `restricted`; empty where there is none.
        operator_namespace: where the operator runs.
        hostile_namespace: a third one for pools and sandboxes, another tenant's.
    """

    namespace: str
    restricted_namespace: str
    operator_namespace: str
    hostile_namespace: str = ""

    @property
    def served(self) -> tuple[str, ...]:
        """The namespaces that the operator serves."""
        return tuple(filter(None, (self.namespace, self.restricted_namespace, self.hostile_namespace)))

    @property
    def images(self) -> dict[str, str]:
        """By role: agent, operator, python, busybox, pause."""
        return images()

    def kubectl(
        self, *words: str, text: str | None = None, namespace: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; unless told otherwise its failure is the test's. An empty namespace names none."""
        chosen = self.namespace if namespace is None else namespace
        command = ["kubectl", *(("-n", chosen) if chosen else ()), *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def get(self, *words: str) -> Json:
        """An object or a list, as JSON."""
        found: Json = json.loads(self.kubectl("get", *words, "-o", "json").stdout)
        return found

    def apply(self, *objects: Json) -> None:
        """Apply objects of ours; their kind and name say the rest."""
        text = yaml.safe_dump_all(objects)
        # Another worker of the run may have made one between kubectl's look and its request: once more, then.
        done = self.kubectl("apply", "-f", "-", text=text, check=False)
        if done.returncode != 0:
            assert "AlreadyExists" in done.stderr, f"apply: {done.stdout}{done.stderr}"
            self.kubectl("apply", "-f", "-", text=text)

    def make(self, kind: str, name: str, *words: str) -> None:
        """`kubectl create`, where another worker of the run may have done it."""
        done = self.kubectl("create", kind, name, *words, check=False)
        assert done.returncode == 0 or "already exists" in done.stderr, f"{kind} {name}: {done.stderr}"

    def refused(self, *objects: Json) -> str:
        """What the API server says to objects that it must not take."""
        done = self.kubectl("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(objects), check=False)
        assert done.returncode != 0, f"taken: {objects}"
        return done.stderr

    def wait(self, condition: str, *what: str, seconds: int = 60, namespace: str | None = None) -> None:
        """Wait for a `kubectl wait --for`. What does not come is shown with all that may say why."""
        done = self.kubectl(
            "wait", f"--for={condition}", *what, f"--timeout={seconds}s", namespace=namespace, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"{' '.join(what)} is not {condition} after {seconds} s: {done.stderr}\n{self.report()}")

    def report(self) -> str:
        """Everything of interest about both namespaces, for the message of a test that failed."""
        asked = [
            (self.namespace, "get", "pods,warmpools,sandboxes,tasks,leases", "-o", "wide"),
            (self.namespace, "get", "events", "--sort-by=.lastTimestamp"),
            (self.operator_namespace, "get", "pods,events"),
            (self.operator_namespace, "logs", "deployment/arl-operator", "--tail=60", "--all-containers"),
        ]
        parts = []
        for namespace, *words in asked:
            done = self.kubectl(*words, namespace=namespace, check=False)
            parts.append(f"$ kubectl -n {namespace} {' '.join(words)}\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
        return "\n".join(parts)


def pool(name: str, image: str, *, replicas: int = 2, container: Json | None = None, **template: Any) -> Json:
    """A WarmPool over an image; small, so that many fit onto a small machine."""
    executor = {
        "name": "executor",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "512Mi"}},
        **(container or {}),
    }
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "WarmPool",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [executor], **template}}},
    }


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run have, and no other run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def installed(shared: Path) -> Iterator[Installation]:
    """The run's installation, ready. Skips where there is no cluster."""
    if reason := missing():
        pytest.skip(reason)
    with locked(shared) as state:
        if not state.get("users"):
            state.update(asdict(_install()))
        state["users"] = state.get("users", 0) + 1
        found = Installation(**{field.name: state[field.name] for field in fields(Installation)})
    try:
        yield found
    finally:
        with locked(shared) as state:
            state["users"] -= 1
            if not state["users"]:
                remove(found)


@contextlib.contextmanager
def locked(shared: Path) -> Iterator[dict[str, Any]]:
    """What the workers know together, while no other one looks at it."""
    path = shared / "arl-cluster.json"
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        yield state
        file.seek(0)
        file.truncate()
        file.write(json.dumps(state))


def manifests(*words: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "pytest_arl.cli", "manifests", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _install() -> Installation:
    name = f"arl-test-{secrets.token_hex(4)}"
    found = Installation(name, f"{name}-restricted", f"{name}-system", f"{name}-hostile")
    for namespace in found.served:
        found.kubectl("create", "namespace", namespace, namespace="default")
    found.kubectl("label", "namespace", found.restricted_namespace, "pod-security.kubernetes.io/enforce=restricted")
    start_operator(found)
    return found


def start_operator(found: Installation) -> None:
    """Apply what the command prints, and wait until the operator runs. What is wrong with it is the test's failure."""
    found.kubectl("apply", "-f", "-", namespace="", text=stream(found))
    _wait_for_definitions(found)
    done = found.kubectl(
        "rollout",
        "status",
        "deployment/arl-operator",
        "--timeout=120s",
        namespace=found.operator_namespace,
        check=False,
    )
    if done.returncode != 0:
        report = found.report()
        remove(found)
        pytest.fail(f"the operator does not start: {done.stderr}\n{report}")


def stream(found: Installation) -> str:
    """What is applied."""
    named = images()
    return manifests(
        "--namespace", found.operator_namespace, "--create-namespace",
        *(word for namespace in found.served for word in ("--sandboxes", namespace)),
        "--operator-image", named["operator"], "--agent-image", named["agent"],
    )  # fmt: skip


def _wait_for_definitions(found: Installation) -> None:
    names = [f"crd/{plural}.arl.infra.io" for plural in ("warmpools", "sandboxes", "tasks")]
    found.wait("condition=Established", *names, namespace="default")


_POLICIES = ("pods", "workloads", "leases", "neighbours")


def remove(found: Installation) -> None:
    """Sandboxes and pods first, while their operator lives: so its own cleaning up is used by every run."""
    for namespace in found.served:
        found.kubectl("delete", "warmpools,sandboxes,tasks", "--all", "--timeout=60s", namespace=namespace, check=False)
        found.kubectl(
            "delete", f"rolebinding/arl-operator-{found.operator_namespace}", namespace=namespace, check=False
        )
        found.kubectl("delete", "networkpolicy/arl-sandboxes", namespace=namespace, check=False)
    for kind in ("validatingadmissionpolicy", "validatingadmissionpolicybinding"):
        policies = [f"{kind}/arl-{what}-{found.operator_namespace}" for what in _POLICIES]
        found.kubectl("delete", *policies, "--ignore-not-found", namespace="", check=False)
    made = [namespace for namespace in (*found.served, found.operator_namespace) if namespace != "default"]
    # What is left in them is nothing that anybody waits for.
    found.kubectl("delete", "namespace", *made, "--wait=false", namespace="default", check=False)
