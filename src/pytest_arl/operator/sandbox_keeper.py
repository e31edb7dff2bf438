"""One Sandbox: a pod for it, the link to its agent, its Tasks in their order, its end."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from pytest_arl.cluster import fields
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import condition, leaving, name, owner, uid
from pytest_arl.operator import sandbox_object, sandbox_status, task_message, task_status
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import end_beside, ending_of
from pytest_arl.operator.introduction import LinkLost
from pytest_arl.operator.kept_sandbox import KeptSandbox
from pytest_arl.operator.patience import MOST_IN_VAIN, NO_TASK, Patience
from pytest_arl.operator.pod_problems import Problem
from pytest_arl.operator.sandbox_link import SandboxLink
from pytest_arl.operator.task_checks import TaskChecks
from pytest_arl.operator.task_queue import TaskQueue
from pytest_arl.operator.task_runner import Busy, TaskRunner
from pytest_arl.operator.template import executor_of
from pytest_arl.text.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.cluster.objects import Key, Object
    from pytest_arl.operator.agent_link import AgentLink
    from pytest_arl.operator.context import Context
    from pytest_arl.operator.pool_keeper import PoolKeeper

__all__ = ["SandboxKeeper"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class SandboxKeeper:
    """Keeps one Sandbox, the one of that UID.

    Attributes:
        sandbox: the Sandbox.
        busy: whether a Task runs.
        active: when one last did (monotonic).
    """

    def __init__(self, context: Context, pools: Mapping[Key, PoolKeeper], body: Object, where: Key) -> None:
        self._context = context
        self._api = context.api
        self._store = context.store
        self.sandbox = KeptSandbox(context, body, where)
        self.busy = False
        # What ran under an operator before this one counts, too.
        last = fields.last_task_time(body)
        self.active = time.monotonic() - (0.0 if last is None else max(0.0, time.time() - last))
        self._ran = self._told = 0.0
        self._sandbox_link = SandboxLink(context, pools, self.sandbox)
        self._patience = Patience()
        self._checks = TaskChecks(context, self.sandbox.uid, self.task_changed)
        self._queue = TaskQueue(
            lambda: context.store.open.get(where, {}),
            lambda task: context.jobs.busy(ending_of(task)) or self._checks.runs(task),
        )
        self._given_up: str | None = None
        self._waited = False  # after an attempt over the link that is, or was, in use
        self._runner: TaskRunner | None = None
        self._link: AgentLink | None = None

    def task_changed(self, task: Object) -> None:
        """Look at a Task: it has come, it is to be cancelled."""
        self._queue.add(task)
        runner = self._runner
        if runner is not None:
            fresh = self._store.open.get(self.sandbox.key, {}).get(uid(runner.task))
            if fresh is not None and fresh["spec"].get("cancel"):
                runner.cancel()
        self.sandbox.wake.set()

    def changed(self, body: Object) -> None:
        """Look at the Sandbox. One that is to go, or has failed, ends the Task that runs in it: a finalizer keeps the
        object, and a Task may have no end of its own.
        """
        link = self._link
        if link is not None and (leaving(body) or sandbox_status.finished(body)):
            link.close("the sandbox ends")
        self.sandbox.wake.set()

    def give_up(self, why: str) -> None:
        """End it, whatever its object says: that cannot be written, or deleted."""
        self._given_up = self._given_up or why
        if self._link is not None:
            self._link.close("the sandbox ends")
        self.sandbox.wake.set()

    def pod_changed(self, pod: Object, over: bool) -> None:
        """Look at its pod. Where the network of one that is over went before its processes, the connection stays,
        silent for the 20 s of its keepalive.
        """
        link = self._link
        if over and link is not None and link.hello.pod == uid(pod):
            link.close("its pod is gone")
        self.sandbox.wake.set()

    def task_gone(self, task: str) -> None:
        """Somebody deleted a Task: if it runs, it is ended, as nobody is left to be told."""
        runner = self._runner
        if runner is not None and uid(runner.task) == task:
            runner.cancel()

    def tell_activity(self, seconds: float) -> bool:
        """True if status.lastTaskTime is old. It is written now and then: a Task has writes of its own."""
        return self._ran > self._told and time.monotonic() - self._told > seconds

    async def write_activity(self) -> None:
        """Write when a Task last ran: a new operator counts a sandbox's idle time from there."""
        self._told = time.monotonic()
        try:
            await self.sandbox.write({"lastTaskTime": timestamp(time.time() - self._told + self._ran)})
        except ApiError as error:
            if error.status not in (404, 409):
                _LOG.warning("the last task's time was not written: %s", error, extra=self.sandbox.data())

    async def run(self) -> None:
        """Run until the Sandbox is gone."""
        pause = _FIRST_PAUSE
        try:
            while (body := self.sandbox.body) is not None:
                try:
                    await self._once(body)
                except ApiError as error:
                    if error.status == 404 and await self._gone(body):
                        return
                    if error.too_large and self._given_up is None:
                        await self._status_refused(body, error)
                        continue
                    _LOG.warning("a sandbox waits for the API server: %s", error, extra=self.sandbox.data())
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    pause = _FIRST_PAUSE
        finally:
            if self._link is not None:
                self._link.close("the sandbox is gone")

    async def _status_refused(self, body: Object, error: ApiError) -> None:
        """A Sandbox that has no room for a status cannot be used: nothing runs in it, and who waits for it is told."""
        why = f"its status cannot be written, so it gets no pod: {error.message[:200]}"
        self._context.notices.warn(body, "StatusRefused", why)
        self._given_up = why
        await self._bury(body)
        for _ in range(sandbox_object.MOST_REFILLS):
            try:
                self._store.put("sandboxes", await sandbox_object.with_room(self._api, body))
                await self.sandbox.fail(Problem("StatusRefused", why))
                return
            except ApiError as refused:
                _LOG.warning("a sandbox has no room: %s", refused, extra=self.sandbox.data())
        try:  # what waits for it is told so by its end
            await self._api.delete(path("sandboxes", *self.sandbox.key), self.sandbox.uid)
        except ApiError as refused:
            _LOG.warning("a sandbox was not deleted: %s", refused, extra=self.sandbox.data())

    async def _gone(self, body: Object) -> bool:
        """True if it is the Sandbox that was not found."""
        try:
            found = await self._api.get(path("sandboxes", *self.sandbox.key))
        except ApiError as error:
            if error.status != 404:
                return False
        else:
            if uid(found) == self.sandbox.uid:
                return False
        self._store.remove("sandboxes", body)
        return True

    async def _once(self, body: Object) -> None:
        if sandbox_object.is_held_by_legacy(body):
            self._store.put("sandboxes", await sandbox_object.let_go(self._api, body))
        if leaving(body):
            if sandbox_status.phase(body) != "Terminating" and self._given_up is None:
                await self.sandbox.write(sandbox_status.terminating(body))
            # Its owner goes first in Kubernetes, and a finalizer may keep that for ever: a pod is not kept by it.
            await self._bury(self.sandbox.body or body)
            await self.sandbox.pause(None)
        elif sandbox_status.finished(body) or self._given_up is not None:
            await self._bury(body)
            await self.sandbox.pause(None)
        else:
            link = self._link = await self._sandbox_link.obtain(body)
            if link is not None:
                if not fields.boot_id(body):
                    self.active = time.monotonic()
                try:
                    await self._serve(link)
                finally:
                    link.close("it is no longer served")

    # Tasks

    async def _serve(self, link: AgentLink) -> None:
        """Run Tasks until the link is lost or the Sandbox ends."""
        if link.hello.running is not None and link.hello.running not in self._store.open.get(self.sandbox.key, {}):
            link.send_cancel(link.hello.running)
        first: str | None = link.hello.running
        began, self._waited = time.monotonic(), False
        while True:
            body = self.sandbox.body
            if body is None or leaving(body) or sandbox_status.finished(body) or self._given_up is not None:
                link.close("the sandbox ends")
                return
            if link.lost.done():  # looked for again by its boot id
                if not self._waited:
                    await self._in_vain(NO_TASK, began, link.lost.result())
                return
            task = self._queue.next(first)
            first = None
            if task is None:
                await self.sandbox.pause(None, link.lost)
                continue
            self.busy = True
            try:
                first = await self._run(task, link)
            finally:
                self.busy = False
                self.active = self._ran = time.monotonic()
            await asyncio.sleep(0)  # a Task that is refused has waited for nothing, and thousands may be

    async def _run(self, task: Object, link: AgentLink) -> str | None:
        """Run a Task; the UID of the one that is to be run before it, if the agent is busy."""
        its = owner(task, "Sandbox")
        if its is None:
            lane = "adoptions", self.sandbox.key.namespace
            adopt = partial(sandbox_object.adopt, self._api, task, self.sandbox.key.name, self.sandbox.uid)
            self._context.jobs.in_turn(lane, ("adopt", uid(task)), adopt)
        elif its != self.sandbox.uid:
            text = f"its Sandbox is gone; another Sandbox now has the name {self.sandbox.key.name}"
            end_beside(self._context, task, lambda _: task_status.failed(task, "SandboxLost", text, time.time()))
            return None
        held = task_message.Held.of(self.sandbox.body)
        begun = link.hello.running == uid(task) or fields.state(task) == "Running"
        if not begun and not self._checks.may_run(task, held):
            return None
        self._runner = runner = TaskRunner(
            self._context, task, self.sandbox.pool, self._limits(), self.sandbox.fail, held, self._patience
        )
        began = time.monotonic()
        try:
            await runner.run(link)
        except Busy as busy:
            if busy.task not in self._store.open.get(self.sandbox.key, {}):
                link.send_cancel(busy.task)
            await self._in_vain(uid(task), began, f"it says that task {busy.task} runs")
            return busy.task
        except LinkLost as lost:
            _LOG.info("a link is lost: %s", lost, extra=self.sandbox.data())
            self._context.heard(lost)
            link.close(str(lost))
            await self._in_vain(uid(task), began, str(lost))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Something of it, or of its pool, is not as it should be; the Tasks behind it have their turn.
            _LOG.exception("a Task was not run", extra=self.sandbox.data(task=name(task)))
            link.close("a Task was not understood")
            await self._in_vain(uid(task), began, f"{type(error).__name__}: {error}")
        else:
            self._runner = None
            if runner.progress.done:  # else its agent had no part in it
                self._patience.over(uid(task))
        return None

    async def _in_vain(self, task: str, began: float, why: str) -> None:
        """Wait a little after an attempt at a Task, or a link, that came to nothing; an agent that ends none, or whose
        links never last, is given up.
        """
        self._waited = True
        pause = self._patience.pause(task, time.monotonic() - began)
        if pause is not None:
            await asyncio.sleep(pause)
            return
        what = "was given a Task" if task != NO_TASK else "was connected to"
        how = "did not finish it" if task != NO_TASK else "did not stay"
        text = f"its agent {what} {MOST_IN_VAIN + 1} times and {how}: {why}"
        await self.sandbox.fail(Problem("AgentUnreachable", text))

    def _limits(self) -> dict[str, str]:
        """The values of the limits that a step may hit."""
        for pod in self._store.owned.get(self.sandbox.uid, {}).values():
            memory = ((executor_of(pod["spec"], ours=True).get("resources") or {}).get("limits") or {}).get("memory")
            return {} if memory is None else {"memory": memory}
        return {}

    # The end

    async def _bury(self, body: Object) -> None:
        """Its Tasks fail, its pod goes: a used pod is never used again."""
        told = condition(body, "Ready")
        why = self._given_up or f"{told.get('reason', 'Failed')}: {told.get('message', '')}"
        lost, self._runner = self._runner, None
        while (task := self._queue.next()) is not None:
            self._end_lost(task, lost if lost is not None and lost.is_for(task) else None, why)
            await asyncio.sleep(0)
        for pod in list(self._store.owned.get(self.sandbox.uid, {}).values()):
            if not leaving(pod):
                await self._context.delete_pod(pod)

    def _end_lost(self, task: Object, runner: TaskRunner | None, why: str) -> None:
        """End a Task with its sandbox; ``runner``, if that was running it."""
        ran = runner is not None or fields.state(task) == "Running"
        reason = "SandboxLost" if ran else "SandboxFailed"
        text = f"its sandbox was lost while it ran: {why}" if ran else why
        progress = None if runner is None else runner.progress
        end_beside(
            self._context,
            task,
            lambda output: task_status.failed(task, reason, text, time.time(), progress, output=output),
        )
