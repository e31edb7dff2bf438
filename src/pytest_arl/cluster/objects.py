"""Reading Kubernetes objects as the API has them: plain dicts, for speed; the API server has validated them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pytest_arl.cluster.kinds import KINDS, group_of
from pytest_arl.text.timestamps import parse_timestamp
from pytest_arl.text.untrusted import readable

__all__ = [
    "LONGEST_REASON",
    "MOST_MESSAGE",
    "Key",
    "Object",
    "age",
    "condition",
    "conditions",
    "controller",
    "created",
    "ended",
    "is_name",
    "is_of_a_kind",
    "is_reason",
    "key",
    "leaving",
    "name",
    "owner",
    "owner_reference",
    "status_of",
    "uid",
    "version",
]

Object = dict[str, Any]

MOST_MESSAGE = 4096
"""Characters of somebody else's message that travel."""
_GROUPS = {
    KINDS[plural].name: group_of(KINDS[plural].api_version)
    for plural in ("deployments", "leases", "replicasets", "sandboxes", "warmpools")
}
"""Kinds that are looked for as owners: another group may have a kind of the same name."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
LONGEST_REASON = 128


class Key(NamedTuple):
    """The namespace and name of an object among those of its kind."""

    namespace: str
    name: str


def key(body: Object) -> Key:
    """Namespace and name."""
    meta = body["metadata"]
    return Key(meta["namespace"], meta["name"])


def name(body: Object) -> str:
    """The object's name."""
    found: str = body["metadata"]["name"]
    return found


def uid(body: Object) -> str:
    """The uid, which differs from that of an earlier object of the same name."""
    found: str = body["metadata"]["uid"]
    return found


def version(body: Object) -> int:
    """The resourceVersion as the number it is on every API server there is; 0 where it is none."""
    text = body["metadata"].get("resourceVersion", "")
    return int(text) if text.isdecimal() else 0


def leaving(body: Object) -> bool:
    """True if it is being deleted."""
    return body["metadata"].get("deletionTimestamp") is not None


def ended(pod: Object) -> bool:
    """True if no container of a pod will run again."""
    return status_of(pod).get("phase") in ("Failed", "Succeeded")


def owner_reference(body: Object, kind: str) -> Object | None:
    """The first reference to an owner of that kind, and of the group that this kind is in."""
    for reference in body["metadata"].get("ownerReferences") or ():
        if _is_of(reference, kind):
            found: Object = reference
            return found
    return None


def owner(body: Object, kind: str) -> str | None:
    """The UID of its owner of that kind."""
    reference = owner_reference(body, kind)
    return None if reference is None else str(reference["uid"])


def controller(body: Object, kind: str) -> Object | None:
    """The reference to its controller, if that is of this kind: of several owners at most one is it."""
    for reference in body["metadata"].get("ownerReferences") or ():
        if reference.get("controller") is True:
            found: Object = reference
            return found if _is_of(found, kind) else None
    return None


def _is_of(reference: Object, kind: str) -> bool:
    return reference["kind"] == kind and group_of(reference["apiVersion"]) == _GROUPS[kind]


def is_of_a_kind(reference: Object) -> bool:
    """True if a reference to an owner is to one of the kinds that are asked for."""
    return reference["kind"] in _GROUPS and _is_of(reference, reference["kind"])


def is_name(text: str) -> bool:
    """True if Kubernetes lets an object have this name, which may be somebody else's text."""
    return len(text) <= 253 and _NAME.fullmatch(text) is not None


def is_reason(text: object) -> bool:
    """True if a condition can have this reason, which may be somebody else's text."""
    return type(text) is str and len(text) <= LONGEST_REASON and _REASON.fullmatch(text) is not None


def created(body: Object) -> str:
    """The time of its creation; these sort as text."""
    found: str = body["metadata"].get("creationTimestamp") or ""
    return found


def age(body: Object, wall: float) -> float:
    """Seconds since it was created, never less than 0."""
    began = parse_timestamp(body["metadata"].get("creationTimestamp"))
    return 0.0 if began is None else max(0.0, wall - began)


def status_of(body: Object | None) -> Object:
    """Its status; empty where it has none, or is not there."""
    found = (body or {}).get("status")
    return found if isinstance(found, dict) else {}


def condition(body: Object | None, kind: str) -> Object:
    """A condition of its status; empty where there is none."""
    for each in status_of(body).get("conditions") or ():
        if each.get("type") == kind:
            found: Object = each
            return found
    return {}


def conditions(body: Object | None, changes: list[Object], moment: str) -> list[Object]:
    """The conditions with these in place of those of their types; a time changes only with a status.

    Reasons and messages may be an agent's, or anybody's: they are bounded, and no terminal that shows them obeys them.
    """
    old = {each["type"]: each for each in status_of(body).get("conditions") or ()}
    for change in changes:
        before = old.get(change["type"])
        same = before is not None and before["status"] == change["status"]
        since = before["lastTransitionTime"] if before is not None and same else moment
        reason = change["reason"] if is_reason(change["reason"]) else "Other"
        message = readable(change["message"], MOST_MESSAGE)
        old[change["type"]] = {**change, "reason": reason, "message": message, "lastTransitionTime": since}
    return list(old.values())
