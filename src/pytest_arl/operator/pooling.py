"""Allocation of pods, and the pods that may start: a pool's decisions, as pure functions.

A pool's idle pods are its Deployment's business; each new one waits behind a scheduling gate. Lifting gates is how the
operator refills gently: replacements that start during a burst of claims compete for CPU with the tests that
caused it (acquiring took 23-27 ms alone and 75-170 ms beside them). But a suite that takes a sandbox for each test must
not wait for each of them (1.2 s): as many pods start as are claimed while one starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_arl.cluster.names import GROUP
from pytest_arl.cluster.objects import condition, created, ended, leaving, name, status_of, uid
from pytest_arl.operator.pod_problems import trouble_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.pod_problems import Problem

__all__ = [
    "AT_ONCE",
    "GATE",
    "QUIET_SECONDS",
    "RATE_SECONDS",
    "PodPlan",
    "Pods",
    "pool_trouble",
    "refill",
    "share",
    "sort_pods",
]

GATE = f"{GROUP}/gentle"

QUIET_SECONDS = 1.5
"""Time from a pool's last claim to the end of a burst. A guess between a test's setup and a person's patience."""

RATE_SECONDS = 5.0
"""Time over which the rate of claims is counted: long enough that 20 at once are a burst, and no rate that goes on."""

_START_SECONDS = 2.0
"""Time from lifting a gate to a pod that can be claimed: 1.2 s alone on 2 cores, more beside a suite's work."""

AT_ONCE = 4
"""Pods of a pool that start at one time while nobody waits. A node of 2 cores starts 3 to 4.5 in a second."""


@dataclass(slots=True)
class Pods:
    """A pool's idle pods: those that can be claimed (oldest first), those that start, those behind the gate."""

    ready: list[Object] = field(default_factory=list)
    starting: list[Object] = field(default_factory=list)
    gated: list[Object] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of pods."""
        return len(self.ready) + len(self.starting) + len(self.gated)


@dataclass(slots=True)
class PodPlan:
    """Actions for the present state: pairs of a waiter and its pod, for whom to create a pod, which gates to lift."""

    claims: list[tuple[str, Object]] = field(default_factory=list)
    cold: list[str] = field(default_factory=list)
    lift: list[Object] = field(default_factory=list)


def sort_pods(pods: Collection[Object], reserved: Collection[str], lifting: Collection[str] = ()) -> Pods:
    """A pool's idle pods by what can be done with them. Those of ``reserved`` UIDs are spoken for, the gates of
    ``lifting`` are just being lifted.
    """
    found = Pods()
    for pod in sorted(pods, key=lambda pod: (created(pod), name(pod))):
        if leaving(pod) or uid(pod) in reserved or ended(pod):
            continue
        if _gated(pod) and uid(pod) not in lifting:
            found.gated.append(pod)
        elif _ready(pod):
            found.ready.append(pod)
        else:
            found.starting.append(pod)
    return found


def share(waiting: Sequence[str], special: Collection[str], pods: Pods) -> PodPlan:
    """Pods for those who wait, first come first served. ``special`` ones want other resources than the pool's.

    Whoever gets no ready pod waits for one that starts; a gated one is started for him; a pod of his own is created
    where there are none of either.
    """
    plan = PodPlan(cold=[each for each in waiting if each in special])
    plain = [each for each in waiting if each not in special]
    plan.claims = list(zip(plain, pods.ready, strict=False))
    left = plain[len(plan.claims) + len(pods.starting) :]
    plan.lift = pods.gated[: len(left)]
    plan.cold += left[len(plan.lift) :]
    return plan


def refill(pods: Pods, replicas: int, claims: int, quiet_seconds: float) -> list[Object]:
    """Gates to lift for those who come next: once it is quiet, all of the pool; before that a quarter of it, or as many
    as will be claimed while one starts, if ``claims`` in the last RATE_SECONDS go on.
    """
    if quiet_seconds >= QUIET_SECONDS:
        wanted = replicas
    else:
        wanted = min(replicas, max((replicas + 3) // 4, math.ceil(claims * _START_SECONDS / RATE_SECONDS)))
    alive = len(pods.ready) + len(pods.starting)
    return pods.gated[: max(0, min(AT_ONCE - len(pods.starting), wanted - alive))]


def pool_trouble(pods: Pods) -> Problem | None:
    """The problem that keeps the pool from being ready, by the oldest pod that says so."""
    for pod in pods.starting:
        found = trouble_of(pod)
        if found is not None:
            return found
    return None


def _gated(pod: Object) -> bool:
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates") or ())


def _ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True" and bool(status_of(pod).get("podIP"))
