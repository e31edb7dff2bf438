"""Checks of ``pytest-arl doctor`` on the cluster: API, custom resources, rights, operator, network policy."""

from __future__ import annotations

import time
from importlib import resources
from typing import TYPE_CHECKING

from pytest_arl.cli.cluster import items
from pytest_arl.cli.findings import bad, good, note, warn
from pytest_arl.cli.pods import examine_nodes, examine_pools, why_not_ready
from pytest_arl.cli.rights import examine_rights
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.models import KINDS
from pytest_arl.cluster.names import GROUP, VERSION
from pytest_arl.cluster.pod import OPERATOR_LEASE
from pytest_arl.errors import PermissionDenied
from pytest_arl.text.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.cli.cluster import Cluster, Json
    from pytest_arl.cli.findings import Finding
    from pytest_arl.settings import Settings

__all__ = ["examine_cluster"]

_LEAST_MINOR = 30
"""The first minor version of Kubernetes 1 whose CEL has all that the custom resources' rules use."""
_APPLY = "pytest-arl manifests | kubectl apply -f -"
_LOGS = "kubectl -n {0} get pods; kubectl -n {0} logs deployment/arl-operator"
_RENEWED_WITHIN = 8.0
"""Seconds in which a living operator renews its Lease, whatever the clocks say."""


def examine_cluster(
    cluster: Cluster, settings: Settings, operator_namespace: str, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Finding]:
    """Everything in the order in which it is needed. BackendUnavailable where the API server does not answer."""
    yield from _api(cluster)
    yield from _namespace(cluster)
    yield from _definitions(cluster)
    yield from examine_rights(cluster)
    yield from _operator(cluster, operator_namespace, sleep)
    yield from _network(cluster, operator_namespace)
    yield from examine_pools(cluster, settings)
    yield from examine_nodes(cluster)


def _api(cluster: Cluster) -> Iterator[Finding]:
    version = cluster.get("/version") or {}
    minor = "".join(filter(str.isdigit, str(version.get("minor", ""))))
    what = f"API server {version.get('gitVersion', 'of an unknown version')} at {cluster.where}"
    if version.get("major") == "1" and minor and int(minor) < _LEAST_MINOR:
        yield bad(f"{what} is too old", f"Kubernetes 1.{_LEAST_MINOR} or newer is needed")
    else:
        yield good(what)


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    name = cluster.namespace
    try:
        found = cluster.get(f"/api/v1/namespaces/{name}")
    except PermissionDenied:
        yield note(f"namespace {name} (this user may not check that it exists)")
        return
    if found is None:
        yield bad(f"there is no namespace {name}", f"kubectl create namespace {name}, or choose one with --namespace")
    else:
        yield good(f"namespace {name}")


# --- custom resources


def _definitions(cluster: Cluster) -> Iterator[Finding]:
    cure = f"{_APPLY} (the custom resources alone: pytest-arl manifests --crds-only)"
    served = cluster.get(f"/apis/{GROUP}/{VERSION}")
    if served is None:
        others = [version["version"] for version in (cluster.get(f"/apis/{GROUP}") or {}).get("versions", ())]
        what = f"serves {', '.join(others)} of {GROUP}, not {VERSION}" if others else f"does not serve {GROUP}"
        yield bad(f"the cluster {what}: the custom resources are not installed", cure)
        return
    there = {resource["name"] for resource in served.get("resources", ())}
    missing = [kind.plural for kind in KINDS if kind.plural not in there]
    if missing:
        yield bad(f"custom resources are missing: {', '.join(missing)}", cure)
        return
    yield from _same_definitions(cluster, cure)


