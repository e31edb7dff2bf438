"""Objects without what the operator does not ask of them, so that nobody's objects are its memory.

Tenants make objects of up to 1.5 MB, as many as their quota lets them. Of each the operator keeps the fields that its
decisions ask for, and each of these has a bound. A Task that waits is kept whole while it is small, and its
namespace's Tasks are together; else it is read again when it runs. How much is kept of a namespace is in
memory_shares.py.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster import pod as pods
from pytest_arl.cluster.names import GROUP
from pytest_arl.cluster.objects import MOST_MESSAGE, controller, owner_reference
from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.pod_problems import DEFAULT_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.cluster.objects import Object

__all__ = [
    "LEGACY_FINALIZER",
    "MOST_POD",
    "MOST_STATUS",
    "MOST_TEMPLATE",
    "cut",
    "is_cut",
    "is_short",
    "is_too_large",
    "outlined",
    "slim",
    "weight",
]

MOST_POD = 64 * 1024
"""Weight of what is kept of a pod's containers, and of its status. One that has more counts as one that has Failed."""

LEGACY_FINALIZER = f"{GROUP}/sandbox-finalizer"
"""The original operator's."""

MOST_TEMPLATE = 256 * 1024
"""Weight of a pool's template: it is stored three times more, in the Deployment, its ReplicaSets and each pod."""

MOST_STATUS = {"sandboxes": 32 * 1024, "tasks": 2 * 1024, "warmpools": 128 * 1024}
"""Weight of what is kept of a status. The operator's own have a message of at most 4,096 characters in a condition."""

_META = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
_LABELS = {
    "pods": (pods.POOL_LABEL, pods.STATUS_LABEL),
    "sandboxes": (pods.RUN_LABEL, pods.WORKER_LABEL),
    "leases": (pods.LEASE_LABEL, pods.RUN_LABEL),
}
_POD_ANNOTATIONS = (CLAIM, DEFAULT_CONTAINER)
_LONGEST_ANNOTATION = 512
_OWNER = {"sandboxes": "Lease", "tasks": "Sandbox"}
_REFERENCE = ("apiVersion", "kind", "name", "uid", "controller")
_LONGEST_NAME = 253
"""Characters of any name of Kubernetes' own."""
_LONGEST = {"apiVersion": 64, "kind": 64, "name": _LONGEST_NAME, "uid": 64}
"""Characters of a reference to an owner, in which the API server bounds none."""
_LEASE_SPEC = ("holderIdentity", "leaseDurationSeconds", "renewTime")
_SANDBOX_SPEC = ("poolRef", "keepAlive", "idleTimeoutSeconds", "maxLifetimeSeconds", "resources")
_HOLDER = ("secretHash", "sealedKey", "openToAll")
_WAITING_SPEC = ("sandboxRef", "cancel", "retries", "proof")
_SANDBOX_STATUS = ("phase", "podName", "podIP", "workDir", "lastTaskTime", "agentBootID", "observedGeneration")
_TASK_STATUS = ("state", "startTime")
_POD_STATUS = ("phase", "reason", "message", "conditions", "podIP", "containerStatuses", "initContainerStatuses")
_CUT, _TOO_LARGE = "stepsLeftOut", "templateLeftOut"
_MOST_DEPTH = 32
_LEAST = 16
"""Bytes of the smallest value, None."""


def weight(value: Any, most: float = math.inf) -> int:
    """Bytes that a value of JSON takes in Python, at most: a key or text that two have in common counts twice.

    Nesting that no object of ours has counts as endless. Above ``most`` no more is looked at, and only that is known.
    """
    size, left = 0, [(value, 0)]
    while left and size <= most:
        each, depth = left.pop()
        if depth > _MOST_DEPTH:
            return MOST_TEMPLATE + 1
        size += sys.getsizeof(each)
        if isinstance(each, dict):
            size += sum(map(sys.getsizeof, each))
            each = each.values()
        elif not isinstance(each, list):
            continue
        if size + _LEAST * len(each) > most:  # before a place is made for each of a million
            return size + _LEAST * len(each)
        left += [(one, depth + 1) for one in each]
    return size


def slim(kind: str, body: Object) -> Object:
    """The object as the store has it. Tasks have their whole spec: see :func:`cut`."""
    found: Object = {part: body[part] for part in ("apiVersion", "kind") if part in body}
    found["metadata"] = _meta(kind, body["metadata"])
    if kind == "pods":
        return {**found, **_pod(body)}
    if kind == "leases":
        return {**found, "spec": _short(body.get("spec") or {}, _LEASE_SPEC, _LONGEST_NAME)}
    spec, status = body["spec"], body.get("status")
    if kind == "sandboxes":
        spec = _sandbox(spec)
    found["spec"] = spec
    if status is not None:
        found["status"] = _status(kind, status)
    if kind == "warmpools" and weight(spec.get("template"), MOST_TEMPLATE) > MOST_TEMPLATE:
        return cut(kind, found)
    return found


