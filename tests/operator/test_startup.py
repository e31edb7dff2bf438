"""Looks of the operator before it leads."""

from __future__ import annotations

import resource
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pytest_arl.operator import startup


def lease(renewed: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns"}, "spec": {"holderIdentity": "x", "renewTime": renewed, **spec}}


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("renewed", "spec", "held"),
    [
        (-40, {}, True),
        (-50, {}, False),
        (40, {}, True),  # two clocks
        (50, {}, False),
        ("2099-01-01T00:00:00Z", {}, False),
        ("0000-01-01T00:00:00Z", {}, False),
        ("soon", {}, False),
        (-1790, {"leaseDurationSeconds": 2**31 - 1}, True),
        (-1810, {"leaseDurationSeconds": 2**31 - 1}, False),
        (0, {"holderIdentity": ""}, False),
    ],
)
def test_a_lease_of_the_original_operator_counts_while_somebody_renews_it(
    renewed: float | str, spec: dict[str, Any], held: bool
) -> None:
    when = renewed if isinstance(renewed, str) else moment(renewed)
    assert startup._renewed(lease(when, **spec)) is held


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 1 << 20), (65_536, 1 << 20)),
        ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)),
        ((65_536, 1 << 20), None),
        ((100_000, 1 << 20), None),
        ((4096, 4096), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_as_many_descriptors_are_taken_as_may_be_had(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], wanted: tuple[int, int] | None
) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: taken.append(both))
    startup._take_descriptors()
    assert taken == ([] if wanted is None else [wanted])
