"""A WarmPool's status, from what its keeper knows."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from pytest_arl.cluster import pod as pods
from pytest_arl.cluster.objects import conditions, name
from pytest_arl.operator import exposure
from pytest_arl.text.timestamps import now

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.pod_problems import Problem
    from pytest_arl.operator.pooling import Pods

__all__ = ["Told", "pool_status", "same"]


@dataclass(frozen=True, slots=True)
class Told:
    """The state of a pool.

    Attributes:
        idle: its idle pods.
        allocated: the number of its pods in use.
        trouble: why it has fewer idle pods than it should, as far as that is known.
        network: the condition about NetworkPolicies; None where these were not looked at.
        exposed: what Secrets its template shows to steps, in a sentence.
        valid: pods can be made of its template.
        sidecar: it has the container that is left out.
    """

    idle: Pods
    allocated: int
    trouble: Problem | None
    network: Object | None
    exposed: str
    _: KW_ONLY
    valid: bool
    sidecar: bool


def pool_status(pool: Object, told: Told, task_key: str) -> Object:
    """The status; ``task_key`` is the operator's, for clients to seal theirs for."""
    wanted, ready, trouble = pool["spec"]["replicas"], len(told.idle.ready), told.trouble
    full = ready >= wanted and told.valid
    reason = "Ready" if full else trouble.reason if trouble else "Starting"
    message = "" if full else trouble.message if trouble else f"{ready} of {wanted} are ready"
    changes = [
        {"type": "Ready", "status": "True" if full else "False", "reason": reason, "message": message},
        {
            "type": "Degraded",
            "status": "True" if trouble else "False",
            "reason": trouble.reason if trouble else "AsExpected",
            "message": trouble.message if trouble else "",
        },
    ]
    if told.network is not None:
        changes.append(told.network)
    if told.sidecar:
        text = "the container `sidecar` is left out: the agent does its job"
        changes.append({"type": "SidecarLeftOut", "status": "True", "reason": "OldManifest", "message": text})
    changes += exposure.told(pool, told.exposed)
    return {
        "readyReplicas": ready,
        "allocatedReplicas": told.allocated,
        "replicas": told.idle.total,
        "selector": f"{pods.POOL_LABEL}={name(pool)},{pods.STATUS_LABEL}={pods.STATUS_IDLE}",
        "taskKey": task_key,
        "observedGeneration": pool["metadata"].get("generation", 1),
        "conditions": conditions(pool, changes, now()),
    }


def same(one: Object, other: Object) -> bool:
    """True if two statuses say the same."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
