"""Paths of objects on the API server, and the names that cannot be part of one."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["GROUP_PATH", "UnsafeName", "path"]

GROUP_PATH = "/apis/arl.infra.io/v1alpha1"
_PATHS = {
    "warmpools": GROUP_PATH,
    "sandboxes": GROUP_PATH,
    "tasks": GROUP_PATH,
    "pods": "/api/v1",
    "events": "/api/v1",
    "secrets": "/api/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}


class UnsafeName(ValueError):
    """A name that is no segment of a path: somebody wrote it where no API server checks it."""


def path(plural: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """The path of an object, or of all of its kind. UnsafeName for a name that would lead elsewhere."""
    found = _PATHS[plural]
    if namespace is not None:
        found += f"/namespaces/{_segment(namespace)}"
    found += f"/{plural}"
    if name is not None:
        found += f"/{_segment(name)}"
    return found if subresource is None else f"{found}/{subresource}"


def _segment(name: str) -> str:
    if name in ("", ".", ".."):
        raise UnsafeName(f"{name!r} is not a name of an object")
    return quote(name, safe="")
