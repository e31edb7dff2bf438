"""A sandbox whose agent takes its tasks from the channel: what every backend has that needs nobody in between.

A backend starts the agent and says how to end it; everything a sandbox does is here and in ``sandbox``.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.sandbox import AgentSandbox
from pytest_arl.agent_client.task_run import TaskRun
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_arl.agent_client.budget import Budget
    from pytest_arl.agent_client.channel import Channel
    from pytest_arl.backends.base import OnOutput, OnStep, TaskRequest

__all__ = ["DirectSandbox"]


class DirectSandbox(AgentSandbox):
    """One sandbox behind one channel. See :class:`pytest_arl.backends.base.BackendSandbox`.

    ``on_close`` ends what the backend started, ``kill`` ends the agent at once, ``replace`` gives a fresh sandbox
    of the same pool.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        name: str,
        pool_ref: str,
        isolation: str,
        output_limit: int,
        on_close: Callable[[], None],
        kill: Callable[[], None],
        replace: Callable[[], DirectSandbox],
        limits: Mapping[str, str] | None = None,
        shared: Mapping[Path, str] | None = None,
        budget: Budget | None = None,
        warm: bool = False,
    ) -> None:
        super().__init__(
            name=name,
            pool_ref=pool_ref,
            isolation=isolation,
            output_limit=output_limit,
            limits=limits,
            shared=shared,
            budget=budget,
        )
        self.warm = warm
        self._channel = channel
        self._on_close = on_close
        self._kill = kill
        self._replace = replace
        self._closing = threading.Lock()

    def _replacement(self) -> DirectSandbox:
        return self._replace()

    def _channel_in_use(self) -> Channel:
        if self._channel.broken:
            raise ChannelLost("it had ended already")
        return self._channel

    # Tasks

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step."""
        self._pristine = False
        results: list[StepResult] = []
        self.partial = results
        self._remember_background(task)
        run = TaskRun(task, on_output, results, limit=self.output_limit, label=self.label, on_step=on_step)
        with self.asking() as channel, channel.open() as stream:
            try:
                live = on_output is not None
                stream.send(frames.TASK, messages.task_message(task, self.output_limit, live=live, brief=True))
                run.collect(stream)
            except (ChannelLost, AgentError, ChannelTimeout):
                run.keep_partial()
                raise
            except BaseException:
                if not run.cancel(stream):
                    self.kill()
                raise
        results += [StepResult.skipped(step) for step in task.steps[len(results) :]]
        return results

    def cancel(self, task_id: str) -> None:
        """End the running step of that task."""
        with suppress(ChannelLost), self._channel.open() as stream:
            stream.send(frames.CANCEL, messages.cancel(task_id))

    # Its end

    def alive(self) -> bool:
        """True if it can still run a task, as far as is known without asking it."""
        return not self._closed and not self._channel.hung_up

    def close(self) -> None:
        """End the sandbox and everything in it."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._channel.close()
        self._on_close()

    def kill(self) -> None:
        """End the agent at once: it no longer does what it should."""
        self._kill()
