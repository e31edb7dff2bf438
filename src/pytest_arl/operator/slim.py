"""Objects without what the operator does not ask of them, so that nobody's objects are its memory.

Tenants make objects of up to 1.5 MB, as many as their quota lets them. Of each the operator keeps what its decisions
need. A Task that waits is kept whole while it is small, and its namespace's Tasks are together; else its steps are
read again when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.trouble import DEFAULT_CONTAINER
from pytest_arl.pod import POOL_LABEL

if TYPE_CHECKING:
    from pytest_arl.operator.objects import Object

__all__ = ["MOST_REFERENCES", "MOST_TEMPLATE", "cut_task", "is_cut", "is_too_large", "slim", "weight"]

MOST_REFERENCES = 64
"""Owners and finalizers of an object that are looked at; one that has more of either counts as having none."""

MOST_TEMPLATE = 256 * 1024
"""Weight of a pool's template: it is stored three times more, in the Deployment, its ReplicaSets and each pod."""

_OUR_LABELS = POOL_LABEL.partition("/")[0] + "/"
_POD_ANNOTATIONS = (CLAIM, DEFAULT_CONTAINER)
_DROPPED_META = ("managedFields", "annotations", "selfLink")
_POD_STATUS_DROPPED = ("podIPs", "hostIP", "hostIPs", "qosClass", "startTime", "ephemeralContainerStatuses")
_CUT, _TOO_LARGE = "stepsLeftOut", "templateLeftOut"
_OVERHEAD = 64  # bytes of a string, a list or a dict in Python, about
_MOST_DEPTH = 32


def weight(value: Any, *, depth: int = 0) -> int:
    """Bytes that a value of JSON takes in memory, about; nesting that no object of ours has counts as endless."""
    if isinstance(value, str):
        return _OVERHEAD + len(value)
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
    dropped = ("managedFields",) if kind == "pods" else _DROPPED_META
    found = {key: value for key, value in meta.items() if key not in dropped}
    if "labels" in found:  # somebody else's may be 60,000
        found["labels"] = {key: value for key, value in found["labels"].items() if key.startswith(_OUR_LABELS)}
    if kind == "pods" and "annotations" in found:
        found["annotations"] = {key: value for key, value in found["annotations"].items() if key in _POD_ANNOTATIONS}
    for key in ("ownerReferences", "finalizers"):
        if len(found.get(key) or ()) > MOST_REFERENCES:
            del found[key]
    return found


def _pod(pod: Object) -> Object:
    """Most of a pod's spec is the same for all of a pool."""
    spec, status = pod["spec"], pod.get("status") or {}
    containers = [{key: each[key] for key in ("name", "resources") if key in each} for each in spec["containers"]]
    gates = {"schedulingGates": spec["schedulingGates"]} if spec.get("schedulingGates") else {}
    return {
        **{part: pod[part] for part in ("apiVersion", "kind", "metadata") if part in pod},
        "spec": {"containers": containers, **gates},
        "status": {key: value for key, value in status.items() if key not in _POD_STATUS_DROPPED},
    }
