"""Ends of objects by time: idle sandboxes, old ones, finished tasks, leases that nobody renews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.cluster.fields import sandbox_defaults
from pytest_arl.cluster.objects import name, owner
from pytest_arl.cluster.pod import LEASE_LABEL, LEASE_PREFIX, RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pytest_arl.cluster.objects import Object

__all__ = [
    "IDLE_SECONDS",
    "MOST_FINISHED",
    "MOST_FINISHED_BY_HAND",
    "Clock",
    "Lifetimes",
    "expired",
    "is_of_a_run",
    "limits_of",
    "surplus",
]

IDLE_SECONDS = 600
"""Idle time of a sandbox that is not kept and has no lease, such as one of a crashed ``kubectl apply`` by hand."""

MOST_FINISHED = 50
"""Finished Tasks with a ttl that a sandbox keeps; each may be half a megabyte in etcd."""

MOST_FINISHED_BY_HAND = 500
"""Finished Tasks without a ttl that a sandbox keeps: somebody may want to read them."""

_DEFAULT_LEASE_SECONDS, _LONGEST_LEASE_SECONDS = 60, 3600
"""The longest term of a Lease: somebody else may write a longer one, which is to keep no sandbox."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds a sandbox may be idle, and may live; None is for ever."""

    idle: float | None
    lifetime: float | None


def limits_of(sandbox: Object, pool: Object | None) -> Lifetimes:
    """A sandbox's own limits, else its pool's; 0 is never. One that nobody holds and that is not kept has a default."""
    spec = sandbox["spec"]
    defaults = sandbox_defaults(pool)
    idle = spec.get("idleTimeoutSeconds", defaults.get("idleTimeoutSeconds"))
    if idle is None and not spec.get("keepAlive") and owner(sandbox, "Lease") is None:
        idle = IDLE_SECONDS
    lifetime = spec.get("maxLifetimeSeconds", defaults.get("maxLifetimeSeconds"))
    return Lifetimes(idle or None, lifetime or None)


def expired(limits: Lifetimes, *, age: float, idle: float, busy: bool) -> tuple[str, str] | None:
    """The reason why a sandbox ends now, and a sentence. A running task is never idle."""
    if limits.lifetime is not None and age >= limits.lifetime:
        return "LifetimeEnded", f"it has lived for its maxLifetimeSeconds, {limits.lifetime:g}"
    if limits.idle is not None and not busy and idle >= limits.idle:
        return "IdleTimeout", f"it was idle for {limits.idle:g} seconds"
    return None


def surplus(finished: list[tuple[str, str, str]], most: int = MOST_FINISHED) -> list[str]:
    """Finished Tasks that go before their time: all but the latest. Each is (completion, name, UID)."""
    return [uid for _, _, uid in sorted(finished)[: max(0, len(finished) - most)]]


def is_of_a_run(lease: Object) -> bool:
    """True if a process of a test run holds its sandboxes by this Lease: name, label and holder agree.

    A label alone is on anybody's Lease as soon as somebody puts it there.
    """
    labels = lease["metadata"].get("labels") or {}
    holder = (lease.get("spec") or {}).get("holderIdentity")
    same = labels.get(LEASE_LABEL) == name(lease) == holder
    return same and bool(labels.get(RUN_LABEL)) and name(lease).startswith(LEASE_PREFIX)


class Clock:
    """Ages of the leases' latest renewals, by this process's own monotonic clock.

    The renewTime in a Lease is its holder's wall clock, which may be wrong by more than the lease lasts; that it
    changed is all that counts. What was never seen to change counts from when it was first seen.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[str, float]] = {}

    def see(self, which: Hashable, lease: Object, monotonic: float) -> None:
        """Take note of a lease."""
        renewed = (lease.get("spec") or {}).get("renewTime") or ""
        before = self._seen.get(which)
        if before is None or before[0] != renewed:
            self._seen[which] = (renewed, monotonic)

    def forget(self, which: Hashable) -> None:
        """A lease is gone."""
        self._seen.pop(which, None)

    def over(self, which: Hashable, lease: Object, monotonic: float) -> bool:
        """True if its holder let it run out."""
        seen = self._seen.get(which)
        if seen is None:
            return False
        lasts = (lease.get("spec") or {}).get("leaseDurationSeconds") or _DEFAULT_LEASE_SECONDS
        return monotonic - seen[1] > min(float(lasts), _LONGEST_LEASE_SECONDS)
