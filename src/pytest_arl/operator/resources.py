"""Processors, memory and the like of a Sandbox: its pool's, less than these, or more up to a bound.

``spec.resources`` of a Sandbox says what is to be otherwise than in the pool's executor; what it leaves out stays. The
bound of a resource is the WarmPool's ``spec.sandbox.maxResources``, else the executor's own limit, else its request.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object

__all__ = ["ResourcesInvalid", "amount", "changed", "refuse_small_bounds"]

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE](?P<exponent>[+-]?[0-9]{1,2})|(?P<suffix>[a-zA-Z]{0,2}))"
)
_LONGEST = 64
_MOST_NAMES = 16
_FACTORS = {
    "": Fraction(1),
    **{suffix: Fraction(10) ** power for suffix, power in (("n", -9), ("u", -6), ("m", -3))},
    **{suffix: Fraction(1000) ** (power + 1) for power, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Fraction(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")},
}


class ResourcesInvalid(Exception):
    """The reason for refusing a Sandbox's resources: the field, the bound, the cure."""


def amount(value: object) -> Fraction | None:
    """A quantity as Kubernetes reads it; None where it is none."""
    if type(value) is int:
        return Fraction(value)
    found = _QUANTITY.fullmatch(value) if type(value) is str and len(value) <= _LONGEST else None
    if found is None:
        return None
    if found["exponent"] is not None:
        return Fraction(found["number"]) * Fraction(10) ** int(found["exponent"])
    factor = _FACTORS.get(found["suffix"])
    return None if factor is None else Fraction(found["number"]) * factor


def changed(asked: object, own: Object, most: Object, pool: str) -> Object:
    """The executor's resources for a Sandbox.

    ``asked``: the Sandbox's spec.resources. ``own``: those of the executor in the pool's template. ``most``: the
    pool's maxResources. ResourcesInvalid where it asks for what it cannot have.
    """
    limits, requests = _part(asked, "limits"), _part(asked, "requests")
    own_limits, own_requests = own.get("limits") or {}, own.get("requests") or {}
    for field, wanted in (("limits", limits), ("requests", requests)):
        for name in wanted:
            if not any(name in known for known in (own_limits, own_requests, most)):
                raise ResourcesInvalid(
                    f"spec.resources.{field}.{_shown(name)}: pool {pool} has no such resource: leave it out, or "
                    "have it added to spec.sandbox.maxResources of the WarmPool"
                )
    for name, value in limits.items():
        _bounded("limits", name, value, most.get(name, own_limits.get(name)), pool)
        # Kubernetes takes a limit of 0 for none at all.
        if amount(value) == 0 and amount(own_limits.get(name)) != 0:
            raise ResourcesInvalid(f"spec.resources.limits.{_shown(name)} is 0, which is not a limit: it must be more")
    for name, value in requests.items():
        _bounded("requests", name, value, most.get(name, own_limits.get(name, own_requests.get(name))), pool)
    all_limits = {**own_limits, **limits}
    found = {
        **own,
        "limits": all_limits,
        "requests": {**_fitting(own_requests, limits), **_requested(requests, all_limits)},
    }
    return {key: value for key, value in found.items() if value or key in own}


def refuse_small_bounds(own: Object, most: Object) -> None:
    """ResourcesInvalid where a pool's maxResources are less than what its executor has anyway, or are no quantities."""
    for name, bound in most.items():
        size = amount(bound)
        if size is None or size <= 0:
            raise ResourcesInvalid(f"spec.sandbox.maxResources.{_shown(name)} is not a quantity such as 4 or 8Gi")
        for field in ("limits", "requests"):
            value = (own.get(field) or {}).get(name)
            given = amount(value)
            if given is not None and given > size:
                raise ResourcesInvalid(
                    f"spec.sandbox.maxResources.{_shown(name)} is {_shown(bound)}, less than the executor's own "
                    f"resources.{field}.{_shown(name)}, {_shown(value)}: raise the one or lower the other"
                )


def _part(asked: object, field: str) -> Object:
    """Its ``limits`` or ``requests``. The API server has checked them, unless its schema was older."""
    if type(asked) is not dict or not asked.keys() <= {"limits", "requests"}:
        raise ResourcesInvalid("spec.resources may have limits and requests only")
    found = asked.get(field)
    if found is None:
        return {}
    if type(found) is not dict or len(found) > _MOST_NAMES:
        raise ResourcesInvalid(f"spec.resources.{field} names at most {_MOST_NAMES} resources, each with its quantity")
    return found


def _bounded(field: str, name: str, value: object, bound: object, pool: str) -> None:
    size = amount(value)
    if size is None or size < 0:
        raise ResourcesInvalid(
            f"spec.resources.{field}.{_shown(name)} is {_shown(value)}, which is not a quantity such as 500m, 2 or 1Gi"
        )
    most = amount(bound)
    if bound is not None and (most is None or size > most):
        raise ResourcesInvalid(
            f"spec.resources.{field}.{_shown(name)} is {_shown(value)}, but pool {pool} allows up to {_shown(bound)}: "
            f"ask for no more, or have spec.sandbox.maxResources.{_shown(name)} of the WarmPool raised"
        )


def _requested(requests: Object, limits: Object) -> Object:
    for name, value in requests.items():
        size, most = amount(value), amount(limits.get(name))
        if size is not None and most is not None and size > most:
            raise ResourcesInvalid(
                f"spec.resources.requests.{_shown(name)} is {_shown(value)}, more than the limit of "
                f"{_shown(limits[name])}: lower the request, or raise spec.resources.limits as far as the pool allows"
            )
    return requests


def _fitting(requests: Object, limits: Object) -> Object:
    """The pool's requests below a Sandbox's limits. Of a device, both are the same number."""
    found = dict(requests)
    for name in requests.keys() & limits.keys():
        size, most = amount(requests[name]), amount(limits[name])
        if "/" in name or name.startswith("hugepages-") or (size is not None and most is not None and size > most):
            found[name] = limits[name]
    return found


def _shown(value: object) -> str:
    return one_line(value, _LONGEST)
