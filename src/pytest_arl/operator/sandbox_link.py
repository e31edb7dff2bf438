"""The link of a Sandbox with the agent in its pod: claimed, created, waited for, found again."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.cluster import fields
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import Key, created, ended, leaving, name, status_of, uid
from pytest_arl.operator import sandbox_status, task_message
from pytest_arl.operator.agent_link import AgentLink
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.introduction import AnotherAgent, LinkLost
from pytest_arl.operator.pod_problems import Problem, end_of_pod, newest_warning, trouble_of
from pytest_arl.operator.template import workspace_of
from pytest_arl.operator.waiting import PodInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context
    from pytest_arl.operator.kept_sandbox import KeptSandbox
    from pytest_arl.operator.pool_keeper import PoolKeeper

__all__ = ["SandboxLink"]

_LOG = logging.getLogger(__name__)

_NOT_FOUND_SECONDS = 10.0
"""Time that a pool may be missing: the objects of one apply come in any order. A sandbox that is held comes later."""

_LOST_SECONDS = 30.0
"""Time for which an agent is looked for whose pod seems well. A node that has a lot to do answers late."""

_WORDS_SECONDS = 3.0
"""Time to wait for the API to say why; it knows about two seconds after the connection ended."""

_GREET_SECONDS = 20.0
"""Time for which an agent that does not admit the operator is asked again."""

_SILENT_PAUSE, _REFUSED_PAUSE = 0.2, 2.0
"""The longest pause before an agent is connected to again: one that does not listen, one that listens and then does not
admit the operator. Each of the latter costs a signature.
"""

_EVENTS_SECONDS = 5.0
"""Silence about a pod that does not start after which its events are asked."""


class SandboxLink:
    """Gets the link of one Sandbox, for its keeper."""

    def __init__(self, context: Context, pools: Mapping[Key, PoolKeeper], sandbox: KeptSandbox) -> None:
        self._context = context
        self._pools = pools
        self._api = context.api
        self._store = context.store
        self._sandbox = sandbox

    async def obtain(self, body: Object) -> AgentLink | None:
        """A link to the agent of this sandbox's pod; None where to look at the Sandbox again."""
        boot = fields.boot_id(body)
        pod = await self._own_pod(body)
        if boot:
            return await self._find_again(boot, pod)
        if pod is None:
            pod = await self._claim(body)
        if pod is None:
            return None
        link = await self._greet(pod)
        if link is None:
            return None  # lost before it was of any use: claimed anew
        fresh, here = self._sandbox.body, self._store.owned.get(self._sandbox.uid, {}).get(name(pod))
        if fresh is None or here is None:
            link.close("the sandbox is gone")
            return None
        workspace = workspace_of(self._sandbox.pool or {"spec": {}})
        try:
            await self._sandbox.write(sandbox_status.ready(fresh, here, link.hello.boot, workspace))
        except BaseException:
            link.close("its sandbox is not known to be ready")
            raise
        _LOG.info(
            "sandbox ready",
            extra=self._sandbox.data(pod=name(pod), seconds=round(time.monotonic() - self._sandbox.began, 4)),
        )
        return link

    async def _own_pod(self, body: Object) -> Object | None:
        """Its pod. What else it owns is deleted: a claim whose answer was lost."""
        named = fields.pod_name(body)
        owned = sorted(
            self._store.owned.get(self._sandbox.uid, {}).values(), key=lambda pod: (name(pod) != named, created(pod))
        )
        alive = [pod for pod in owned if not leaving(pod) and status_of(pod).get("phase") != "Failed"]
        known = bool(fields.boot_id(body))
        kept = next((pod for pod in (owned if known else alive) if not known or name(pod) == named), None)
        for pod in owned:
            if pod is not kept and not leaving(pod):
                await self._context.delete_pod(pod)
        return kept

    async def _claim(self, body: Object) -> Object | None:
        pool = self._pools.get(fields.pool_of(body))
        if pool is None:
            await self._no_pool(body)
            return None
        waiter = pool.ask(body)
        try:
            await asyncio.wait((waiter.pod,), timeout=0.05)
            while not waiter.pod.done():
                fresh = self._sandbox.body
                if fresh is None or leaving(fresh) or sandbox_status.finished(fresh):
                    return None
                await self._sandbox.say(sandbox_status.pending(fresh, pool.why()))
                await self._sandbox.pause(None, waiter.pod)
            return None if waiter.pod.cancelled() else waiter.pod.result()
        except PodInvalid as problem:
            await self._sandbox.fail(Problem("PodInvalid", str(problem)))
            return None
        finally:
            pool.withdraw(waiter)

    async def _no_pool(self, body: Object) -> None:
        pools = sorted(where.name for where in self._pools if where.namespace == self._sandbox.key.namespace)
        there = f"there are {', '.join(pools)}" if pools else "there are none"
        why = Problem(
            "PoolNotFound", f"no WarmPool {body['spec']['poolRef']} in namespace {self._sandbox.key.namespace}: {there}"
        )
        held = bool(fields.holder(body))
        if held or time.monotonic() - self._sandbox.began >= _NOT_FOUND_SECONDS:
            await self._sandbox.fail(why)
            return
        await self._sandbox.say(sandbox_status.pending(body, why))
        await self._sandbox.pause(0.5)

    async def _greet(self, pod: Object) -> AgentLink | None:
        """Connect as soon as its agent listens; None where the pod is gone before."""
        pause, refused_until, asked = 0.01, 0.0, time.monotonic()
        while True:
            fresh, here = self._sandbox.body, self._store.owned.get(self._sandbox.uid, {}).get(name(pod))
            if fresh is None or leaving(fresh):
                return None
            if here is None or leaving(here) or ended(here):
                await self._sandbox.say(sandbox_status.pending(fresh, end_of_pod(here)))
                if here is not None:
                    await self._context.delete_pod(here)
                await self._sandbox.pause(0.5)
                return None
            address = status_of(here).get("podIP")
            if not address:
                asked = await self._say_why(fresh, here, asked)
                await self._sandbox.pause(_EVENTS_SECONDS)
                continue
            try:
                return await self._connect(here, address)
            except OSError:
                if time.monotonic() - asked > 1.0:
                    asked = await self._say_why(fresh, here, asked)
            except LinkLost as problem:
                refused_until = refused_until or time.monotonic() + _GREET_SECONDS
                _LOG.warning("an agent was rejected: %s", problem, extra=self._sandbox.data(pod=name(here)))
                self._context.heard(problem)
                if time.monotonic() > refused_until:
                    await self._sandbox.fail(Problem("AgentUnreachable", str(problem)))
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _REFUSED_PAUSE if refused_until else _SILENT_PAUSE)

    async def _say_why(self, body: Object, pod: Object, asked: float) -> float:
        """Tell why the pod does not run yet; when its events were last asked for."""
        why = trouble_of(pod)
        if why is None and time.monotonic() - asked > _EVENTS_SECONDS - 0.1:
            asked = time.monotonic()
            found = await self._context.events.about(uid(pod), self._sandbox.key.namespace)
            why = None if found is None else newest_warning(found)
        if why is not None or sandbox_status.phase(body) != "Bound":
            starts = Problem("PodStarting", f"the pod {name(pod)} starts")
            await self._sandbox.say(sandbox_status.bound(body, pod, why or starts))
        return asked

    async def _connect(self, pod: Object, address: str, boot: str | None = None) -> AgentLink:
        """A link to the agent of a pod; to that start of it, where one is known."""
        body = self._sandbox.body
        if body is None:
            raise LinkLost("the sandbox is gone")
        workspace = workspace_of(self._sandbox.pool or {"spec": {}})
        claim = self._context.claim_of(body)
        link = await self._context.idle_links.take(pod, claim) if boot is None else None
        return link or await AgentLink.connect(
            address,
            uid(pod),
            self._context.introduction,
            config=AgentConfig(workspace=workspace, cpu_time=task_message.cpu_time(self._sandbox.pool)).message(),
            claim=claim,
            boot=boot,
        )

    async def _find_again(self, boot: str, pod: Object | None) -> AgentLink | None:
        """The same start of the agent as before; what else is found there is the end of the Sandbox."""
        began, pause = time.monotonic(), _SILENT_PAUSE
        changed = False
        while True:
            if self._sandbox.body is None:
                return None
            if pod is None or leaving(pod) or ended(pod):
                break
            if not changed:
                try:
                    return await self._connect(pod, pod["status"]["podIP"], boot)
                except OSError:
                    pass
                except AnotherAgent:
                    changed = True
                except LinkLost as problem:
                    self._context.heard(problem)
                    pause = min(2 * pause, _REFUSED_PAUSE)
            waited = time.monotonic() - began
            why = end_of_pod(pod, boot_changed=changed)
            known = why.reason not in ("AgentLost", "AgentRestarted")
            if waited > (_WORDS_SECONDS if changed else _LOST_SECONDS) or (known and waited > 0.5):
                break
            await asyncio.sleep(pause)
            pod = await self._look(pod)
        await self._sandbox.fail(end_of_pod(pod, boot_changed=changed))
        return None

    async def _look(self, pod: Object) -> Object | None:
        """The pod as it is: the watch may be behind."""
        try:
            found = await self._api.get(path("pods", self._sandbox.key.namespace, name(pod)))
        except ApiError as error:
            if error.status != 404:
                return pod
            self._store.remove("pods", pod)
            return None
        self._store.put("pods", found)
        return found if uid(found) == uid(pod) else None
