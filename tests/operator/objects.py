"""Objects as the API server has them, for tests of what is decided about them."""

from __future__ import annotations

import itertools
from typing import Any

from pytest_arl.cluster.pod import POOL_LABEL, STATUS_IDLE, STATUS_LABEL
from pytest_arl.operator.pooling import GATE

_numbers = itertools.count(1)
T0 = "2026-01-01T00:00:00Z"


def meta(name: str, **more: Any) -> dict[str, Any]:
    number = next(_numbers)
    return {
        "name": name,
        "namespace": "ns",
        "uid": f"uid-{name}-{number}",
        "resourceVersion": str(number),
        "creationTimestamp": T0,
        "generation": 1,
        **more,
    }


GROUPS = {
    "Sandbox": "arl.infra.io/v1alpha1",
    "Lease": "coordination.k8s.io/v1",
    "ReplicaSet": "apps/v1",
    "Deployment": "apps/v1",
}


def owned_by(kind: str, uid: str, name: str = "x", **more: Any) -> list[dict[str, Any]]:
    return [{"apiVersion": GROUPS.get(kind, "v1"), "kind": kind, "name": name, "uid": uid, "controller": True, **more}]


def pod(
    name: str, *, ready: bool = True, gated: bool = False, status: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "podIP": "10.0.0.1",
        "phase": "Running" if ready else "Pending",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    return {
        "metadata": meta(name, **{"labels": {POOL_LABEL: "pool", STATUS_LABEL: STATUS_IDLE}, **more}),
        "spec": {"containers": [{"name": "executor"}], **({"schedulingGates": [{"name": GATE}]} if gated else {})},
        "status": found | (status or {}),
    }


def pool(name: str = "pool", *, replicas: int = 2, sandbox: Any = None, **container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "WarmPool",
        "metadata": meta(name),
        "spec": {
            "replicas": replicas,
            "template": {"spec": {"containers": [{"name": "executor", "image": "python:3", **container}]}},
            **({} if sandbox is None else {"sandbox": sandbox}),
        },
    }


def sandbox(name: str = "sb", *, status: Any = None, owners: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "Sandbox",
        "metadata": meta(name, **({} if owners is None else {"ownerReferences": owners})),
        "spec": {"poolRef": "pool", **spec},
        **({} if status is None else {"status": status}),
    }


def command(name: str = "s", *argv: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "Command", "command": list(argv) or ["true"], **more}


def task(name: str = "t", *steps: dict[str, Any], status: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "Task",
        "metadata": meta(name),
        "spec": {"sandboxRef": "sb", "steps": list(steps) or [command()], **spec},
        **({} if status is None else {"status": status}),
    }
