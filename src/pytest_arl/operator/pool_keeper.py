"""One pool: its Deployment, its status, and pods for the sandboxes that wait for one."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import MOST_MESSAGE, Key, created, key, leaving, name, status_of, uid
from pytest_arl.operator import pooling, template
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.makers import Makers
from pytest_arl.operator.pod_problems import Problem, refused_pod
from pytest_arl.operator.pool_deployment import PoolDeployment
from pytest_arl.operator.pool_status import Told, pool_status, same
from pytest_arl.operator.resources import ResourcesInvalid
from pytest_arl.operator.waiting import PodInvalid, Waiter, Wishes
from pytest_arl.text.untrusted import readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context

__all__ = ["PoolKeeper"]

_LOG = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0
"""Between two writes of a pool's status: each claim changes it, and nobody counts that fast."""

_SHORT_SECONDS = 2.0
"""Seconds between two questions why a Deployment has fewer pods than it should."""

_LONGEST_REFUSAL = 8.0
"""Seconds between two tries to make a pod that the API server refuses."""


class PoolKeeper:
    """Keeps one WarmPool."""

    def __init__(self, context: Context, where: Key, wake_sandbox: Callable[[Key], None]) -> None:
        """``wake_sandbox`` has a Sandbox looked at that waits for a pod: there is another reason for that."""
        self._context = context
        self._api = context.api
        self._store = context.store
        self._wake_sandbox = wake_sandbox
        self.key = where
        self.wake = asyncio.Event()
        self._waiters: dict[str, Waiter] = {}
        self._reserved: set[str] = set()
        self._lifting: set[str] = set()
        self._claims: deque[float] = deque()
        self._status_at = 0.0
        self._short: Problem | None = None
        self._refused: Problem | None = None
        self._refusals = 0
        self._try_at = 0.0
        self._seen: tuple[Problem | None, int] = (None, 0)
        self._explained: object = None
        self._told = True
        self._makers = Makers(self._api, self._store, where)
        self._deployment = PoolDeployment(context, where, self._makers)
        self._wishes = Wishes(lambda: self.body)
        self._said: tuple[Problem | None, Problem] = (None, Problem("", ""))

    @property
    def body(self) -> Object | None:
        """The pool."""
        return self._store.get("warmpools", self.key)

    # For sandboxes

    def ask(self, sandbox: Object) -> Waiter:
        """Get in the queue for a pod. Whoever asks for what the pool does not allow gets PodInvalid at once."""
        future: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        waiter = Waiter(sandbox, future, (created(sandbox), name(sandbox)))
        try:
            self._wishes.check(sandbox)
        except ResourcesInvalid as problem:
            future.set_exception(PodInvalid(str(problem)))
            return waiter
        self._waiters[uid(sandbox)] = waiter
        self.assign()
        return waiter

    def withdraw(self, waiter: Waiter) -> None:
        """Leave the queue."""
        waiter.pod.cancel()
        self._waiters.pop(uid(waiter.sandbox), None)
        self._wishes.forget(waiter.sandbox)

    def why(self) -> Problem:
        """The reason that there is no pod yet for those that wait, made fit to be shown once for all of them."""
        trouble, starting = self._seen
        waits = Problem("WaitingForPod", f"waiting for a pod of pool {self.key.name}: {starting} starting")
        found = self._deployment.trouble or self._makers.trouble or self._refused or trouble or self._short or waits
        if found != self._said[0]:
            self._said = found, Problem(found.reason, readable(found.message, MOST_MESSAGE))
        return self._said[1]

    def _look(self) -> bool:
        """Find out once what every waiter is told; True if it is another than before."""
        found = self._pods()
        self._seen = pooling.pool_trouble(found), len(found.starting)
        before = self._explained
        self._explained = self._deployment.trouble, self._makers.trouble, self._refused, self._seen, self._short
        return self._explained != before

    def assign(self) -> None:
        """Hand out what there is, start what is missing."""
        body = self.body
        if body is None or leaving(body):
            return
        found = self._pods()
        if self._waiters and self._deployment.was_valid:
            queue = sorted(self._waiters.values(), key=lambda waiter: waiter.since)
            special = {uid(each.sandbox) for each in queue if self._wishes.own_pod(each.sandbox)}
            plan = pooling.share([uid(each.sandbox) for each in queue], special, found)
            for who, pod in plan.claims:
                self._reserved.add(uid(pod))
                self._claims.append(time.monotonic())
                self._context.spawn(self._claim(self._waiters.pop(who), pod))
            made = self._deployment.template(body)
            for who in self._may_be_made(plan.cold) if made is not None else ():
                self._context.spawn(self._create(self._waiters.pop(who)))
            lift = plan.lift
            found = self._pods()
        else:
            lift = []
            self._refused, self._refusals = None, 0
        # Who waits first: with a gate to lift for each of them, those who come next have time.
        for pod in lift or pooling.refill(found, body["spec"]["replicas"], *self._recent_claims()):
            self._lifting.add(uid(pod))
            self._context.spawn(self._lift(pod))

    def _may_be_made(self, cold: list[str]) -> list[str]:
        """Claims that get a pod of their own now: where the API server has refused one, they try one after another."""
        if not cold:
            self._refused, self._refusals = None, 0
        if self._refused is None:
            return cold
        moment = time.monotonic()
        if moment < self._try_at:
            return []
        self._try_at = moment + _LONGEST_REFUSAL  # until the answer comes
        return cold[:1]

    def _be_refused(self, why: Problem) -> None:
        """A pod was refused, by a quota perhaps: the answer for all who wait."""
        pause = min(2.0 ** min(self._refusals, 10), _LONGEST_REFUSAL)
        self._refused, self._refusals = why, self._refusals + 1
        self._try_at = time.monotonic() + pause
        asyncio.get_running_loop().call_later(pause + 0.01, self.wake.set)

    def _be_allowed(self) -> None:
        """A pod was made: the next one may try."""
        self._refusals, self._try_at = 0, 0.0
        if self._refused is not None:
            self.wake.set()

    def _recent_claims(self) -> tuple[int, float]:
        """The number of recent claims, and the seconds since the latest."""
        moment = time.monotonic()
        quiet = moment - self._claims[-1] if self._claims else math.inf
        while self._claims and moment - self._claims[0] > pooling.RATE_SECONDS:
            self._claims.popleft()
        return len(self._claims), quiet

    def _pods(self) -> pooling.Pods:
        return pooling.sort_pods(self._store.idle[self.key].values(), self._reserved, self._lifting)

    async def _claim(self, waiter: Waiter, pod: Object) -> None:
        """Make an idle pod this sandbox's. Whoever loses a race asks again."""
        where = path("pods", self.key.namespace, name(pod))
        try:
            mine = await self._api.patch(where, self._marked(template.claim(waiter.sandbox, pod), waiter.sandbox, pod))
        except ApiError as error:
            _LOG.info("a claim was refused: %s", error, extra={"data": {"pod": name(pod)}})
            await self._look_again(where, pod)
            # Perhaps it was not, and the answer was lost.
            found = self._store.owned.get(uid(waiter.sandbox), {}).get(name(pod))
            if found is None:
                self._back(waiter)
            else:
                await self._hand_over(waiter, found)
        else:
            self._store.put("pods", mine)
            await self._hand_over(waiter, mine)
        finally:
            self._reserved.discard(uid(pod))
            self.wake.set()
            asyncio.get_running_loop().call_later(pooling.QUIET_SECONDS + 0.1, self.wake.set)

    def _marked(self, change: Object, sandbox: Object, pod: Object) -> Object:
        """A patch of a pod that also says that it is this operator which claims it."""
        change["metadata"]["annotations"] = self._store.ours.mark(pod, sandbox)
        return change

    async def _hand_over(self, waiter: Waiter, pod: Object) -> None:
        """Give a sandbox its pod. Nobody else gets one that was claimed for a sandbox that is gone."""
        if waiter.pod.cancelled():
            await self._context.delete_pod(pod)
        else:
            waiter.pod.set_result(pod)

    async def _look_again(self, where: str, pod: Object) -> None:
        try:
            self._store.put("pods", await self._api.get(where))
        except ApiError as error:
            if error.status == 404:
                self._store.remove("pods", pod)
            else:
                await asyncio.sleep(0.5)

    def _back(self, waiter: Waiter) -> None:
        if not waiter.pod.cancelled():
            self._waiters[uid(waiter.sandbox)] = waiter
            self.wake.set()

    async def _create(self, waiter: Waiter) -> None:
        """A pod of its own."""
        await self._context.turns.mine()
        body = self.body
        made = None if body is None or waiter.pod.cancelled() else self._deployment.template(body)
        if body is None or made is None:
            self._back(waiter)
            return
        pod_name = f"{name(waiter.sandbox)}-{secrets.token_hex(3)}"
        try:
            made = template.with_resources(made, waiter.sandbox["spec"].get("resources"), body)
        except ResourcesInvalid as problem:
            waiter.pod.set_exception(PodInvalid(str(problem)))
            return
        try:
            mine = await self._api.create(
                path("pods", self.key.namespace), template.cold_pod(waiter.sandbox, made, pod_name)
            )
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                # The answer to a first try was lost: nobody else can have guessed the name.
                mine = await self._api.get(path("pods", self.key.namespace, pod_name))
            elif error.status in (400, 422):
                if not waiter.pod.cancelled():
                    waiter.pod.set_exception(PodInvalid(error.message))
                return
            else:
                self._be_refused(refused_pod(error.message))
                self._back(waiter)
                return
        self._be_allowed()
        # Its UID is known only now.
        change = self._marked({"metadata": {"uid": uid(mine)}}, waiter.sandbox, mine)
        try:
            mine = await self._api.patch(path("pods", self.key.namespace, pod_name), change)
        except ApiError as error:
            _LOG.warning("a pod of its own was lost: %s", error, extra={"data": {"pod": pod_name}})
            await self._context.delete_pod(mine)
            await asyncio.sleep(1.0)
            self._back(waiter)
            return
        self._store.put("pods", mine)
        await self._hand_over(waiter, mine)

    async def _lift(self, pod: Object) -> None:
        gates = [gate for gate in pod["spec"].get("schedulingGates") or () if gate["name"] != pooling.GATE]
        where = path("pods", self.key.namespace, name(pod))
        try:
            change = {"metadata": {"uid": uid(pod)}, "spec": {"schedulingGates": gates or None}}
            self._store.put("pods", await self._api.patch(where, change))
        except ApiError as error:
            if error.status not in (404, 409, 422):
                _LOG.warning("a pod was not started: %s", error, extra={"data": {"pod": name(pod)}})
        finally:
            self._lifting.discard(uid(pod))

    # For itself

    async def run(self) -> None:
        """Run until the pool is gone."""
        while (body := self.body) is not None:
            self.wake.clear()
            if not leaving(body):
                await self._deployment.apply(body)
                for pod in await self._makers.look_up():
                    self._context.idle_links.look(pod)
                self.assign()
                await self._explain(body)
                await self._tell(body)
            if self._look():
                for waiter in self._waiters.values():
                    self._wake_sandbox(key(waiter.sandbox))
            await self._pause()
        for waiter in list(self._waiters.values()):
            self.withdraw(waiter)
        self._store.ours.forget(self.key)

    async def _pause(self) -> None:
        if self._makers.behind() and self._makers.trouble is None:
            self.wake.set()
        busy = self._waiters or self._short is not None or self._lacks() or self._makers.trouble or not self._told
        busy = busy or self._deployment.behind
        try:
            async with asyncio.timeout(_SHORT_SECONDS if busy else None):
                await self.wake.wait()
        except TimeoutError:
            pass
        # What comes together is looked at together.
        await asyncio.sleep(0.02)

    def _lacks(self) -> bool:
        body = self.body
        return body is not None and self._pods().total + len(self._reserved) < body["spec"]["replicas"]

    def forget(self) -> None:
        """Look at the Deployment again: it may have been changed or deleted."""
        self._deployment.forget()
        self._store.ours.forget_strangers()
        self.wake.set()

    async def _explain(self, body: Object) -> None:
        """Ask the Deployment for the reason where pods are missing."""
        if not self._lacks() or self._deployment.trouble is not None:
            self._short = None
            return
        try:
            self._short = await self._deployment.shortage()
        except ApiError:
            return
        if self._short is not None:
            _LOG.info("a pool lacks pods", extra={"data": {"pool": name(body), "reason": self._short.reason}})

    async def _tell(self, body: Object) -> None:
        """Write the status, where it has changed and not too often."""
        found = self._pods()
        source = self._deployment
        trouble = source.trouble or self._makers.trouble or self._short or pooling.pool_trouble(found)
        valid = source.trouble is None
        told = Told(
            found,
            len(self._store.allocated[self.key]),
            trouble,
            source.network,
            source.exposed if valid else "",
            valid=valid,
            sidecar=valid and source.has_sidecar,
        )
        status = pool_status(body, told, self._context.task_key)
        self._told = same(status_of(body), status)
        if self._told or time.monotonic() - self._status_at < _STATUS_SECONDS:
            return
        self._status_at = time.monotonic()
        try:
            self._store.put("warmpools", await self._api.write_status("warmpools", body, status))
        except ApiError as error:
            if error.status != 404:
                _LOG.warning("a pool's status was not written: %s", error)
        self._told = True
