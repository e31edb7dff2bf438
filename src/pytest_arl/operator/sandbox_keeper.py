"""One Sandbox: a pod for it, the link to its agent, its Tasks in their order, its end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.channel import AgentConfig
from pytest_arl.operator import sandbox_status, task_status
from pytest_arl.operator.api import ApiError, path
from pytest_arl.operator.link import AgentLink, LinkLost
from pytest_arl.operator.objects import Key, condition, created, leaving, name, now, owner, parse_time, uid
from pytest_arl.operator.pool_keeper import PodInvalid
from pytest_arl.operator.task_runner import Busy, Ended, TaskRunner, write_end
from pytest_arl.operator.template import executor_of, workspace_of
from pytest_arl.operator.trouble import Trouble, end_of_pod, newest_warning, trouble_of

if TYPE_CHECKING:
    from pytest_arl.operator.control import Control
    from pytest_arl.operator.objects import Object

__all__ = ["SandboxKeeper"]

_LOG = logging.getLogger(__name__)

_NOT_FOUND_SECONDS = 10.0
"""How long a pool may be missing: the objects of one apply come in any order. A sandbox that is held comes later."""

_LOST_SECONDS = 10.0
"""How long an agent that is gone is looked for."""

_WORDS_SECONDS = 3.0
"""How long to wait for the API to say why; it knows about two seconds after the connection ended."""

_GREET_SECONDS = 20.0
_EVENTS_SECONDS = 5.0
_LEGACY_FINALIZER = "arl.infra.io/sandbox-finalizer"


class SandboxKeeper:
    """Keeps one Sandbox, the one of that UID.

    Attributes:
        busy: whether a Task runs.
        active: when one last did (monotonic).
    """

    def __init__(self, control: Control, body: Object, where: Key) -> None:
        self._control = control
        self._api = control.api
        self._store = control.store
        self.key = where
        self.uid = uid(body)
        self.wake = asyncio.Event()
        self.busy = False
        # What ran under an operator before this one counts, too.
        last = parse_time((body.get("status") or {}).get("lastTaskTime"))
        self.active = time.monotonic() - (0.0 if last is None else max(0.0, time.time() - last))
        self.began = time.monotonic()
        self._ran = self._told = 0.0
        self._runner: TaskRunner | None = None
        self._link: AgentLink | None = None

    @property
    def body(self) -> Object | None:
        """The Sandbox, while it is this one."""
        found = self._store.get("sandboxes", self.key)
        return found if found is not None and uid(found) == self.uid else None

    def tasks_changed(self) -> None:
        """Look at the Tasks: one has come, one is to be cancelled."""
        runner = self._runner
        if runner is not None:
            fresh = self._store.open.get(self.key, {}).get(uid(runner.task))
            if fresh is not None and fresh["spec"].get("cancel"):
                runner.cancel()
        self.wake.set()

    def task_gone(self, task: str) -> None:
        """Somebody deleted a Task: if it runs, it is ended, as nobody is left to be told."""
        runner = self._runner
        if runner is not None and uid(runner.task) == task:
            runner.cancel()

    def tell_activity(self, seconds: float) -> bool:
        """Whether status.lastTaskTime is old. It is written now and then: a Task has writes of its own."""
        return self._ran > self._told and time.monotonic() - self._told > seconds

    async def write_activity(self) -> None:
        """Write when a Task last ran: a new operator counts a sandbox's idle time from there."""
        self._told = time.monotonic()
        body = {"metadata": {"uid": self.uid}, "status": {"lastTaskTime": now(time.time() - self._told + self._ran)}}
        try:
            self._store.put("sandboxes", await self._api.patch(path("sandboxes", *self.key, "status"), body))
        except ApiError as error:
            if error.status not in (404, 409):
                _LOG.warning("the last task's time was not written: %s", error, extra=self._data())

    async def run(self) -> None:
        """Until the Sandbox is gone."""
        try:
            while (body := self.body) is not None:
                try:
                    await self._once(body)
                except ApiError as error:
                    if error.status == 404:
                        self._store.remove("sandboxes", body)
                        return
                    _LOG.warning("a sandbox waits for the API server: %s", error, extra=self._data())
                    await asyncio.sleep(1.0)
        finally:
            if self._link is not None:
                self._link.close("the sandbox is gone")

    async def _once(self, body: Object) -> None:
        await self._strip(body)
        if leaving(body):
            if sandbox_status.phase(body) != "Terminating":
                await self._write(sandbox_status.terminating(body))
            await self._pause(None)
        elif sandbox_status.finished(body):
            await self._bury(body)
            await self._pause(None)
        else:
            link = self._link = await self._obtain(body)
            if link is not None:
                await self._serve(link)

    # A pod

    async def _obtain(self, body: Object) -> AgentLink | None:
        """A link to the agent of this sandbox's pod; None where to look at the Sandbox again."""
        boot = (body.get("status") or {}).get("agentBootID")
        pod = await self._own_pod(body)
        if boot is not None:
            return await self._find_again(boot, pod)
        if pod is None:
            pod = await self._claim(body)
        if pod is None:
            return None
        link = await self._greet(pod)
        if link is None:
            return None  # lost before it was of any use: claimed anew
        fresh, here = self.body, self._store.owned.get(self.uid, {}).get(name(pod))
        if fresh is None or here is None:
            link.close("the sandbox is gone")
            return None
        workspace = workspace_of(self._pool or {"spec": {}})
        await self._write(sandbox_status.ready(fresh, here, link.hello.boot, workspace))
        self.active = time.monotonic()
        _LOG.info("sandbox ready", extra=self._data(pod=name(pod), seconds=round(time.monotonic() - self.began, 4)))
        return link

    @property
    def _pool(self) -> Object | None:
        body = self.body
        return None if body is None else self._store.get("warmpools", Key(self.key.namespace, body["spec"]["poolRef"]))

    async def _own_pod(self, body: Object) -> Object | None:
        """Its pod. What else it owns is deleted: a claim whose answer was lost."""
        named = (body.get("status") or {}).get("podName")
        owned = sorted(self._store.owned.get(self.uid, {}).values(), key=lambda pod: (name(pod) != named, created(pod)))
        alive = [pod for pod in owned if not leaving(pod) and (pod.get("status") or {}).get("phase") != "Failed"]
        known = (body.get("status") or {}).get("agentBootID") is not None
        kept = next((pod for pod in (owned if known else alive) if not known or name(pod) == named), None)
        for pod in owned:
            if pod is not kept and not leaving(pod):
                await self._control.delete_pod(pod)
        return kept

    async def _claim(self, body: Object) -> Object | None:
        keeper = self._control.pools.get(Key(self.key.namespace, body["spec"]["poolRef"]))
        if keeper is None:
            await self._no_pool(body)
            return None
        waiter = keeper.ask(body)
        try:
            await asyncio.wait((waiter.pod,), timeout=0.05)
            while not waiter.pod.done():
                fresh = self.body
                if fresh is None or leaving(fresh) or sandbox_status.finished(fresh):
                    return None
                await self._say(sandbox_status.pending(fresh, keeper.why(waiter)))
                await self._pause(None, waiter.pod)
            return None if waiter.pod.cancelled() else waiter.pod.result()
        except PodInvalid as problem:
            await self._fail(Trouble("PodInvalid", str(problem)))
            return None
        finally:
            keeper.withdraw(waiter)

    async def _no_pool(self, body: Object) -> None:
        pools = sorted(where.name for where in self._control.pools if where.namespace == self.key.namespace)
        there = f"there are {', '.join(pools)}" if pools else "there are none"
        why = Trouble(
            "PoolNotFound", f"no WarmPool {body['spec']['poolRef']} in namespace {self.key.namespace}: {there}"
        )
        held = body["spec"].get("holder") is not None
        if held or time.monotonic() - self.began >= _NOT_FOUND_SECONDS:
            await self._fail(why)
            return
        await self._say(sandbox_status.pending(body, why))
        await self._pause(0.5)

    async def _greet(self, pod: Object) -> AgentLink | None:
        """Connect as soon as its agent listens; None where the pod is gone before."""
        pause, refused_until, asked = 0.01, 0.0, time.monotonic()
        while True:
            fresh, here = self.body, self._store.owned.get(self.uid, {}).get(name(pod))
            if fresh is None or leaving(fresh):
                return None
            phase = (here or {}).get("status", {}).get("phase")
            if here is None or leaving(here) or phase in ("Failed", "Succeeded"):
                await self._say(sandbox_status.pending(fresh, end_of_pod(here)))
                if here is not None:
                    await self._control.delete_pod(here)
                await self._pause(0.5)
                return None
            address = (here.get("status") or {}).get("podIP")
            if not address:
                asked = await self._say_why(fresh, here, asked)
                await self._pause(_EVENTS_SECONDS)
                continue
            try:
                return await self._connect(here, address)
            except OSError:
                if time.monotonic() - asked > 1.0:
                    asked = await self._say_why(fresh, here, asked)
            except LinkLost as problem:
                refused_until = refused_until or time.monotonic() + _GREET_SECONDS
                _LOG.warning("an agent is not admitted: %s", problem, extra=self._data(pod=name(here)))
                self._control.check_epoch(str(problem))
                if time.monotonic() > refused_until:
                    await self._fail(Trouble("AgentUnreachable", str(problem)))
                    return None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)

    async def _say_why(self, body: Object, pod: Object, asked: float) -> float:
        """Tell why the pod does not run yet; when its events were last asked for."""
        why = trouble_of(pod)
        if why is None and time.monotonic() - asked > _EVENTS_SECONDS - 0.1:
            asked = time.monotonic()
            query = f"involvedObject.uid={uid(pod)}"
            why = newest_warning(await self._api.items(path("events", self.key.namespace), fieldSelector=query))
        if why is not None or sandbox_status.phase(body) != "Bound":
            starts = Trouble("PodStarting", f"the pod {name(pod)} starts")
            await self._say(sandbox_status.bound(body, pod, why or starts))
        return asked

    async def _connect(self, pod: Object, address: str) -> AgentLink:
        body = self.body
        if body is None:
            raise LinkLost("the sandbox is gone")
        workspace = workspace_of(self._pool or {"spec": {}})
        return await AgentLink.connect(
            address,
            uid(pod),
            sign=self._control.sign,
            epoch=self._control.epoch,
            config=AgentConfig(workspace=workspace).message(),
            holder=(body["spec"].get("holder") or {}).get("secretHash"),
        )

    async def _find_again(self, boot: str, pod: Object | None) -> AgentLink | None:
        """The same start of the agent as before; what else is found there is the end of the Sandbox."""
        began = time.monotonic()
        changed = False
        while True:
            if self.body is None:
                return None
            if pod is None or leaving(pod) or pod["status"].get("phase") in ("Failed", "Succeeded"):
                break
            if not changed:
                try:
                    link = await self._connect(pod, pod["status"]["podIP"])
                except (OSError, LinkLost) as problem:
                    self._control.check_epoch(str(problem))
                else:
                    if link.hello.boot == boot:
                        return link
                    changed = True
                    link.close("another boot")
            waited = time.monotonic() - began
            why = end_of_pod(pod, boot_changed=changed)
            known = why.reason not in ("AgentLost", "AgentRestarted")
            if waited > (_WORDS_SECONDS if changed else _LOST_SECONDS) or (known and waited > 0.5):
                break
            await asyncio.sleep(0.2)
            pod = await self._look(pod)
        await self._fail(end_of_pod(pod, boot_changed=changed))
        return None

    async def _look(self, pod: Object) -> Object | None:
        """The pod as it is: the watch may be behind."""
        try:
            found = await self._api.get(path("pods", self.key.namespace, name(pod)))
        except ApiError as error:
            if error.status != 404:
                return pod
            self._store.remove("pods", pod)
            return None
        self._store.put("pods", found)
        return found if uid(found) == uid(pod) else None

    # Tasks

    async def _serve(self, link: AgentLink) -> None:
        """Run Tasks until the link is lost or the Sandbox ends."""
        if link.hello.running is not None and link.hello.running not in self._store.open.get(self.key, {}):
            link.send_cancel(link.hello.running)
        first: str | None = link.hello.running
        while True:
            body = self.body
            if body is None or leaving(body) or sandbox_status.finished(body):
                link.close("the sandbox ends")
                return
            if link.lost.done():
                return  # looked for again by its boot id
            task = self._next(first)
            first = None
            if task is None:
                await self._pause(None, link.lost)
                continue
            self.busy = True
            try:
                first = await self._run(task, link)
            finally:
                self.busy = False
                self.active = self._ran = time.monotonic()

    def _next(self, first: str | None) -> Object | None:
        tasks = self._store.tasks(self.key)
        return next((task for task in tasks if uid(task) == first), tasks[0] if tasks else None)

    async def _run(self, task: Object, link: AgentLink) -> str | None:
        """Run a Task; the UID of the one that is to be run before it, if the agent is busy."""
        its = owner(task, "Sandbox")
        if its is None:
            self._control.spawn(self._adopt(task))
        elif its != self.uid:
            text = f"its Sandbox is gone; another one of the name {self.key.name} is there now"
            await write_end(self._control, task, lambda _: task_status.failed(task, "SandboxLost", text, time.time()))
            return None
        self._runner = runner = TaskRunner(self._control, task, self._pool, self._limits())
        try:
            await runner.run(link)
        except Busy as busy:
            if busy.task not in self._store.open.get(self.key, {}):
                link.send_cancel(busy.task)
            await asyncio.sleep(0.1)
            return busy.task
        except Ended as ended:
            self._control.check_epoch(str(ended))
            link.close(f"the agent refuses: {ended}")
        except LinkLost as lost:
            _LOG.info("a link is lost: %s", lost, extra=self._data())
        else:
            self._runner = None
        return None

    def _limits(self) -> dict[str, str]:
        """The values of the limits that a step may hit."""
        for pod in self._store.owned.get(self.uid, {}).values():
            memory = ((executor_of(pod["spec"], ours=True).get("resources") or {}).get("limits") or {}).get("memory")
            return {} if memory is None else {"memory": memory}
        return {}

    async def _adopt(self, task: Object) -> None:
        """A Task that was made by hand goes with its Sandbox, too."""
        reference = {
            "apiVersion": "arl.infra.io/v1alpha1",
            "kind": "Sandbox",
            "name": self.key.name,
            "uid": self.uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }
        owners = [*(task["metadata"].get("ownerReferences") or ()), reference]
        meta = {"uid": uid(task), "ownerReferences": owners}
        try:
            await self._api.patch(path("tasks", self.key.namespace, name(task)), {"metadata": meta})
        except ApiError as error:
            if error.status not in (404, 409):
                _LOG.warning("a Task was not adopted: %s", error)

    # The end

    async def _fail(self, why: Trouble) -> None:
        """Nothing will run in it any more."""
        body = self.body
        if body is None:
            return
        _LOG.info("sandbox failed", extra=self._data(reason=why.reason, why=why.message))
        await self._write(sandbox_status.failed(body, why))

    async def _bury(self, body: Object) -> None:
        """Its Tasks fail, its pod goes: a used pod is never used again."""
        told = condition(body, "Ready") or {}
        why = f"{told.get('reason', 'Failed')}: {told.get('message', '')}"
        lost, self._runner = self._runner, None
        for task in self._store.tasks(self.key):
            ran = (task.get("status") or {}).get("state") == "Running" or (lost is not None and lost.is_for(task))
            progress = lost.progress if lost is not None and lost.is_for(task) else None
            reason, text = (
                ("SandboxLost", f"its sandbox was lost while it ran: {why}") if ran else ("SandboxFailed", why)
            )
            await write_end(
                self._control,
                task,
                lambda output, task=task, reason=reason, text=text, progress=progress: task_status.failed(  # type: ignore[misc]  # bound loop variables
                    task, reason, text, time.time(), progress, output=output
                ),
            )
        for pod in list(self._store.owned.get(self.uid, {}).values()):
            if not leaving(pod):
                await self._control.delete_pod(pod)

    async def _strip(self, body: Object) -> None:
        """The original operator's finalizer would keep the object for ever."""
        finalizers = body["metadata"].get("finalizers") or []
        if _LEGACY_FINALIZER in finalizers:
            kept = [each for each in finalizers if each != _LEGACY_FINALIZER]
            meta: dict[str, Any] = {"uid": self.uid, "finalizers": kept or None}
            found = await self._api.patch(path("sandboxes", *self.key), {"metadata": meta})
            self._store.put("sandboxes", found)

    async def _say(self, status: Object) -> None:
        """Write a status where it says something new."""
        body = self.body
        if body is not None and not sandbox_status.says(body, status):
            await self._write(status)

    async def _write(self, status: Object) -> None:
        body = {"metadata": {"uid": self.uid}, "status": status}
        self._store.put("sandboxes", await self._api.patch(path("sandboxes", *self.key, "status"), body))

    async def _pause(self, seconds: float | None, *others: asyncio.Future[Any]) -> None:
        """Until something changes, one of the others is done, or the time is over."""
        woken = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait((woken, *others), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            self.wake.clear()

    def _data(self, **more: object) -> dict[str, object]:
        return {"data": {"sandbox": "/".join(self.key), "uid": self.uid, **more}}
