"""Checks of ``pytest-arl doctor`` in a namespace: pools, their pods, and what bounds these."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_arl.cli.cluster import items
from pytest_arl.cli.findings import bad, good, note, warn
from pytest_arl.cli.list_pools import cluster_pools
from pytest_arl.cli.reasons import cure_of
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import condition, status_of
from pytest_arl.cluster.pod import POOL_LABEL, STATUS_IDLE, STATUS_LABEL
from pytest_arl.errors import InfrastructureError
from pytest_arl.settings import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.cli.cluster import Cluster, Json
    from pytest_arl.cli.findings import Finding
    from pytest_arl.cli.list_pools import ClusterPool
    from pytest_arl.settings import Settings

__all__ = ["examine_nodes", "examine_pools", "why_not_ready"]

_STARTING = "Starting"
"""The reason of a pool that lacks pods and knows no trouble: as after all its sandboxes were claimed."""
_NODES = 5
"""Nodes to ask for their limits: in a cluster of many they are alike."""


def examine_pools(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    """Each pool of the namespace, and whether the configured one is there."""
    try:
        pools = cluster_pools(cluster, cluster.namespace)
    except InfrastructureError as error:
        yield note(f"the pools of {cluster.namespace} could not be read: {error}")
        return
    if not pools:
        yield bad(f"no pool in namespace {cluster.namespace}", "make a WarmPool: docs/cluster.md shows one")
        return
    wanted = settings["pool"]
    if wanted.source != DEFAULT and wanted.value not in {pool.name for pool in pools}:
        yield warn(
            f"the configured pool {wanted.value!r} ({wanted.source}) is not in namespace {cluster.namespace}",
            f"pools there: {', '.join(pool.name for pool in pools)}",
        )
    for pool in pools:
        yield _pool(cluster, pool)


def _pool(cluster: Cluster, pool: ClusterPool) -> Finding:
    said = f"pool {pool.name} ({pool.image}): {pool.ready} of {pool.desired} ready, {pool.allocated} in use"
    if pool.ready or not pool.desired:
        return good(said)
    reasons = _reasons(cluster, pool)
    if not reasons and pool.status == _STARTING:
        return note(f"{said}; its pods are starting", "look again in a moment")
    cure = next(filter(None, map(cure_of, [*(reason for reason, _ in reasons), pool.status])), "")
    cure = cure or f"kubectl -n {pool.namespace} describe warmpool {pool.name}"
    shown = "; ".join(f"{reason} ({count}): {message}" for (reason, message), count in reasons.items())
    return bad(f"{said}; {shown or f'{pool.status}: {pool.message}'.rstrip(': ')}", cure)


def _reasons(cluster: Cluster, pool: ClusterPool) -> Counter[tuple[str, str]]:
    """The reasons why its idle pods are not ready, with how many pods have each."""
    selector = f"{POOL_LABEL}={pool.name},{STATUS_LABEL}={STATUS_IDLE}"
    try:
        pods = [*items(cluster, path("pods", pool.namespace), labelSelector=selector)]
    except InfrastructureError:
        return Counter()
    return Counter(reason for pod in pods for reason in [why_not_ready(pod)] if reason is not None)


def why_not_ready(pod: Json) -> tuple[str, str] | None:
    """Reason and message in the kubelet's or the scheduler's words; None for a pod that is ready, or is starting."""
    said = status_of(pod)
    for container in (*(said.get("initContainerStatuses") or ()), *(said.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return str(waiting["reason"]), str(waiting.get("message", ""))
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        reason = str(scheduled.get("reason", "Unschedulable"))
        # Gated by the operator, which lets pods start one after another.
        return None if reason == "SchedulingGated" else (reason, str(scheduled.get("message", "")))
    if said.get("phase") == "Failed":
        return str(said.get("reason") or "Failed"), str(said.get("message", ""))
    return None


# --- what bounds the processes of a pod


def examine_nodes(cluster: Cluster) -> Iterator[Finding]:
    """Check that a fork bomb in a pod ends at a limit of the pod: only the kubelet can set one."""
    try:
        nodes = [str(node["metadata"]["name"]) for node in items(cluster, "/api/v1/nodes")][:_NODES]
        limits = {node: _pids(cluster, node) for node in nodes}
    except InfrastructureError:
        yield note(
            "this user may not see the kubelets' podPidsLimit",
            "without one, only the agent protects the node from a fork bomb: ask the cluster's administrator",
        )
        return
    unbounded = [node for node, limit in limits.items() if limit is not None and limit <= 0]
    if unbounded:
        yield warn(
            f"no podPidsLimit on {', '.join(unbounded)}: only the agent protects the node from a fork bomb",
            "podPidsLimit: 1024 in the KubeletConfiguration (with kind: kubeadmConfigPatches, see docs/cluster.md)",
        )
    elif any(limits.values()):
        yield good(f"podPidsLimit {', '.join(sorted({str(limit) for limit in limits.values() if limit}))}")


def _pids(cluster: Cluster, node: str) -> int | None:
    answer = cluster.get(f"/api/v1/nodes/{node}/proxy/configz") or {}
    limit = (answer.get("kubeletconfig") or {}).get("podPidsLimit")
    return None if limit is None else int(limit)
