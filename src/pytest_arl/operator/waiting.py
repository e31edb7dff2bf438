"""Sandboxes in the queue for a pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import uid
from pytest_arl.operator import template
from pytest_arl.operator.resources import ResourcesInvalid

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pytest_arl.cluster.objects import Object

__all__ = ["PodInvalid", "Waiter", "Wishes"]


class PodInvalid(Exception):
    """No pod can be made as the sandbox asks for it."""


@dataclass(slots=True)
class Waiter:
    """A sandbox that wants a pod.

    Attributes:
        sandbox: whose it is.
        pod: what it gets; cancelled where it no longer waits.
        since: its creation, for the order.
    """

    sandbox: Object
    pod: asyncio.Future[Object]
    since: tuple[str, str]


class Wishes:
    """The resources that those who wait ask for, compared with their pool's once in each version of the pool.

    The queue is looked at for each who comes: who asks for nothing else than the pool's must not cost a look at the
    whole of its template each time.
    """

    def __init__(self, pool: Callable[[], Object | None]) -> None:
        """``pool()`` is the pool as it is now; None where it is gone."""
        self._pool = pool
        self._own: tuple[_Version | None, Object | None] = (None, None)
        self._known: dict[str, tuple[_Version, bool]] = {}

    def check(self, sandbox: Object) -> None:
        """Raise ResourcesInvalid for one that asks for more than it can have."""
        self._differs(sandbox)

    def own_pod(self, sandbox: Object) -> bool:
        """True if a pool's idle pod is not as it wants one."""
        pool = self._pool()
        if pool is None:
            return False
        known, version = self._known.get(uid(sandbox)), _version(pool)
        if known is None or known[0] != version:
            try:
                known = version, self._differs(sandbox)
            except ResourcesInvalid:  # since the pool was changed: refused where its pod is made
                known = version, True
            self._known[uid(sandbox)] = known
        return known[1]

    def forget(self, sandbox: Object) -> None:
        """It waits no longer."""
        self._known.pop(uid(sandbox), None)

    def _differs(self, sandbox: Object) -> bool:
        wanted, pool = sandbox["spec"].get("resources"), self._pool()
        if wanted is None or pool is None:
            return False
        own = self._own_resources(pool)
        return own is not None and template.resources_for(wanted, own, pool) != own

    def _own_resources(self, pool: Object) -> Object | None:
        """Resources of the pool's executor; None where its template is none, as the pool's status says."""
        version = _version(pool)
        if self._own[0] != version:
            try:
                self._own = version, template.own_resources(pool)
            except template.TemplateInvalid:
                self._own = version, None
        return self._own[1]


_Version = tuple[str, int]


def _version(pool: Object) -> _Version:
    """Another one wherever its spec is another one."""
    return uid(pool), pool["metadata"].get("generation", 1)