def _same_definitions(cluster: Cluster, cure: str) -> Iterator[Finding]:
    """Compare the cluster's schemas with this package's: another version's may refuse what this one sends."""
    try:
        other = [kind.plural for kind in KINDS if not _is_ours(cluster, kind.plural)]
    except PermissionDenied:
        yield good(f"custom resources {GROUP}/{VERSION} (this user may not check that they are of this version)")
        return
    if other:
        yield warn(f"custom resources of another version than this pytest-arl: {', '.join(other)}", cure)
    else:
        yield good(f"custom resources {GROUP}/{VERSION}, as this version has them")


def _is_ours(cluster: Cluster, plural: str) -> bool:
    import yaml  # noqa: PLC0415 - comes with the extra `kubernetes`

    text = (resources.files("pytest_arl.cluster") / "crds" / f"{plural}.yaml").read_text(encoding="utf-8")
    installed = cluster.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}") or {}
    return _schema(installed) == _schema(yaml.safe_load(text))


def _schema(definition: Json) -> object:
    versions = {version["name"]: version for version in definition.get("spec", {}).get("versions", ())}
    return versions.get(VERSION, {}).get("schema")


# --- the operator


def _operator(cluster: Cluster, namespace: str, sleep: Callable[[float], None]) -> Iterator[Finding]:
    try:
        lease = cluster.get(path("leases", namespace, OPERATOR_LEASE))
    except PermissionDenied as error:
        yield note(f"this user may not check that an operator runs in {namespace} ({error})")
        return
    if lease is None:
        yield bad(f"no operator has ever run in namespace {namespace}{_said_of_operator(cluster, namespace)}", _APPLY)
        return
    spec: Json = lease["spec"]
    holder = spec.get("holderIdentity")
    if not holder:
        yield bad(f"the operator was stopped{_said_of_operator(cluster, namespace)}", _LOGS.format(namespace))
        return
    if time.time() < (parse_timestamp(spec.get("renewTime")) or 0.0) + (spec.get("leaseDurationSeconds") or 0):
        yield good(f"operator {holder} leads in namespace {namespace}")
        return
    # Seemingly over: but the clock that is compared is another machine's.
    sleep(_RENEWED_WITHIN)
    later = cluster.get(path("leases", namespace, OPERATOR_LEASE)) or lease
    if later["spec"].get("renewTime") != spec.get("renewTime"):
        yield warn(f"operator {holder} leads, but its clock and this machine's differ", "set the clocks (NTP)")
    else:
        yield bad(
            f"the operator is not running: {holder} last renewed its Lease in {namespace} at {spec.get('renewTime')}"
            f"{_said_of_operator(cluster, namespace)}",
            _LOGS.format(namespace),
        )


def _said_of_operator(cluster: Cluster, namespace: str) -> str:
    """The state of its pods, where this user may look at them."""
    try:
        pods = [
            *items(cluster, f"/api/v1/namespaces/{namespace}/pods", labelSelector="app.kubernetes.io/name=arl-operator")
        ]
    except PermissionDenied:
        return ""
    if not pods:
        return " (it has no pod)"
    reasons = {reason for pod in pods for reason in [why_not_ready(pod)] if reason is not None}
    return f" ({'; '.join(f'{reason}: {message}' for reason, message in sorted(reasons))})" if reasons else ""


def _network(cluster: Cluster, operator_namespace: str) -> Iterator[Finding]:
    path = f"/apis/networking.k8s.io/v1/namespaces/{cluster.namespace}/networkpolicies/arl-sandboxes"
    try:
        found = cluster.get(path)
    except PermissionDenied:
        return
    if found is None:
        where = "" if operator_namespace == "arl-system" else f" --namespace {operator_namespace}"
        yield warn(
            f"no NetworkPolicy arl-sandboxes in {cluster.namespace}: its sandboxes may reach the network, and an "
            "operator that is not installed --everywhere does not serve it",
            f"pytest-arl manifests{where} --sandboxes {cluster.namespace} | kubectl apply -f - "
            "(with every --sandboxes that it had)",
        )
    else:
        yield good("NetworkPolicy arl-sandboxes (not checked: whether the cluster's network enforces it)")
