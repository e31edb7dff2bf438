"""Refusals of the API server in words for the person at the keyboard: what was tried, what came back, what to do.

Pure functions over the server's Status objects, so that each can be tested without a cluster.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster import json_text
from pytest_arl.cluster.names import GROUP, VERSION
from pytest_arl.errors import ArlError, BackendUnavailable, PermissionDenied, UsageError
from pytest_arl.text.untrusted import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Refused", "Where", "explained", "rule_for"]

INSTALL = "pytest-arl manifests | kubectl apply -f -"
_CANNOT = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[\w/.-]+)"(?: in API group "(?P<group>[^"]*)")?')
_LONGEST = 600


class Refused(Exception):
    """The API server answered with an error.

    Attributes:
        status: the HTTP status.
        reason: the machine-readable reason (``NotFound``, ``AlreadyExists``), or empty.
        message: the server's own words.
        details: what it is about: ``group``, ``kind``, ``name``, ``causes``, ``retryAfterSeconds``.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}

    @classmethod
    def read(cls, status: int, body: bytes) -> Refused:
        """Read an answer: a Status object, or the words of a proxy."""
        try:
            found = json_text.parse(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            return cls(status, "", printable(shorten(body.decode("utf-8", "replace").strip(), _LONGEST)))
        details = found.get("details")
        return cls(
            status,
            str(found.get("reason") or ""),
            printable(shorten(str(found.get("message") or ""), _LONGEST)),
            details if isinstance(details, dict) else {},
        )

    @property
    def passing(self) -> bool:
        """True if the same request may be accepted in a moment."""
        return self.status in (408, 429, 500, 502, 503, 504)


class Where:
    """The cluster, namespace and credentials that a message is about.

    Attributes:
        cluster: the server and the kubeconfig's context.
        namespace: the Kubernetes namespace.
    """

    def __init__(self, cluster: str, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace


def explained(refused: Refused, doing: str, where: Where) -> ArlError:
    """The exception for a refusal. ``doing`` says what was tried: ``creating the Sandbox x``."""
    said = f"{doing} in namespace {where.namespace!r}: {refused.message or refused.reason or refused.status}"
    cure = _cure(refused, where)
    if refused.status == 403 and _CANNOT.search(refused.message):
        return PermissionDenied(f"{said}; {rule_for(refused.message, where.namespace)}")
    if refused.status in (400, 413, 422) and cure is None:
        return UsageError(f"the cluster refuses this: {said}")
    if cure is None and refused.passing:
        cure = "the cluster answers, but has a problem: try again, and check its API server"
    return BackendUnavailable(f"{said}; {cure}" if cure else said)


def rule_for(message: str, namespace: str) -> str:
    """The rule that grants what the server's message says is forbidden."""
    found = _CANNOT.search(message)
    if found is None:
        return "ask the cluster's administrator"
    verbs = "get, create" if found["resource"] == "pods/portforward" else found["verb"]
    group = found["group"] or '""'
    return (
        f"a Role of namespace {namespace!r} needs the rule "
        f"{{apiGroups: [{group}], resources: [{found['resource']}], verbs: [{verbs}]}} "
        "(pytest-arl manifests has the whole role, arl-user)"
    )


def _cure(refused: Refused, where: Where) -> str | None:  # noqa: PLR0911 - one line for each thing that goes wrong
    """A cure for a refusal that is no typing error; None where none is known."""
    message = refused.message
    if refused.status == 401:
        return (
            f"the credentials for {where.cluster} are not accepted (401): the token expired or was revoked; log in "
            "again, until `kubectl get sandboxes` works"
        )
    if "strict decoding error" in message or "unknown field" in message:
        return (
            f"the custom resources in the cluster are of another version than this client ({GROUP}/{VERSION}): "
            f"bring them in line with {INSTALL}"
        )
    if refused.status == 404 and refused.details.get("kind") == "namespaces":
        return (
            f"there is no namespace {where.namespace!r} at {where.cluster}: kubectl create namespace "
            f"{where.namespace}, or name another one (--arl-namespace)"
        )
    if refused.status == 404 and not refused.details.get("name"):
        return (
            f"{where.cluster} does not serve {GROUP}/{VERSION}: the custom resources are not installed, or of another "
            f"version; {INSTALL}"
        )
    if refused.status == 403 and "exceeded quota" in message:
        return "the namespace's quota is used up: delete what is not needed (pytest-arl gc), or have it raised"
    if refused.status == 403 and "being terminated" in message:
        return f"namespace {where.namespace!r} is being deleted: name another one (--arl-namespace)"
    return None
