"""One Task on its way: given to the agent, followed, written down.

The agent alone decides whether it runs: it knows a Task by its UID, so asking again, after a lost connection or by a
new operator, attaches to what runs or is answered from the record. A status is written when a Task has run for a
moment, when steps end while others follow, and at the end; quick Tasks have one write.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.names import MOST_STEPS
from pytest_arl.cluster.objects import key, name, uid
from pytest_arl.operator import task_message, task_status
from pytest_arl.operator.api_errors import CONTENDED, ApiError
from pytest_arl.operator.endings import end_beside, end_now_or_beside, write, write_end
from pytest_arl.operator.introduction import OLDER_EPOCH, LinkLost
from pytest_arl.operator.patience import Patience
from pytest_arl.operator.pod_problems import Problem
from pytest_arl.operator.progress import LAST_MOMENT, Garbled, Progress
from pytest_arl.operator.slim import is_cut, outlined
from pytest_arl.steps import step_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pytest_arl.agent.message_types import Task as TaskMessage
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.agent_link import AgentLink
    from pytest_arl.operator.context import Context
    from pytest_arl.operator.introduction import Refusal

__all__ = ["Busy", "TaskRunner"]

_LOG = logging.getLogger(__name__)

_QUICK_SECONDS = 0.03
"""A Task that takes no longer is written once. Each write costs the API server 2.2 ms, more than such a Task takes."""

_REWRITE_SECONDS = 5.0
"""Pause before the running status of a Task is written again after constant changes of the object: its client
takes an object of which nothing is said for 40 s for one that no operator has seen.
"""
_STEP_SECONDS = 0.5
"""Between two writes of steps that have ended."""

_GRACE_SECONDS = 5.0
"""Time for the agent to report a timeout; then it counts as dead."""

_RETRY_SECONDS = 0.5
_FOR_EVER = 365 * 86400.0

_RUNNING = re.compile(r"task (\S{1,64}) is running;")


class Busy(Exception):
    """Another task runs in that agent.

    Attributes:
        task: its UID.
    """

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task


class TaskRunner:
    """Runs one Task over one connection. LinkLost or Busy where it could not be seen to its end."""

    def __init__(
        self,
        context: Context,
        task: Object,
        pool: Object | None,
        limits: Mapping[str, str],
        fail: Callable[[Problem], Awaitable[None]],
        held: task_message.Held | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``fail`` has nothing more run in the Task's Sandbox."""
        self._context = context
        self._fail = fail
        self._held = held
        self._patience = patience or Patience()
        self.task = task
        self._pool = pool
        self._limits = limits
        self.progress = self._progress(task)
        self._link: AgentLink | None = None
        self._news: asyncio.Future[None] | None = None
        self._cancelled = bool(task["spec"].get("cancel"))
        self._began = time.time()

    def take(self, kind: int, value: Any) -> None:
        """A frame of the agent."""
        try:
            self.progress.take(kind, value)
        except Garbled as problem:
            if self._link is not None:
                self._link.close(f"the agent's answer is garbled: {problem}")
            return
        if kind in (frames.STEP, frames.DONE, frames.ERROR) and self._news is not None and not self._news.done():
            self._news.set_result(None)

    def cancel(self) -> None:
        """End the step that runs."""
        self._cancelled = True
        if self._link is not None:
            self._link.send_cancel(uid(self.task))

    def is_for(self, task: Object) -> bool:
        """True if this is that Task."""
        return uid(task) == uid(self.task)

    async def run(self, link: AgentLink) -> None:
        """See the Task to its end, which is written beside where nothing of it ran."""
        self._link = link
        with self._context.outputs.running(key(self.task).namespace):
            await self._run(link)

    def _progress(self, task: Object) -> Progress:
        return Progress(task["spec"]["steps"], most=lambda: self._context.outputs.most(key(task).namespace))

    async def _run(self, link: AgentLink) -> None:
        for attempt in range(1 + (self.task["spec"].get("retries") or 0)):
            if attempt:
                await asyncio.sleep(_RETRY_SECONDS)
                self.progress = self._progress(self.task)
            try:
                message = await self._message(link)
            except task_message.Refused as problem:
                self._refuse(problem.reason, str(problem))
                return
            if message is None:
                return
            # Only then: a Task that is not for this sandbox costs its agent nothing.
            if self._cancelled and not attempt and not await self._known(link):
                end_beside(self._context, self.task, lambda _: task_status.cancelled(self.task, time.time()))
                return
            until = self._patience.deadline(uid(self.task), time.monotonic(), _longest(message))
            await self._follow(link, message, until)
            if self.progress.refused is None:
                await self._finish()
                return
            self._judge(self.progress.refused)
        self._refuse(*_refusal("" if self.progress.refused is None else self.progress.refused.text))

    async def _message(self, link: AgentLink) -> TaskMessage | None:
        """The message for the agent; None where the Task is gone."""
        task = self.task
        if is_cut(task):
            if self._held is not None and "proof" not in task["spec"]:
                self._held.check(task, self._context.opened)  # it is refused, and costs its queue no reading
            try:
                task = await self._context.api.get(path("tasks", *key(task)))
            except ApiError as error:
                if error.status != 404:
                    raise
            if task is self.task or uid(task) != uid(self.task):
                self._context.store.remove("tasks", self.task)
                return None
            self.task = outlined(task)
            self.progress = self._progress(self.task)
        if self._held is not None:
            self._held.check(task, self._context.opened)
        elif task["spec"].get("proof") is not None:
            text = "it has a proof, but this Sandbox has no key to check it: its Sandbox was replaced by another"
            raise task_message.Refused("NotTheHolders", text)
        return task_message.message(task, boot=link.hello.boot, epoch=self._context.epoch, pool=self._pool)

    async def _known(self, link: AgentLink) -> bool:
        """True if the agent has it already, so that it is cancelled there."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        request = messages.attach(uid(self.task), 0, live=False)

        def first(kind: int, _value: Any) -> None:
            if not answer.done():
                answer.set_result(kind != frames.ERROR)

        stream = link.open(first, MOST_STEPS * 4096)
        try:
            link.send(frames.ATTACH, stream, request)
            pong = asyncio.ensure_future(link.ping())
            await asyncio.wait((answer, pong), return_when=asyncio.FIRST_COMPLETED)
            await pong
            # Nothing was said of it by the time of the answer to what was asked later: it runs, and is silent.
            return answer.result() if answer.done() else True
        finally:
            link.shut(stream)

    async def _follow(self, link: AgentLink, message: TaskMessage, deadline: float) -> None:
        """Follow it until the agent says that it is over."""
        stream = link.open(self.take, 64 * 1024 + len(self.progress.steps) * (4 * task_message.SENT_BYTES + 4096))
        self._began = time.time()
        try:
            link.send(frames.TASK, stream, message)
            if self._cancelled:
                self.cancel()
            if not await self._until(link, time.monotonic() + _QUICK_SECONDS, lambda: False):
                message["steps"] = []  # they may be large, and the Task may run for long
                await link.ping()  # it has the Task
                await self._watch(link, deadline)
        finally:
            link.shut(stream)

    async def _watch(self, link: AgentLink, deadline: float) -> None:
        """A Task that takes its time: write that it runs, then steps as they end, not too often."""
        while not self.progress.done:
            shown = len(self.progress.ended)
            written = await self._write_running()
            pause = time.monotonic() + _STEP_SECONDS
            until = deadline if written else min(deadline, time.monotonic() + _REWRITE_SECONDS)
            news = await self._until(link, until, lambda shown=shown: len(self.progress.ended) > shown)  # type: ignore[misc]  # a bound loop variable
            if not news and time.monotonic() >= deadline:
                link.close("the agent missed a deadline")
                raise LinkLost("the agent missed a deadline")
            await self._until(link, min(pause, deadline), lambda: False)

    async def _until(self, link: AgentLink, until: float, enough: Callable[[], bool]) -> bool:
        """Wait until it is done, or ``enough``; False where the time came first."""
        while not (self.progress.done or enough()):
            left = until - time.monotonic()
            if left <= 0:
                return False
            if link.lost.done():
                raise LinkLost(link.lost.result())
            self._news = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._news, link.lost), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return True

    def _judge(self, refused: Refusal) -> None:
        """Refusals that say something about the agent rather than about the Task."""
        found = _RUNNING.match(refused.code)
        if found is not None:
            raise Busy(found[1])
        if refused.code in ("another boot", OLDER_EPOCH, "not configured"):
            raise LinkLost(f"the agent refuses: {refused.text}", refused.code)

    async def _write_running(self) -> bool:
        """True if it is written, or never will be."""
        try:
            await write(
                self._context,
                self.task,
                lambda: task_status.running(self.task, self.progress, self._began, self._limits),
            )
        except ApiError as error:
            if not error.too_large and error.reason != CONTENDED:
                raise
            _LOG.warning("the status of a running Task was not written: %s", error)
            return error.reason != CONTENDED
        return True

    async def _finish(self) -> None:
        if not self.progress.ended:
            self._refuse("AgentRefused", "the agent has run no step of it")
            return
        times, told = _times(self.progress, self._began), time.time()
        await end_now_or_beside(self._context, self.task, lambda yields: self._write_result(*times, told, yields))

    async def _write_result(self, began: float, ended: float, told: float, yields: bool) -> None:
        known = await write_end(
            self._context,
            self.task,
            lambda output: task_status.result(
                self.task, self.progress, began=began, ended=ended, limits=self._limits, output=output
            ),
            yields=yields,
        )
        if not known:  # its holder is told in the only way that is left
            text = f"the end of Task {name(self.task)} cannot be written: its object has reached its maximum size"
            await self._fail(Problem("TaskUnwritten", text))
        self._log(ended - began, told)

    def _log(self, seconds: float, told: float) -> None:
        last = self.progress.ended[-1]
        data = {
            "task": "/".join(key(self.task)),
            "uid": uid(self.task),
            "traceID": self.task["spec"].get("traceID"),
            "outcome": last.outcome,
            "exitCode": last.code,
            "seconds": round(seconds, 4),
            "agent": round(told - self._began, 4),
            "written": round(time.time() - told, 4),
        }
        _LOG.info("task", extra={"data": data})

    def _refuse(self, reason: str, text: str) -> None:
        """End a Task of which nothing ran."""
        end_beside(self._context, self.task, lambda _: task_status.failed(self.task, reason, text, time.time()))
        _LOG.info("task", extra={"data": {"task": "/".join(key(self.task)), "uid": uid(self.task), "reason": reason}})


def _refusal(text: str) -> tuple[str, str]:
    if "payload" in text:
        return "PayloadMissing", f"the agent did not get the steps that the Task names: {text}"
    if "malformed" in text:
        return "SpecInvalid", f"the agent refuses the Task: {text}"
    if "no longer kept" in text:
        return "SandboxLost", "it ran, but the agent no longer knows its result"
    return "AgentRefused", f"the agent refuses the Task: {text}"


def _longest(message: TaskMessage) -> float:
    """Seconds after which an agent that keeps its deadlines has ended the task, its own included."""
    timeout = message.get("timeout")
    if timeout is not None:
        return timeout + _GRACE_SECONDS
    bounds = [step_type(step["type"]).longest_of(step) for step in message["steps"]]
    known: list[float] = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds) or "payload" in message:
        return _FOR_EVER
    return sum(known) + _GRACE_SECONDS * (1 + len(message["steps"]))


def _times(progress: Progress, began: float) -> tuple[float, float]:
    """The times when the first step began and the last ended, by the agent's clock where it says so."""
    first, last = progress.ended[0], progress.ended[-1]
    start = first.at or began
    return start, max(start, min((last.at or start) + last.seconds, LAST_MOMENT))
