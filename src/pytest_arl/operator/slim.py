"""Objects without what the operator does not ask of them, so that nobody's objects are its memory.

Tenants make objects of up to 1.5 MB, as many as their quota lets them. Of each the operator keeps what its decisions
need. A Task that waits is kept whole while it is small, and its namespace's Tasks are together; else its steps are
read again when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl import pod as pods
from pytest_arl.operator.objects import is_of_a_kind
from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.trouble import DEFAULT_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.operator.objects import Object

__all__ = [
    "LEGACY_FINALIZER",
    "MOST_POD",
    "MOST_REFERENCES",
    "MOST_TEMPLATE",
    "cut_task",
    "is_cut",
    "is_too_large",
    "slim",
    "weight",
]

MOST_REFERENCES = 64
"""Owners of an object that are looked at; one that has more counts as having none."""

MOST_POD = 64 * 1024
"""Weight of what is kept of a pod's containers, and of its status. One that has more counts as one that has Failed."""

LEGACY_FINALIZER = "arl.infra.io/sandbox-finalizer"
"""The original operator's."""

MOST_TEMPLATE = 256 * 1024
"""Weight of a pool's template: it is stored three times more, in the Deployment, its ReplicaSets and each pod."""

_META = frozenset(
    ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
)
_LABELS = frozenset(
    (pods.POOL_LABEL, pods.STATUS_LABEL, pods.SANDBOX_LABEL, pods.RUN_LABEL, pods.WORKER_LABEL, pods.LEASE_LABEL)
)
_POD_ANNOTATIONS = (CLAIM, DEFAULT_CONTAINER)
_LONGEST_ANNOTATION = 512
_REFERENCE = ("apiVersion", "kind", "name", "uid", "controller")
_LONGEST_NAME = 253
"""Characters of any name of Kubernetes' own. In a reference to an owner the API server bounds none."""
_LEASE_SPEC = ("holderIdentity", "leaseDurationSeconds", "renewTime")
_POD_STATUS = ("phase", "reason", "message", "conditions", "podIP", "containerStatuses", "initContainerStatuses")
_CUT, _TOO_LARGE = "stepsLeftOut", "templateLeftOut"
_OVERHEAD = 64  # bytes of a string, a list or a dict in Python, about
_MOST_DEPTH = 32


def weight(value: Any, *, depth: int = 0) -> int:
    """Bytes that a value of JSON takes in memory, about; nesting that no object of ours has counts as endless."""
    if isinstance(value, str):
        return _OVERHEAD + (len(value) if value.isascii() else 4 * len(value))
    if depth > _MOST_DEPTH:
        return MOST_TEMPLATE + 1
    if isinstance(value, dict):
        return _OVERHEAD + sum(_OVERHEAD + len(key) + weight(each, depth=depth + 1) for key, each in value.items())
    if isinstance(value, list):
        return _OVERHEAD + sum(weight(each, depth=depth + 1) for each in value)
    return _OVERHEAD // 2


def slim(kind: str, body: Object) -> Object:
    """The object as the store has it. Tasks are cut by :func:`cut_task`, where there is no room for them."""
    body = {**body, "metadata": _meta(kind, body["metadata"])}
    if kind == "pods":
        return _pod(body)
    if kind == "leases":
        return {**body, "spec": _short(body.get("spec") or {}, _LEASE_SPEC)}
    if kind == "warmpools" and weight(body["spec"].get("template")) > MOST_TEMPLATE:
        body |= {"spec": {**body["spec"], "template": {}}, _TOO_LARGE: True}
    return body


def is_too_large(pool: Object) -> bool:
    """True if the template of a pool was left out."""
    return bool(pool.get(_TOO_LARGE))


def cut_task(body: Object) -> Object:
    """A Task that waits, with the names and types of its steps only."""
    steps = [{"name": step["name"], "type": step["type"]} for step in body["spec"]["steps"]]
    return {**body, "spec": {**body["spec"], "steps": steps}, _CUT: True}


def is_cut(body: Object) -> bool:
    """True if a Task has to be read again before it runs."""
    return bool(body.get(_CUT))


def _meta(kind: str, meta: Object) -> Object:
    """The fields that are read, each with a bound: Kubernetes bounds only an object as a whole."""
    found = {key: value for key, value in meta.items() if key in _META}
    if labels := {key: value for key, value in (meta.get("labels") or {}).items() if key in _LABELS}:
        found["labels"] = labels
    annotations = (meta.get("annotations") or {}) if kind == "pods" else {}
    if kept := {key: annotations[key] for key in _POD_ANNOTATIONS if key in annotations}:
        found["annotations"] = {key: value for key, value in kept.items() if len(value) <= _LONGEST_ANNOTATION}
    if owners := _references(meta.get("ownerReferences") or ()):
        found["ownerReferences"] = owners
    if LEGACY_FINALIZER in (meta.get("finalizers") or ()):
        found["finalizers"] = [LEGACY_FINALIZER]
    return found


def _references(given: Sequence[Object]) -> list[Object]:
    """Owners of the kinds that are asked for."""
    if len(given) > MOST_REFERENCES:
        return []
    kept = [_short(each, _REFERENCE) for each in given if is_of_a_kind(each)]
    return [each for each in kept if {"apiVersion", "kind", "name", "uid"} <= each.keys()]


def _short(given: Object, names: Sequence[str]) -> Object:
    """These fields, but for texts that are longer than any of Kubernetes' own."""
    found = {name: given[name] for name in names if name in given}
    return {key: value for key, value in found.items() if not (isinstance(value, str) and len(value) > _LONGEST_NAME)}


def _pod(pod: Object) -> Object:
    """Most of a pod's spec is the same for all of a pool."""
    spec, given = pod["spec"], pod.get("status") or {}
    containers = [{key: each[key] for key in ("name", "resources") if key in each} for each in spec["containers"]]
    gates = {"schedulingGates": spec["schedulingGates"]} if spec.get("schedulingGates") else {}
    status = {key: given[key] for key in _POD_STATUS if key in given}
    if weight([containers, gates]) > MOST_POD or weight(status) > MOST_POD:
        containers, gates = [], {}
        message = f"what its object says is more than {MOST_POD // 1024} KiB"
        status = {"phase": "Failed", "reason": "TooLarge", "message": message}
    return {
        **{part: pod[part] for part in ("apiVersion", "kind", "metadata") if part in pod},
        "spec": {"containers": containers, **gates},
        "status": status,
    }
