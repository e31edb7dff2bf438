"""The NetworkPolicies around a pool's pods. It cannot be seen from here if the cluster's network enforces them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.operator.api import Api, ApiError
from pytest_arl.operator.objects import name
from pytest_arl.operator.paths import path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_arl.operator.objects import Object

__all__ = ["CONDITION", "isolation", "look", "selects"]

CONDITION = "Isolated"
_CURE = "pytest-arl manifests --sandboxes {0}, with the installation's other options, has a policy for namespace {0}"
_MOST_NAMES = 5


def isolation(policies: Iterable[Object], labels: Mapping[str, str], namespace: str) -> Object:
    """The condition that says whether pods with these labels are closed in both directions but for what rules open."""
    return _judged([around for policy in policies if (around := _around(policy, labels))], namespace)


def _around(policy: Object, labels: Mapping[str, str]) -> dict[str, Any]:
    """Name and directions of a policy that selects pods with these labels, without its rules; empty for any other."""
    if not selects(policy["spec"].get("podSelector") or {}, labels):
        return {}
    return {"name": name(policy), "types": _types(policy)}


def _judged(around: Sequence[Mapping[str, Any]], namespace: str) -> Object:
    open_ways = [way for way in ("Egress", "Ingress") if not any(way in each["types"] for each in around)]
    if not open_ways:
        names = sorted(each["name"] for each in around)
        more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
        return _condition("True", "PolicySelects", f"NetworkPolicy {', '.join(names[:_MOST_NAMES])}{more}")
    to_do = {"Egress": "reach the network", "Ingress": "be reached from it"}
    ways = " and ".join(to_do[way] for way in open_ways)
    return _condition("False", "NetworkOpen", f"no NetworkPolicy here: sandboxes can {ways}. {_CURE.format(namespace)}")


async def look(api: Api, namespace: str, labels: Mapping[str, str]) -> Object | None:
    """That condition by the policies that are there; None where the API server does not say."""
    try:
        found = await api.items(path("networkpolicies", namespace), lambda policy: _around(policy, labels))
    except ApiError as error:
        if error.status != 403:
            return None
        return _condition("Unknown", "Forbidden", f"the operator may not look at NetworkPolicies: {error.message}")
    return _judged([each for each in found if each], namespace)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """True if a label selector chooses an object with these labels; an empty one chooses everything."""
    exact = (selector.get("matchLabels") or {}).items() <= labels.items()
    return exact and all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False  # of a newer API: nothing is said to be closed that perhaps is not


def _types(policy: Object) -> list[str]:
    """The directions that a policy closes; without a word, what the API server makes of it."""
    spec = policy["spec"]
    return list(spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]))


def _condition(status: str, reason: str, message: str) -> Object:
    return {"type": CONDITION, "status": status, "reason": reason, "message": message}
