"""One sandbox of a cluster, in the hands of who holds it."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel import ChannelLost
from pytest_arl.agent_client.sandbox import AgentSandbox
from pytest_arl.backends.kubernetes import names, statuses
from pytest_arl.backends.kubernetes.agent_connection import AgentConnection
from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.backends.kubernetes.task import RunningTask
from pytest_arl.cluster.proof import agent_mark
from pytest_arl.errors import ArlError
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.channel import Channel, Stream
    from pytest_arl.backends.base import OnOutput, OnStep, TaskRequest
    from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient, Pool
    from pytest_arl.backends.kubernetes.watch import Mail

__all__ = ["KubernetesSandbox"]

T = TypeVar("T")

_logger = logging.getLogger("pytest_arl")
_MOST_BREAKS = 8
_LIVED_SECONDS = 60.0
"""So many breaks of a connection in a row are the end of it. One that lasted so long begins a new row: over hours, any
number is borne of what waits for a program, and twice as many of the rest.
"""
_FIRST_PAUSE = 0.025
_LONGEST_PAUSE = 2.0
_WHY_SECONDS = 5.0
"""A pod's end shows at the connection at once, in the API some seconds later."""


class KubernetesSandbox(AgentSandbox):
    """A Sandbox object, its pod, and the channel to the agent there.

    Attributes:
        client: what the process shares in the namespace.
        uid: the object's.
        mail: what the watch knows of it.
    """

    _write_whole = 1024 * 1024  # the agent's memory is the pod's

    def __init__(
        self,
        client: NamespaceClient,
        pool: Pool,
        made: tuple[str, str],
        mail: Mail,
        secret: bytes,
        *,
        kept: bool,
        marked: bool,
        replace: Callable[[], KubernetesSandbox],
        on_close: Callable[[KubernetesSandbox], None],
    ) -> None:
        """``made`` is the object's name and uid. ``kept``: it outlives its holder. ``marked``: its agent can show that
        it is the one that the operator has told of us; where it is not kept, Tasks have a proof that they are ours.
        """
        super().__init__(
            name=made[0],
            pool_ref=pool.name,
            isolation=pool.isolation,
            output_limit=pool.output,
            limits=pool.limits,
            budget=Budget(pool.kept, f"take less of it, or raise `spec.sandbox.kept` of pool {pool.name!r}"),
        )
        self.client = client
        self.uid = made[1]
        self.mail = mail
        self.kept = kept
        self.proves = marked and not kept
        self.warm = statuses.warm(mail.latest)
        self._roots = (pool.workspace.encode(), *self._roots[1:])
        mark = agent_mark(client.task_key, self.uid) if marked else None
        self._agent_connection = AgentConnection(client.api, client.namespace, secret, mark, self._pod)
        self._replace = replace
        self._on_close = on_close
        self._owner = os.getpid()
        self._closing = threading.Lock()
        self._killed = False
        self._numbers: dict[str, int] = {}
        self._agents: dict[str, str] = {}
        self._cancels: set[str] = set()

    # Tasks

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step."""
        __tracebackhide__ = True
        results: list[StepResult] = []
        self.partial = results
        over = self.over()
        if over:
            self.lost(over)
        self._pristine = False
        self._remember_background(task)
        run = RunningTask(self, task, results, on_output, on_step)
        try:
            run.run()
        finally:
            run.close()
            self._cancels.discard(task.id)
        results += [StepResult.skipped(step) for step in task.steps[len(results) :]]
        return results

    def cancel(self, task_id: str) -> None:
        """End the running step of that task."""
        if task_id not in self._numbers:
            return
        self._cancels.add(task_id)
        try:
            self.client.api.merge(
                "tasks",
                self.client.namespace,
                self.name_of(task_id),
                {"spec": {"cancel": True}},
                uid=self._agents.get(task_id),
            )
        except Refused as refused:
            if refused.status != 404:
                _logger.warning("task %s of sandbox %s could not be cancelled: %s", task_id, self.name, refused)

    def has_cancelled(self, task_id: str) -> bool:
        """True if that task, which runs, is to end because somebody here has asked for it."""
        return task_id in self._cancels

    def name_of(self, task_id: str) -> str:
        """The name of the Task object of a task; the same for the same task."""
        number = self._numbers.setdefault(task_id, len(self._numbers) + 1)
        return names.task_name(self.name, number)

    def created(self, task_id: str, uid: str) -> None:
        """A task has its object."""
        self._agents[task_id] = uid

    def agents_name(self, task_id: str) -> str:
        """What the agent calls a task: the uid of its object."""
        return self._agents.get(task_id, task_id)

    # The channel

    def exchange(self, action: Callable[[Stream], T], *, lasting: bool = False) -> T:
        """What ``action`` gives for a stream of its own; on a new connection, where one broke and the pod lives."""
        __tracebackhide__ = True
        with self._telling():
            in_all = in_a_row = 0
            while True:
                began = time.monotonic()
                try:
                    with self._agent_connection.channel().open() as stream:
                        return action(stream)
                except ChannelLost:
                    in_all += 1
                    in_a_row = 1 if time.monotonic() > began + _LIVED_SECONDS else in_a_row + 1
                    often = in_a_row > _MOST_BREAKS or (in_all > 2 * _MOST_BREAKS and not lasting)
                    if often or self._closed or self.over():
                        raise
                    time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**in_a_row))

    def _channel_in_use(self) -> Channel:
        return self._agent_connection.channel()

    def _pod(self) -> tuple[str, str]:
        status = (self.mail.latest or {}).get("status") or {}
        return str(status.get("podName") or ""), str(status.get("agentBootID") or "")

    # Its end

    def over(self) -> str | None:
        """Why it can run nothing any more, as far as is known; None while it can."""
        if self.mail.deleted:
            return "its Sandbox was deleted, or its Lease was over"
        found = self.mail.latest
        if statuses.phase(found) in ("Failed", "Terminating"):
            return statuses.why(found, "Ready") or f"it is {statuses.phase(found)}"
        if found is not None and found["metadata"].get("deletionTimestamp"):
            return "its Sandbox is being deleted"
        return None

    def alive(self) -> bool:
        """True if it can still run a task, as far as is known without asking it."""
        return not (self._closed or self._killed) and self.over() is None

    def lost(self, reason: str) -> NoReturn:
        """Raise what a sandbox that is gone is to its caller, in the cluster's own words where it has some."""
        if not self._closed and not self._killed:
            known = self._why()
            if known and known not in reason:
                reason = f"{known} ({reason})"
        super().lost(reason)

    def _why(self) -> str | None:
        deadline = time.monotonic() + _WHY_SECONDS
        while not self._closed:
            number, known = self.mail.number, self.over()
            if known or not self.mail.wait(number, deadline - time.monotonic()):
                return known
        return None

    def kill(self) -> None:
        """End it at once: its agent no longer does what it should."""
        self._killed = True
        self._delete()

    def close(self) -> None:
        """End the sandbox and everything in it."""
        with self._closing:
            if self._closed or os.getpid() != self._owner:
                return
            self._closed = True
        self._agent_connection.close()
        self.mail.nudge()
        for waiting in tuple(self.mail.wakes):
            waiting.nudge()
        self._delete()  # a watch says so, too, of one that has lost its label
        self._on_close(self)

    def let_go(self) -> None:
        """Close this side alone: the object is deleted by somebody else, or kept."""
        with self._closing:
            if self._closed or os.getpid() != self._owner:
                return
            self._closed = True
        self._agent_connection.close()
        self._on_close(self)

    def _delete(self) -> None:
        try:
            self.client.api.delete("sandboxes", self.client.namespace, self.name, uid=self.uid)
        except (ArlError, Refused) as error:
            _logger.warning("sandbox %s could not be deleted, and ends with its Lease: %s", self.name, error)

    def _replacement(self) -> KubernetesSandbox:
        return self._replace()
