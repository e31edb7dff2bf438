"""One sandbox of a cluster, in the hands of who holds it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.agent_client.sandbox import AgentSandbox
from pytest_arl.backends.kubernetes.agent_connection import AgentConnection
from pytest_arl.backends.kubernetes.held_sandbox import HeldSandbox
from pytest_arl.backends.kubernetes.task import RunningTask
from pytest_arl.cluster import fields
from pytest_arl.cluster.proof import agent_mark
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.channel import Channel
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import OnOutput, OnStep, TaskRequest
    from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient, Pool
    from pytest_arl.backends.kubernetes.watch import Mail

__all__ = ["KubernetesSandbox"]

T = TypeVar("T")

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
        held: the object.
        kept: it outlives its holder.
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
        self.held = HeldSandbox(client, made, mail, proves=marked and not kept)
        self.kept = kept
        self.warm = fields.warm(mail.latest)
        self._roots = (pool.workspace.encode(), *self._roots[1:])
        mark = agent_mark(client.task_key, self.held.uid) if marked else None
        self._agent_connection = AgentConnection(client.api, client.namespace, secret, mark, self.held.pod)
        self._replace = replace
        self._on_close = on_close
        self._owner = os.getpid()
        self._closing = threading.Lock()
        self._killed = False

    # Tasks

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step."""
        __tracebackhide__ = True
        results: list[StepResult] = []
        self.partial = results
        over = self.held.over()
        if over:
            self.lost(over)
        self._pristine = False
        self._remember_background(task)
        run = RunningTask(self, self.held, task, results, on_output, on_step)
        try:
            run.run()
        finally:
            run.close()
            self.held.ended(task.id)
        results += [StepResult.skipped(step) for step in task.steps[len(results) :]]
        return results

    def cancel(self, task_id: str) -> None:
        """End the running step of that task."""
        self.held.cancel(task_id)

    def agents_name(self, task_id: str) -> str:
        """The agent's name of a task: the uid of its object."""
        return self.held.agents_name(task_id)

    # The channel

    def exchange(self, action: Callable[[Stream], T], *, lasting: bool = False) -> T:
        """The result of ``action`` with a stream of its own; on a new connection, where one broke and the pod lives."""
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
                    if often or self._closed or self.held.over():
                        raise
                    time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**in_a_row))

    def _channel_in_use(self) -> Channel:
        return self._agent_connection.channel()

    # Its end

    def alive(self) -> bool:
        """True if it can still run a task, as far as is known without asking it."""
        return not (self._closed or self._killed) and self.held.over() is None

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
            number, known = self.held.mail.number, self.held.over()
            if known or not self.held.mail.wait(number, deadline - time.monotonic()):
                return known
        return None

    def kill(self) -> None:
        """End it at once: its agent no longer does what it should."""
        self._killed = True
        self.held.delete()

    def close(self) -> None:
        """End the sandbox and everything in it."""
        if not self._begin_closing():
            return
        self.held.mail.nudge()
        for waiting in tuple(self.held.mail.wakes):
            waiting.nudge()
        self.held.delete()  # a watch says so, too, of one that has lost its label
        self._on_close(self)

    def let_go(self) -> None:
        """Close this side alone: the object is deleted by somebody else, or kept."""
        if self._begin_closing():
            self._on_close(self)

    def _begin_closing(self) -> bool:
        """Close the connection; False if that is done already, or in a forked child."""
        with self._closing:
            if self._closed or os.getpid() != self._owner:
                return False
            self._closed = True
        self._agent_connection.close()
        return True

    def _replacement(self) -> KubernetesSandbox:
        return self._replace()
