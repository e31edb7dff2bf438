"""The NetworkPolicies around a pool's pods. It cannot be seen from here if the cluster's network enforces them."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import name
from pytest_arl.cluster.pod import RUN_LABEL, SANDBOX_LABEL, WORKER_LABEL
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.slim import weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi

__all__ = ["CONDITION", "Policies", "isolation", "selects"]

CONDITION = "Isolated"
_CURE = "pytest-arl manifests --sandboxes {0}, with the installation's other options, has a policy for namespace {0}"
_MOST_NAMES = 5
_MOST_SELECTOR = 4 * 1024
"""Weight of a policy's selector. A thousand of them are held for each namespace."""

_MOST_SELECTORS = 256 * 1024
"""Weight of the selectors of a namespace's policies together; those that come after count as selecting none."""

_FRESH_SECONDS = 30.0

_DIFFERENT = frozenset((SANDBOX_LABEL, RUN_LABEL, WORKER_LABEL))
"""Labels of pods in use with a value of each one's own. All have the first; the others only where a run made them."""


def isolation(policies: Iterable[Object], labels: Mapping[str, str], namespace: str) -> Object:
    """The condition that says whether pods with these labels are closed in both directions but for what rules open."""
    return _judged([around for policy in policies if (around := _around(policy, labels))], namespace)


def _around(policy: Object, labels: Mapping[str, str]) -> dict[str, Any]:
    """Name and directions of a policy that selects pods with these labels, without its rules; empty for any other."""
    selector = policy["spec"].get("podSelector") or {}
    if _tells_apart(selector, labels) or not selects(selector, labels):
        return {}
    return {"name": name(policy), "types": _types(policy)}


def _tells_apart(selector: Object, labels: Mapping[str, str]) -> bool:
    """True if it may choose some pods of a pool that are in use, and others not.

    Some have labels that are not known here: ``pod-template-hash`` from the pool's Deployment, the node's topology from
    the scheduler (Kubernetes 1.35). A selector that asks for the absence of any other label may leave these out.
    """
    if not _DIFFERENT.isdisjoint(selector.get("matchLabels") or {}):
        return True
    asked = [(each["key"], each["operator"]) for each in selector.get("matchExpressions") or ()]
    return any(
        key not in labels or (key in _DIFFERENT and (key, operator) != (SANDBOX_LABEL, "Exists"))
        for key, operator in asked
    )


def _judged(around: Sequence[Mapping[str, Any]], namespace: str) -> Object:
    open_ways = [way for way in ("Egress", "Ingress") if not any(way in each["types"] for each in around)]
    if not open_ways:
        names = sorted(each["name"] for each in around)
        more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
        return _condition("True", "PolicySelects", f"NetworkPolicy {', '.join(names[:_MOST_NAMES])}{more}")
    to_do = {"Egress": "reach the network", "Ingress": "be reached from it"}
    ways = " and ".join(to_do[way] for way in open_ways)
    return _condition("False", "NetworkOpen", f"no NetworkPolicy here: sandboxes can {ways}. {_CURE.format(namespace)}")


class Policies:
    """The NetworkPolicies of each namespace, looked at once a minute for all of its pools together."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._seen: dict[str, tuple[float, list[Object]]] = {}

    async def look(self, namespace: str, labels: Mapping[str, str]) -> Object | None:
        """The condition by the present policies; None where the API server does not say."""
        try:
            found = await self._there(namespace)
        except ApiError as error:
            if error.status != 403:
                return None
            return _condition("Unknown", "Forbidden", f"the operator may not look at NetworkPolicies: {error.message}")
        return isolation(found, labels, namespace)

    async def _there(self, namespace: str) -> list[Object]:
        async with self._turns[namespace]:
            moment, found = self._seen.get(namespace, (-_FRESH_SECONDS, []))
            if time.monotonic() - moment < _FRESH_SECONDS:
                return found
            found = await self._api.items(path("networkpolicies", namespace), _Outlines())
            # Of the others nothing is remembered that is old: namespaces come and go.
            moment = time.monotonic()
            self._seen = {each: seen for each, seen in self._seen.items() if moment - seen[0] < _FRESH_SECONDS}
            self._seen[namespace] = moment, found
            for each in [each for each, turn in self._turns.items() if each not in self._seen and not turn.locked()]:
                del self._turns[each]
            return found


class _Outlines:
    """Policies without their rules, as far as there is room for their selectors.

    One whose selector is as large as no selector of pods, or comes after so many others, counts as selecting none.
    """

    def __init__(self) -> None:
        self._left = _MOST_SELECTORS

    def __call__(self, policy: Object) -> Object:
        selector = policy["spec"].get("podSelector") or {}
        size = weight(selector, _MOST_SELECTOR)
        if size > min(_MOST_SELECTOR, self._left):
            selector, size = NOTHING, 0
        self._left -= size
        return {"metadata": {"name": name(policy)}, "spec": {"podSelector": selector, "policyTypes": _types(policy)}}


NOTHING = {"matchExpressions": [{"key": "", "operator": "NotUnderstood"}]}


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