def cut(kind: str, body: Object) -> Object:
    """The least that can be kept of a slim object: a Task without its steps, a pool without its template, a pod that
    counts as one that has Failed. Of other kinds all of it is needed.
    """
    if kind == "tasks":
        return {**body, "spec": {**_short(body["spec"], _WAITING_SPEC, _LONGEST_NAME), "steps": []}, _CUT: True}
    if kind == "warmpools":
        return {**body, "spec": {**body["spec"], "template": {}}, _TOO_LARGE: True}
    if kind == "pods":
        return {**body, **_too_large_pod()}
    return body


def is_too_large(pool: Object) -> bool:
    """True if the template of a pool was left out."""
    return bool(pool.get(_TOO_LARGE))


def is_cut(body: Object) -> bool:
    """True if a Task has to be read again before it runs."""
    return bool(body.get(_CUT))


def outlined(body: Object) -> Object:
    """A Task that was read again, while it runs: the names and types of its steps, and what else is asked of it."""
    steps = [{"name": step["name"], "type": sys.intern(step["type"])} for step in body["spec"]["steps"]]
    found, spec = cut("tasks", slim("tasks", body)), body["spec"]
    trace = {"traceID": spec["traceID"]} if "traceID" in spec else {}
    return {**found, "spec": {**found["spec"], **trace, "steps": steps}}


def _meta(kind: str, meta: Object) -> Object:
    """The fields that are read, each with a bound: Kubernetes bounds only an object as a whole."""
    found = {key: meta[key] for key in _META if key in meta}
    given = meta.get("labels") or {}
    if labels := {key: given[key] for key in _LABELS.get(kind, ()) if key in given}:
        found["labels"] = labels
    annotations = (meta.get("annotations") or {}) if kind == "pods" else {}
    if kept := {key: annotations[key] for key in _POD_ANNOTATIONS if key in annotations}:
        found["annotations"] = {key: value for key, value in kept.items() if len(value) <= _LONGEST_ANNOTATION}
    if owners := _owners(kind, meta):
        found["ownerReferences"] = owners
    if kind == "sandboxes" and LEGACY_FINALIZER in (meta.get("finalizers") or ()):
        found["finalizers"] = [LEGACY_FINALIZER]
    return found


def _owners(kind: str, meta: Object) -> list[Object]:
    """The owners that are asked for: of a pod its controller and a Sandbox, of a Sandbox a Lease, of a Task a Sandbox.

    One of each: of several the first one counts.
    """
    body = {"metadata": {"ownerReferences": list(filter(is_short, meta.get("ownerReferences") or ()))}}
    if kind == "pods":
        sandbox, its = owner_reference(body, "Sandbox"), controller(body, "Sandbox") or controller(body, "ReplicaSet")
        found = [its, None if its is sandbox else sandbox]
    else:
        found = [owner_reference(body, _OWNER[kind])] if kind in _OWNER else []
    return [{key: each[key] for key in _REFERENCE if key in each} for each in found if each is not None]


def is_short(reference: Object) -> bool:
    """True if an owner's reference has all parts, and each is no longer than Kubernetes' own are."""
    return all(0 < len(reference.get(part) or "") <= most for part, most in _LONGEST.items())


def _short(given: Object, names: Sequence[str], most: int) -> Object:
    """These fields, but for texts that are longer."""
    found = {name: given[name] for name in names if name in given}
    return {key: value for key, value in found.items() if not (isinstance(value, str) and len(value) > most)}


def _sandbox(spec: Object) -> Object:
    found = {name: spec[name] for name in _SANDBOX_SPEC if name in spec}
    holder = spec.get("holder")
    return found if holder is None else {**found, "holder": {name: holder[name] for name in _HOLDER if name in holder}}


def _status(kind: str, given: Object) -> Object:
    """The part of a status that is asked for; without its conditions where it is larger than any of the operator's."""
    if kind == "warmpools":
        return given if weight(given, MOST_STATUS[kind]) <= MOST_STATUS[kind] else {}
    found = _short(given, _TASK_STATUS if kind == "tasks" else _SANDBOX_STATUS, MOST_MESSAGE)
    whole = {**found, "conditions": given["conditions"]} if "conditions" in given else found
    return next((each for each in (whole, found) if weight(each, MOST_STATUS[kind]) <= MOST_STATUS[kind]), {})


def _pod(pod: Object) -> Object:
    """Most of a pod's spec is the same for all of a pool."""
    spec, given = pod["spec"], pod.get("status") or {}
    containers = [{key: each[key] for key in ("name", "resources") if key in each} for each in spec["containers"]]
    gates = {"schedulingGates": spec["schedulingGates"]} if spec.get("schedulingGates") else {}
    status = {key: given[key] for key in _POD_STATUS if key in given}
    if weight([containers, gates], MOST_POD) > MOST_POD or weight(status, MOST_POD) > MOST_POD:
        return _too_large_pod()
    return {"spec": {"containers": containers, **gates}, "status": status}


def _too_large_pod() -> Object:
    message = f"its object is larger than {MOST_POD // 1024} KiB, or than the room that is left for its namespace"
    return {"spec": {"containers": []}, "status": {"phase": "Failed", "reason": "TooLarge", "message": message}}
