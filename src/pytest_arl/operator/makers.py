"""The Deployment that a pool's idle pods come from, and the ReplicaSets between them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import Key, controller, is_name, uid
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.pod_problems import Problem

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi
    from pytest_arl.operator.ownership import Maker
    from pytest_arl.operator.store import Store

__all__ = ["AT_ONCE", "Makers"]

_LOG = logging.getLogger(__name__)

AT_ONCE = 8
"""ReplicaSets that are asked for before anything else is done: a tenant's pods can name any number of them."""


class Makers:
    """Learns who made the pods that say they are a pool's.

    Attributes:
        trouble: why that is not known.
    """

    def __init__(self, api: AsyncApi, store: Store, pool: Key) -> None:
        self._api = api
        self._store = store
        self._pool = pool
        self.trouble: Problem | None = None

    def applied(self, deployment: Object) -> None:
        """Take note of the pool's Deployment."""
        if self._store.ours.applied(self._pool, uid(deployment)):
            self._store.sort_again(self._pool)

    async def look_up(self) -> list[Object]:
        """Ask for the ReplicaSets that nobody has asked for; the pool's idle pods, if any of them was unknown."""
        unknown = self._store.unknown_makers(self._pool)[:AT_ONCE]
        try:
            for maker in unknown:
                self._store.ours.learn(maker.uid, await self._deployment_of(maker))
        except ApiError as error:
            self.trouble = Problem("PoolFailed", f"the owner of its pods cannot be looked up: {error.message}")
            _LOG.warning(
                "the owner of a pool's pods is not known: %s", error, extra={"data": {"pool": self._pool.name}}
            )
            return []
        self.trouble = None
        return self._store.sort_again(self._pool) if unknown else []

    def behind(self) -> bool:
        """True if there are more to ask for."""
        return bool(self._store.unknown_makers(self._pool))

    async def _deployment_of(self, maker: Maker) -> str | None:
        if not is_name(maker.name):
            return None
        try:
            found = await self._api.get(path("replicasets", self._pool.namespace, maker.name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        reference = controller(found, "Deployment")
        return None if reference is None or uid(found) != maker.uid else str(reference["uid"])
