"""The kinds of objects that client, operator and command line handle: what they are called, and where they are."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from pytest_arl.cluster.names import API_VERSION
from pytest_arl.errors import UsageError

__all__ = ["GROUP_PATH", "KINDS", "ObjectKind", "UnsafeName", "group_of", "path"]


class ObjectKind(NamedTuple):
    """``apiVersion`` and ``kind`` of an object."""

    api_version: str
    name: str


KINDS = {
    "warmpools": ObjectKind(API_VERSION, "WarmPool"),
    "sandboxes": ObjectKind(API_VERSION, "Sandbox"),
    "tasks": ObjectKind(API_VERSION, "Task"),
    "pods": ObjectKind("v1", "Pod"),
    "events": ObjectKind("v1", "Event"),
    "secrets": ObjectKind("v1", "Secret"),
    "deployments": ObjectKind("apps/v1", "Deployment"),
    "replicasets": ObjectKind("apps/v1", "ReplicaSet"),
    "networkpolicies": ObjectKind("networking.k8s.io/v1", "NetworkPolicy"),
    "leases": ObjectKind("coordination.k8s.io/v1", "Lease"),
}
"""By the plural that paths have."""

GROUP_PATH = f"/apis/{API_VERSION}"
"""Path of the API server's list of its custom resources."""


class UnsafeName(UsageError):
    """A name that is no segment of a path: somebody wrote it where no API server checks it."""


def path(plural: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """The path of an object, or of all of its kind. UnsafeName for a name that would lead elsewhere."""
    version = KINDS[plural].api_version
    found = f"/{'apis' if '/' in version else 'api'}/{version}"
    if namespace is not None:
        found += f"/namespaces/{_segment(namespace)}"
    found += f"/{plural}"
    if name is not None:
        found += f"/{_segment(name)}"
    return found if subresource is None else f"{found}/{subresource}"


def group_of(api_version: str) -> str:
    """The group of an ``apiVersion``; empty for the core, which has none."""
    group, slash, _ = api_version.partition("/")
    return group if slash else ""


def _segment(name: str) -> str:
    if name in ("", ".", ".."):
        raise UnsafeName(f"{name!r} is not a name of an object")
    return quote(name, safe="")
