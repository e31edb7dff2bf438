"""Everything of one operator that leads: its store and its keepers.

Events come through :meth:`Control.event` and only ever say that something is worth a look. What no event tells is
found by the rounds, see rounds.py. One object that is not understood is told of and left alone; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pytest_arl.agent_client.channel import AgentConfig
from pytest_arl.cluster.objects import Key, ended, key, name, uid, version
from pytest_arl.cluster.pod import POOL_LABEL
from pytest_arl.cluster.proof import agent_mark
from pytest_arl.operator import lifetimes, task_message
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.election import LeadershipLost
from pytest_arl.operator.events import Events
from pytest_arl.operator.idle_links import IdleLinks
from pytest_arl.operator.introduction import OLDER_EPOCH, Claim, Introduction
from pytest_arl.operator.jobs import Jobs
from pytest_arl.operator.network import Policies
from pytest_arl.operator.notices import Notices
from pytest_arl.operator.outputs import Outputs
from pytest_arl.operator.ownership import Ownership
from pytest_arl.operator.paths import path
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.operator.room import MOST
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from pytest_arl.operator.store import SELECTED, Store
from pytest_arl.operator.template import workspace_of
from pytest_arl.operator.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.api import Api
    from pytest_arl.operator.election import Term
    from pytest_arl.operator.introduction import LinkLost
    from pytest_arl.operator.keys import Keys
    from pytest_arl.operator.pod_problems import Problem
    from pytest_arl.operator.template import Agent

__all__ = ["Control"]

_LOG = logging.getLogger(__name__)

_DOUBT_SECONDS = 1.0
"""Between two looks at our own Lease, however many agents say that there is a newer leader."""


class Control:
    """The operator, while it leads.

    Attributes:
        namespaces: those it works in; ``[None]`` is all of them.
        orphans: since when a Task is known whose Sandbox is missing, by UID (monotonic).
        clock: when each lease was renewed.
        events: what others say of objects.
        outputs: of the Tasks that run.
        turns: for what takes a pool's template milliseconds.
        tries: by namespace, for who asks the API server whether it would take a pod.
    """

    def __init__(self, api: Api, keys: Keys, term: Term, agent: Agent, namespaces: Sequence[str]) -> None:
        self.api = api
        self.store = Store(Ownership(keys.claims), self._left_out)
        self.jobs = Jobs()
        self.notices = Notices(api, self.jobs, term.identity)
        self.epoch = term.epoch
        self.agent = agent
        self.pools: dict[Key, PoolKeeper] = {}
        self.sandboxes: dict[Key, tuple[SandboxKeeper, asyncio.Future[None]]] = {}
        self.namespaces: Sequence[str | None] = list(namespaces) or [None]
        self.orphans: dict[str, float] = {}
        self.clock = lifetimes.Clock()
        self.turns = Turns()
        self.outputs = Outputs()
        self.events = Events(api)
        self.tries: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.policies = Policies(api)
        self._keys = keys
        self._term = term
        self._by_uid: dict[str, SandboxKeeper] = {}
        self._served: set[str | None] = set()
        self._doubted = 0.0
        self.introduction = Introduction(self.sign, keys.marks, self.epoch)
        self.idle_links = IdleLinks(self.introduction, config=self._agent_config, spawn=self.spawn, refused=self.heard)

    def sign(self, nonce: bytes, pod: str, boot: str) -> bytes:
        """The answer to an agent's nonce."""
        return self._keys.sign(nonce, pod, boot, self.epoch)

    @property
    def task_key(self) -> str:
        """The key that clients seal theirs for."""
        return self._keys.modulus

    def opened(self, sealed: str) -> bytes | None:
        """A client's key that was sealed for this operator."""
        return self._keys.opened(sealed)

    def claim_of(self, sandbox: Object) -> Claim | None:
        """Whose a Sandbox is, as its agent is told; None where nobody holds it."""
        holder = sandbox["spec"].get("holder") or {}
        if "secretHash" not in holder:
            return None
        key = self.opened(holder["sealedKey"]) if "sealedKey" in holder else None
        return Claim(holder["secretHash"], None if key is None else agent_mark(key, uid(sandbox)))

    def _agent_config(self, pod: Object) -> AgentConfig:
        name_of_pool = (pod["metadata"].get("labels") or {}).get(POOL_LABEL, "")
        pool = self.store.get("warmpools", Key(pod["metadata"]["namespace"], name_of_pool)) or {"spec": {}}
        return AgentConfig(workspace=workspace_of(pool), cpu_time=task_message.cpu_time(pool))

    def heard(self, problem: LinkLost) -> None:
        """An agent has refused the operator. That another one leads is a reason to look, and never to believe it."""
        moment = time.monotonic()
        if problem.code != OLDER_EPOCH or moment - self._doubted < _DOUBT_SECONDS:
            return
        self._doubted = moment
        self.jobs.once("leadership", self._confirm)

    async def _confirm(self) -> None:
        """Stop at once where our own Lease says that another one leads."""
        try:
            await self._term.confirm()
        except LeadershipLost as lost:
            _LOG.critical("the lease is lost: %s", lost)
            os._exit(3)

    def spawn(self, job: Coroutine[Any, Any, Any]) -> None:
        """Do something beside; what goes wrong with it is logged."""
        _ = self.jobs.start(job)

    # The level

    def listed(self, kind: str, there: Mapping[str, tuple[Key, int]], namespace: str | None, version: int) -> list[Key]:
        """All that there is of a kind (in a namespace) was seen: key and version by UID. The keys to look at again."""
        gone, news = self.store.reconcile(kind, there, namespace, version)
        for body in gone:
            self._alone(kind, body, lambda body=body: self._gone(kind, body))  # type: ignore[misc]  # a bound loop variable
        return news

    def begin(self, namespace: str | None = None) -> None:
        """All of a namespace, or of all, was listed, so nothing is decided on half of it: look at all of it."""
        self._served.add(namespace)
        for kind in ("warmpools", "sandboxes", "tasks"):
            for body in self.store.all(kind):
                if namespace in (None, key(body).namespace):
                    self._alone(kind, body, lambda kind=kind, body=body: self._look(kind, body))  # type: ignore[misc]  # as above
        self.look_at_idle_pods()

    def serves(self, namespace: str | None) -> bool:
        """True once all of a namespace was seen."""
        return None in self._served or namespace in self._served

    def look_at_idle_pods(self) -> None:
        """Connect to those that are ready, forget those that are gone."""
        pods = self.store.all("pods")
        self.idle_links.keep({uid(pod) for pod in pods})
        for pod in filter(self.store.is_idle, pods):
            if self.serves(key(pod).namespace):
                self._alone("pods", pod, lambda pod=pod: self.idle_links.look(pod))  # type: ignore[misc]  # a bound loop variable

    def event(self, kind: str, deleted: bool, body: Object) -> None:
        """Something was seen."""
        self._alone(kind, body, lambda: self._event(kind, deleted, body))

    def _alone(self, kind: str, body: Object, look: Callable[[], None]) -> None:
        """Look at one object; one that is not understood is told of, and stops nothing."""
        try:
            look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
            self.jobs.failed((kind, body["metadata"].get("uid")), error)
            self.notices.warn(body, "NotUnderstood", f"the operator leaves it alone: {type(error).__name__}: {error}")

    def _left_out(self, kind: str, body: Object) -> None:
        text = (
            f"the {kind} of this namespace take more than {MOST[kind] >> 20} MiB of the operator's memory: this one, "
        )
        text += "and those that come after it, are left alone until there is room. A ResourceQuota bounds their number"
        self.notices.warn(body, "NamespaceFull", text)

    def _event(self, kind: str, deleted: bool, body: Object) -> None:
        if deleted:
            # Those that are followed by a label seem to be gone where they lose it, and may get it back.
            self.store.remove(kind, body, version(body) if kind in SELECTED else math.inf)
            self._gone(kind, body)
        elif self.store.put(kind, body):
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
            where = Key(key(body).namespace, body["spec"]["sandboxRef"])
            if where in self.sandboxes:
                self.sandboxes[where][0].task_changed(body)
        elif kind == "pods":
            if self.store.is_idle(body):
                self.idle_links.look(body)
            self._look_at_pod(body, ended(body))

    def _look_at_pod(self, body: Object, over: bool) -> None:
        labels = body["metadata"].get("labels") or {}
        pool = self.pools.get(Key(body["metadata"]["namespace"], labels.get(POOL_LABEL, "")))
        its = self.store.ours.sandbox(body)
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
            if kept is not None and kept[0].uid == uid(body):
                del self.sandboxes[where]
                self._stop(kept)
            for pod in list(self.store.owned.get(uid(body), {}).values()):
                self.spawn(self.delete_pod(pod))
        elif kind == "leases":
            self.clock.forget(uid(body))
        elif kind == "pods":
            self.idle_links.gone(body)
            self._look_at_pod(body, True)
        elif kind == "warmpools" and where in self.pools:
            self.pools[where].wake.set()
        elif kind == "tasks":
            self.orphans.pop(uid(body), None)
            sandbox = Key(where.namespace, body["spec"]["sandboxRef"])
            if sandbox in self.sandboxes:
                self.sandboxes[sandbox][0].task_gone(uid(body))

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
        kept = self.sandboxes.get(where)
        if kept is not None and kept[0].uid == uid(body):
            kept[0].changed(body)
            return
        if kept is not None:
            self._stop(kept)
        keeper = self._by_uid[uid(body)] = SandboxKeeper(self, body, where)
        self.sandboxes[where] = keeper, self.jobs.start(_for_ever(keeper.run, "a sandbox's keeper failed"))

    def _stop(self, kept: tuple[SandboxKeeper, asyncio.Future[None]]) -> None:
        self._by_uid.pop(kept[0].uid, None)
        kept[1].cancel()

    def _wake_all_of(self, pool: Key) -> None:
        for where in self.store.of_pool[pool].values():
            self.wake_sandbox(where)

    def wake_sandbox(self, where: Key) -> None:
        """Have a look at it."""
        if where in self.sandboxes:
            self.sandboxes[where][0].wake.set()

    async def fail_sandbox_of(self, task: Object, why: Problem) -> None:
        """Nothing more runs in a Task's Sandbox."""
        kept = self.sandboxes.get(Key(key(task).namespace, task["spec"]["sandboxRef"]))
        if kept is not None:
            await kept[0].fail(why)

    def give_up_sandbox(self, sandbox: Object, why: str) -> None:
        """Nothing more runs in a Sandbox, whatever its object says."""
        keeper = self._by_uid.get(uid(sandbox))
        if keeper is not None:
            keeper.give_up(why)

    async def delete_pod(self, pod: Object) -> None:
        """A used pod is never used again."""
        try:
            await self.api.delete(path("pods", pod["metadata"]["namespace"], name(pod)), uid(pod))
        except ApiError as error:
            _LOG.warning("a pod was not deleted: %s", error, extra={"data": {"pod": name(pod)}})


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
