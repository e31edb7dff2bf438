"""Everything of one operator that leads: its store, its keepers, and the rounds that it makes.

Events come through :meth:`Control.event` and only ever say that something is worth a look. Rounds find what no event
tells: times that are over, leases that nobody renews, pods of sandboxes that are gone, events that were missed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.channel import AgentConfig
from pytest_arl.operator import lifetimes, sandbox_status, task_status, wire
from pytest_arl.operator.api import Api, ApiError, path
from pytest_arl.operator.lobby import Lobby
from pytest_arl.operator.objects import Key, age, controller, is_name, key, leaving, name, uid, version
from pytest_arl.operator.ownership import Ownership
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from pytest_arl.operator.store import KINDS, Store
from pytest_arl.operator.task_runner import write_end
from pytest_arl.operator.template import workspace_of
from pytest_arl.operator.trouble import Trouble
from pytest_arl.pod import POOL_LABEL, RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from pytest_arl.operator.keys import Keys
    from pytest_arl.operator.objects import Object
    from pytest_arl.operator.store import Finished
    from pytest_arl.operator.template import Agent

__all__ = ["Control"]

_LOG = logging.getLogger(__name__)

_ROUND_SECONDS = 0.5
_LATE_SECONDS = 1.0
_RESYNC_SECONDS = 60.0
_NOT_FOUND_SECONDS = 10.0
"""How long a Task's Sandbox may be missing: the objects of one apply come in any order."""

_LAST_TASK_SECONDS = 30.0
_DELETES_AT_ONCE = 4
_BUSY_SURPLUS = 200
"""Finished Tasks over the bound that are left alone while the sandbox is busy: deleting costs what running does."""

_SELECTORS = {"pods": POOL_LABEL, "leases": RUN_LABEL}


