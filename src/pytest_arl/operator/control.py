"""The keepers of one operator that leads, and what wakes them.

Events come through :meth:`Control.event` and only ever say that something is worth a look. What no event tells is
found by the rounds, see rounds.py. One object that is not understood is told of and left alone; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.fields import sandbox_of
from pytest_arl.cluster.objects import Key, ended, key, uid, version
from pytest_arl.cluster.pod import POOL_LABEL
from pytest_arl.operator import lifetimes, sandbox_object
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from pytest_arl.operator.store import SELECTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context

__all__ = ["Control"]

_LOG = logging.getLogger(__name__)


class Control:
    """The operator, while it leads.

    Attributes:
        context: what its keepers work with.
        pools, sandboxes: their keepers.
        namespaces: those it works in; ``[None]`` is all of them.
        orphans: since when a Task is known whose Sandbox is missing, by UID (monotonic).
        clock: when each lease was renewed.
    """

    def __init__(self, context: Context, namespaces: Sequence[str]) -> None:
        self.context = context
        self.pools: dict[Key, PoolKeeper] = {}
        self.sandboxes: dict[Key, tuple[SandboxKeeper, asyncio.Future[None]]] = {}
        self.namespaces: Sequence[str | None] = list(namespaces) or [None]
        self.orphans: dict[str, float] = {}
        self.clock = lifetimes.Clock()
        self._store = context.store
        self._by_uid: dict[str, SandboxKeeper] = {}
        self._served: set[str | None] = set()

    # The level

    def listed(self, kind: str, there: Mapping[str, tuple[Key, int]], namespace: str | None, version: int) -> list[Key]:
        """All that there is of a kind (in a namespace) was seen: key and version by UID. The keys to look at again."""
        gone, news = self._store.reconcile(kind, there, namespace, version)
        for body in gone:
            self._alone(kind, body, lambda body=body: self._gone(kind, body))  # type: ignore[misc]  # a bound loop variable
        return news

    def begin(self, namespace: str | None = None) -> None:
        """All of a namespace, or of all, was listed, so nothing is decided on half of it: look at all of it."""
        self._served.add(namespace)
        for kind in ("warmpools", "sandboxes", "tasks"):
            for body in self._store.all(kind):
                if namespace in (None, key(body).namespace):
                    self._alone(kind, body, lambda kind=kind, body=body: self._look(kind, body))  # type: ignore[misc]  # as above
        self.look_at_idle_pods()

    def serves(self, namespace: str | None) -> bool:
        """True once all of a namespace was seen."""
        return None in self._served or namespace in self._served

    def look_at_idle_pods(self) -> None:
        """Connect to those that are ready, forget those that are gone."""
        pods = self._store.all("pods")
        self.context.idle_links.keep({uid(pod) for pod in pods})
        for pod in filter(self._store.is_idle, pods):
            if self.serves(key(pod).namespace):
                self._alone("pods", pod, lambda pod=pod: self.context.idle_links.look(pod))  # type: ignore[misc]  # a bound loop variable

    def event(self, kind: str, deleted: bool, body: Object) -> None:
        """Something was seen."""
        self._alone(kind, body, lambda: self._event(kind, deleted, body))

    def _alone(self, kind: str, body: Object, look: Callable[[], None]) -> None:
        """Look at one object; one that is not understood is told of, and stops nothing."""
        try:
            look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
            self.context.jobs.failed((kind, body["metadata"].get("uid")), error)
            self.context.notices.warn(
                body, "NotUnderstood", f"the operator does not serve it after an error: {type(error).__name__}: {error}"
            )

    def _event(self, kind: str, deleted: bool, body: Object) -> None:
        if deleted:
            # Those that are followed by a label seem to be gone where they lose it, and may get it back.
            self._store.remove(kind, body, version(body) if kind in SELECTED else math.inf)
            self._gone(kind, body)
        elif self._store.put(kind, body):
            if kind == "leases":
                self.clock.see(uid(body), body, time.monotonic())
            self._look(kind, body)

    def _look(self, kind: str, body: Object) -> None:
        if not self.serves(key(body).namespace):
            return
        if kind == "warmpools":
            self._pool(key(body)).wake.set()
            self._wake_all_of(key(body))
        elif kind == "sandboxes":
            self._keep(body)
        elif kind == "tasks":
            where = sandbox_of(body)
            if where in self.sandboxes:
                self.sandboxes[where][0].task_changed(body)
        elif kind == "pods":
            if self._store.is_idle(body):
                self.context.idle_links.look(body)
            self._look_at_pod(body, ended(body))

    def _look_at_pod(self, body: Object, over: bool) -> None:
        labels = body["metadata"].get("labels") or {}
        pool = self.pools.get(Key(body["metadata"]["namespace"], labels.get(POOL_LABEL, "")))
        its = self._store.ours.sandbox(body)
        if its is None:
            if pool is not None:
                pool.assign()
        else:
            keeper = self._by_uid.get(its)
            if keeper is not None:
                keeper.pod_changed(body, over)
        if pool is not None:
            pool.wake.set()

    def _gone(self, kind: str, body: Object) -> None:
        where = key(body)
        if kind == "sandboxes":
            kept = self.sandboxes.get(where)
            if kept is not None and kept[0].sandbox.uid == uid(body):
                del self.sandboxes[where]
                self._stop(kept)
            for pod in list(self._store.owned.get(uid(body), {}).values()):
                self.context.spawn(self.context.delete_pod(pod))
        elif kind == "leases":
            self.clock.forget(uid(body))
        elif kind == "pods":
            self.context.idle_links.gone(body)
            self._look_at_pod(body, True)
        elif kind == "warmpools" and where in self.pools:
            self.pools[where].wake.set()
        elif kind == "tasks":
            self.orphans.pop(uid(body), None)
            sandbox = sandbox_of(body)
            if sandbox in self.sandboxes:
                self.sandboxes[sandbox][0].task_gone(uid(body))

    def _pool(self, where: Key) -> PoolKeeper:
        if where not in self.pools:
            keeper = self.pools[where] = PoolKeeper(self.context, where, self.wake_sandbox)

            async def keep() -> None:
                await _for_ever(keeper.run, "a pool's keeper failed")
                if self.pools.get(where) is keeper:
                    del self.pools[where]

            self.context.spawn(keep())
        return self.pools[where]

    def _keep(self, body: Object) -> None:
        where = key(body)
        kept = self.sandboxes.get(where)
        if kept is not None and kept[0].sandbox.uid == uid(body):
            kept[0].changed(body)
            return
        if kept is not None:
            self._stop(kept)
        keeper = self._by_uid[uid(body)] = SandboxKeeper(self.context, self.pools, body, where)
        self.sandboxes[where] = keeper, self.context.jobs.start(_for_ever(keeper.run, "a sandbox's keeper failed"))

    def _stop(self, kept: tuple[SandboxKeeper, asyncio.Future[None]]) -> None:
        self._by_uid.pop(kept[0].sandbox.uid, None)
        kept[1].cancel()

    def _wake_all_of(self, pool: Key) -> None:
        for where in self._store.of_pool[pool].values():
            self.wake_sandbox(where)

    def wake_sandbox(self, where: Key) -> None:
        """Have a look at it."""
        if where in self.sandboxes:
            self.sandboxes[where][0].sandbox.wake.set()

    async def delete_sandbox(self, sandbox: Object) -> None:
        """Delete a Sandbox whose time is over. Whatever keeps it from being deleted, its Tasks end and its pod goes:
        who fills a Sandbox until its deletion has no room would keep a pod for ever.
        """
        try:
            await sandbox_object.delete(self.context.api, sandbox)
        except ApiError as error:
            keeper = self._by_uid.get(uid(sandbox))
            if keeper is not None:
                keeper.give_up(f"its time is over, and it cannot be deleted: {error}")
            raise


async def _for_ever(run: Callable[[], Awaitable[None]], complaint: str) -> None:
    """Run a keeper; one that fails is started again, as what it looks at is all there."""
    pause = 0.5
    while True:
        try:
            await run()
            return
        except Exception:  # noqa: BLE001 - whatever it is, the others go on
            _LOG.exception(complaint)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 30.0)