class Control:
    """The operator. ``namespaces`` restricts it; none is all of them."""

    def __init__(self, api: Api, keys: Keys, epoch: int, agent: Agent, namespaces: Sequence[str]) -> None:
        self.api = api
        self.store = Store(Ownership(keys.claims))
        self.epoch = epoch
        self.agent = agent
        self.pools: dict[Key, PoolKeeper] = {}
        self._keys = keys
        self._namespaces: Sequence[str | None] = list(namespaces) or [None]
        self._sandboxes: dict[Key, tuple[SandboxKeeper, asyncio.Future[None]]] = {}
        self._by_uid: dict[str, SandboxKeeper] = {}
        self._jobs: set[asyncio.Future[Any]] = set()
        self._clock = lifetimes.Clock()
        self._orphans: dict[str, float] = {}
        self._deleting: set[str] = set()
        self._deletes = asyncio.Semaphore(_DELETES_AT_ONCE)
        self._synced = False
        self.lobby = Lobby(self.sign, epoch, config=self._agent_config, spawn=self.spawn, refused=self.check_epoch)

    def sign(self, nonce: bytes, pod: str, boot: str) -> bytes:
        """The answer to an agent's nonce."""
        return self._keys.sign(nonce, pod, boot, self.epoch)

    def _agent_config(self, pod: Object) -> AgentConfig:
        name_of_pool = (pod["metadata"].get("labels") or {}).get(POOL_LABEL, "")
        pool = self.store.get("warmpools", Key(pod["metadata"]["namespace"], name_of_pool)) or {"spec": {}}
        return AgentConfig(workspace=workspace_of(pool), cpu_time=wire.cpu_time(pool))

    def check_epoch(self, problem: str) -> None:
        """Stop at once where an agent has seen a newer leader."""
        if "older epoch" in problem:
            _LOG.critical("an agent has seen a newer leader: this one stops")
            os._exit(3)

    def spawn(self, job: Coroutine[Any, Any, Any]) -> None:
        """Do something beside; what goes wrong with it is logged."""
        _ = self._start(job)

    def _start(self, job: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a job failed", exc_info=task.exception())

    # The level

    async def sync(self) -> None:
        """List everything, so that nothing is decided on half of it; then look at all of it."""
        for kind in KINDS:
            for namespace in self._namespaces:
                params = {"labelSelector": _SELECTORS[kind]} if kind in _SELECTORS else {}
                found = await self.api.get(path(kind, namespace), **params)
                bodies = [_complete(kind, body) for body in found["items"]]
                for gone in self.store.replace(kind, bodies, namespace, version(found)):
                    self._gone(kind, gone)
        for lease in self.store.all("leases"):
            self._clock.see(uid(lease), lease, time.monotonic())
        self._synced = True
        for kind in ("warmpools", "sandboxes", "tasks"):
            for body in self.store.all(kind):
                self._look(kind, body)
        for pool in self.pools.values():
            pool.forget()
        pods = self.store.all("pods")
        self.lobby.keep({uid(pod) for pod in pods})
        for pod in filter(self.store.is_idle, pods):
            self.lobby.look(pod)
        await self._stray_pods()

    def event(self, kind: str, deleted: bool, body: Object) -> None:
        """Something was seen."""
        if deleted:
            self.store.remove(kind, body)
            self._gone(kind, body)
        elif self.store.put(kind, body):
            if kind == "leases":
                self._clock.see(uid(body), body, time.monotonic())
            self._look(kind, body)

    def _look(self, kind: str, body: Object) -> None:
        if not self._synced:
            return
        if kind == "warmpools":
            self._pool(key(body)).wake.set()
            self._wake_all_of(key(body))
        elif kind == "sandboxes":
            self._keep(body)
        elif kind == "tasks":
            where = Key(key(body).namespace, body["spec"]["sandboxRef"])
            if where in self._sandboxes:
                self._sandboxes[where][0].tasks_changed()
        elif kind == "pods":
            if self.store.is_idle(body):
                self.lobby.look(body)
            self._look_at_pod(body)

    def _look_at_pod(self, body: Object) -> None:
        labels = body["metadata"].get("labels") or {}
        pool = self.pools.get(Key(body["metadata"]["namespace"], labels.get(POOL_LABEL, "")))
        its = self.store.ours.sandbox(body)
        if its is None:
            if pool is not None:
                pool.assign()
        else:
            keeper = self._by_uid.get(its)
            if keeper is not None:
                keeper.wake.set()
        if pool is not None:
            pool.wake.set()

    def _gone(self, kind: str, body: Object) -> None:
        where = key(body)
        if kind == "sandboxes":
            kept = self._sandboxes.get(where)
            if kept is not None and kept[0].uid == uid(body):
                del self._sandboxes[where]
                self._stop(kept)
            for pod in list(self.store.owned.get(uid(body), {}).values()):
                self.spawn(self.delete_pod(pod))
        elif kind == "leases":
            self._clock.forget(uid(body))
        elif kind == "pods":
            self.lobby.gone(body)
            self._look_at_pod(body)
        elif kind == "warmpools" and where in self.pools:
            self.pools[where].wake.set()
        elif kind == "tasks":
            self._orphans.pop(uid(body), None)
            sandbox = Key(where.namespace, body["spec"]["sandboxRef"])
            if sandbox in self._sandboxes:
                self._sandboxes[sandbox][0].task_gone(uid(body))

    def _pool(self, where: Key) -> PoolKeeper:
        if where not in self.pools:
            keeper = self.pools[where] = PoolKeeper(self, where)

            async def keep() -> None:
                await _for_ever(keeper.run, "a pool's keeper failed")
                if self.pools.get(where) is keeper:
                    del self.pools[where]

            self.spawn(keep())
        return self.pools[where]

    def _keep(self, body: Object) -> None:
        where = key(body)
        kept = self._sandboxes.get(where)
        if kept is not None and kept[0].uid == uid(body):
            kept[0].wake.set()
            return
        if kept is not None:
            self._stop(kept)
        keeper = self._by_uid[uid(body)] = SandboxKeeper(self, body, where)
        self._sandboxes[where] = keeper, self._start(_for_ever(keeper.run, "a sandbox's keeper failed"))

    def _stop(self, kept: tuple[SandboxKeeper, asyncio.Future[None]]) -> None:
        self._by_uid.pop(kept[0].uid, None)
        kept[1].cancel()

    def _wake_all_of(self, pool: Key) -> None:
        for where, (keeper, _) in self._sandboxes.items():
            body = keeper.body
            if where.namespace == pool.namespace and body is not None and body["spec"]["poolRef"] == pool.name:
                keeper.wake.set()

    def wake_sandbox(self, where: Key) -> None:
        """Have a look at it."""
        if where in self._sandboxes:
            self._sandboxes[where][0].wake.set()

    async def delete_pod(self, pod: Object) -> None:
        """A used pod is never used again."""
        try:
            await self.api.delete(path("pods", pod["metadata"]["namespace"], name(pod)), uid(pod))
        except ApiError as error:
            _LOG.warning("a pod was not deleted: %s", error, extra={"data": {"pod": name(pod)}})

    # Rounds

    async def rounds(self) -> None:
        """For ever."""
        synced = time.monotonic()
        while True:
            began = time.monotonic()
            await asyncio.sleep(_ROUND_SECONDS)
            late = time.monotonic() - began - _ROUND_SECONDS
            if late > _LATE_SECONDS:
                _LOG.warning("the operator was held up for %.1f s: it needs more CPU", late)
            try:
                await self._round()
                if time.monotonic() - synced > _RESYNC_SECONDS:
                    await self.sync()
                    synced = time.monotonic()
            except ApiError as error:
                _LOG.warning("a round was not finished: %s", error)

    async def _round(self) -> None:
        await self._leases()
        await self._sandbox_lifetimes()
        await self._orphan_tasks()
        self._finished_tasks()

    async def _leases(self) -> None:
        moment = time.monotonic()
        for lease in self.store.all("leases"):
            self._clock.see(uid(lease), lease, moment)
            if lifetimes.is_of_a_run(lease) and not leaving(lease) and self._clock.over(uid(lease), lease, moment):
                where, version = key(lease), lease["metadata"]["resourceVersion"]
                _LOG.info("a lease is over: its sandboxes go", extra={"data": {"lease": "/".join(where)}})
                await self.api.delete(path("leases", *where), uid(lease), version)

    async def _sandbox_lifetimes(self) -> None:
        wall, moment = time.time(), time.monotonic()
        for keeper, _ in list(self._sandboxes.values()):
            body = keeper.body
            if body is None or leaving(body):
                continue
            pool = self.store.get("warmpools", Key(keeper.key.namespace, body["spec"]["poolRef"]))
            busy = keeper.busy or bool(self.store.open.get(keeper.key))
            why = lifetimes.expired(
                lifetimes.limits_of(body, pool), age=age(body, wall), idle=moment - keeper.active, busy=busy
            )
            if why is not None:
                await self._end(keeper, body, Trouble(*why))
            elif keeper.tell_activity(_LAST_TASK_SECONDS):
                self.spawn(keeper.write_activity())

    async def _end(self, keeper: SandboxKeeper, body: Object, why: Trouble) -> None:
        """Say why, for whoever watches; then delete."""
        _LOG.info("sandbox ends", extra={"data": {"sandbox": "/".join(keeper.key), "reason": why.reason}})
        if not sandbox_status.finished(body):
            where = path("sandboxes", *keeper.key, "status")
            status = {"metadata": {"uid": uid(body)}, "status": sandbox_status.failed(body, why)}
            try:
                self.store.put("sandboxes", await self.api.patch(where, status))
            except ApiError as error:
                if error.status != 404:
                    raise
        await self.api.delete(path("sandboxes", *keeper.key), uid(body))

    async def _orphan_tasks(self) -> None:
        """Tasks of sandboxes that are not there."""
        for task in self.store.all("tasks"):
            sandbox = Key(key(task).namespace, task["spec"]["sandboxRef"])
            if sandbox in self._sandboxes:
                self._orphans.pop(uid(task), None)
                continue
            text = f"there is no Sandbox {sandbox.name} in namespace {sandbox.namespace}"
            since = self._orphans.get(uid(task))
            if since is None:
                self._orphans[uid(task)] = time.monotonic()
                await self._say(task, task_status.waiting(task, "SandboxNotFound", text))
            elif time.monotonic() - since >= _NOT_FOUND_SECONDS:
                self._orphans.pop(uid(task), None)
                await write_end(
                    self,
                    task,
                    lambda _, task=task, text=text: task_status.failed(task, "SandboxNotFound", text, time.time()),  # type: ignore[misc]  # bound loop variables
                )

    async def _say(self, task: Object, status: Object) -> None:
        where = path("tasks", *key(task), "status")
        try:
            self.store.put("tasks", await self.api.patch(where, {"metadata": {"uid": uid(task)}, "status": status}))
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def _finished_tasks(self) -> None:
        wall = time.time()
        for sandbox, finished in list(self.store.over.items()):
            timed = [each for each in finished.values() if each.expires is not None and each.uid not in self._deleting]
            gone = [each for each in timed if each.expires is not None and wall >= each.expires]
            most = lifetimes.MOST_FINISHED + (_BUSY_SURPLUS if self.store.open.get(sandbox) else 0)
            if len(timed) > most:
                spare = set(lifetimes.surplus([(each.completed, each.key.name, each.uid) for each in timed]))
                gone += [each for each in timed if each.uid in spare and each not in gone]
            for each in gone:
                self._deleting.add(each.uid)
                self.spawn(self._delete_task(sandbox, each))

    async def _delete_task(self, sandbox: Key, task: Finished) -> None:
        try:
            async with self._deletes:
                await self.api.delete(path("tasks", *task.key), task.uid)
            self.store.over.get(sandbox, {}).pop(task.uid, None)
        finally:
            self._deleting.discard(task.uid)

    async def _stray_pods(self) -> None:
        """Pods in use by nobody: their Sandbox is gone, by a look at the API itself."""
        known = {uid(body) for body in self.store.all("sandboxes")}
        for pod in self.store.all("pods"):
            its = self.store.ours.claimed(pod)
            # Without a claim it is nobody's that we know of, whatever its labels say.
            if its is None or leaving(pod) or (its in known and self.store.ours.sandbox(pod) is not None):
                continue
            # A claim sets its owner, too: somebody has deleted its Sandbox and orphaned it.
            sandbox = None if its in known else controller(pod, "Sandbox")
            if sandbox is None or not is_name(sandbox["name"]) or not await self._is_there(pod, sandbox["name"], its):
                await self.delete_pod(pod)

    async def _is_there(self, pod: Object, sandbox: str, which: str) -> bool:
        try:
            found = await self.api.get(path("sandboxes", pod["metadata"]["namespace"], sandbox))
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return uid(found) == which


async def _for_ever(run: Any, complaint: str) -> None:
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


def _complete(kind: str, body: Object) -> Object:
    """An item of a list with what only the list says."""
    kinds = {
        "warmpools": ("arl.infra.io/v1alpha1", "WarmPool"),
        "sandboxes": ("arl.infra.io/v1alpha1", "Sandbox"),
        "tasks": ("arl.infra.io/v1alpha1", "Task"),
        "pods": ("v1", "Pod"),
        "leases": ("coordination.k8s.io/v1", "Lease"),
    }
    version, name = kinds[kind]
    body.setdefault("apiVersion", version)
    body.setdefault("kind", name)
    return body
