"""The tasks of one session: in their turn, judged, and told of.

Results are judged here before anything else sees them: a backend whose answer contradicts itself is an infrastructure
error, never a test's result.
"""

from __future__ import annotations

import itertools
import logging
import os
from time import perf_counter, time
from typing import TYPE_CHECKING, TypeVar

from pytest_arl.backends.base import TaskRequest
from pytest_arl.errors import InfrastructureError, SandboxClosed, SandboxLost, UsageError
from pytest_arl.results import StepResult, TaskResult, bind, origin
from pytest_arl.session import validation
from pytest_arl.session.fair_queue import FairQueue, Place
from pytest_arl.session.process import Process
from pytest_arl.steps import Command
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_arl.backends.base import OnOutput, StreamName
    from pytest_arl.session.config import SessionConfig
    from pytest_arl.session.fair_queue import Cancellation
    from pytest_arl.session.lifecycle import Lifecycle
    from pytest_arl.session.open_sandbox import OpenSandbox
    from pytest_arl.session.step_index import StepIndex
    from pytest_arl.session.task_log import TaskLog
    from pytest_arl.steps import Step

    Finished = Callable[[TaskRequest, TaskResult | None, BaseException | None], object]
    """Called as ``task_finished`` of a listener is, without the session."""

__all__ = ["TaskExecution"]

__tracebackhide__ = True

T = TypeVar("T")

_logger = logging.getLogger("pytest_arl")


class _Ids:
    """Unique ids: a random part for each process, and a counter."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._random = ""
        os.register_at_fork(after_in_child=self._anew)

    def _anew(self) -> None:
        self._random = ""

    def __next__(self) -> str:
        self._random = self._random or os.urandom(5).hex()
        # Zero-padded: a cluster runs the tasks of a sandbox in the order of their names.
        return f"task-{self._random}-{next(self._count):08d}"


_ids = _Ids()


class TaskExecution:
    """Runs the tasks of a session's sandbox, one at a time."""

    def __init__(self, config: SessionConfig, lifecycle: Lifecycle, steps: StepIndex) -> None:
        self._config = config
        self._lifecycle = lifecycle
        self._steps = steps
        self._turns = FairQueue()

    def in_turn(self, action: Callable[[OpenSandbox], T], cancellation: Cancellation | None = None) -> T:
        """Call ``action`` with the sandbox in hand once the caller's turn has come."""
        place = Place()
        try:
            self._lifecycle.require()
            self._turns.enter(place, cancellation=cancellation)
            return action(self._lifecycle.require())
        finally:
            self._turns.leave(place)

    def execute(
        self,
        steps: tuple[Step, ...],
        timeout: float | str | None,
        retries: int,
        on_output: OnOutput | None,
        finished: Finished,
        cancellation: Cancellation | None,
    ) -> TaskResult:
        """Run one task, as :meth:`SandboxSession.execute` says; ``finished`` is told how it ended."""
        limit = self._config.task_timeout() if timeout is None else validation.limit(timeout, "execute: timeout")
        validation.retries(retries)
        validation.callback(on_output)

        def execute(_: OpenSandbox) -> TaskResult:
            self._revive(retries)
            task = TaskRequest(next(_ids), steps, limit)
            return self._run(self._lifecycle.require(), task, on_output, finished, cancellation)

        return self.in_turn(execute, cancellation)

    def start(self, step: Command, finished: Finished, cancellation: Cancellation | None) -> Process:
        """Start a background step."""
        result = self.execute((step,), None, 0, None, finished, cancellation)
        started = result.steps[0].check()
        return self._process(result.id, 0, started, step)

    def process(self, step: StepResult | str) -> Process:
        """The handle of a background step that has run."""
        task_id, index, result = self._steps.find(step, self._lifecycle.name)
        of = None if result is None else origin(result)
        if result is None or of is None or not isinstance(of.step, Command) or not of.step.background:
            shown = step if isinstance(step, str) else step.name
            raise UsageError(f"{shown!r} is not a background step whose result is still known: give its StepResult")
        return self._process(task_id, index, result, of.step)

    def _process(self, task_id: str, index: int, started: StepResult, step: Command) -> Process:
        held = self._lifecycle.require()
        return Process(held.sandbox.process(task_id, index), started, step, held, self._config.task_timeout)

    def output(self, step: StepResult | str, stream: StreamName) -> Iterator[bytes]:
        """All of a step's stream, of its result where that has all of it."""
        if stream not in ("stdout", "stderr"):
            raise UsageError(f"output: there is no stream {stream!r}; {hint(str(stream), ('stdout', 'stderr'))}")
        task_id, index, result = self._steps.find(step, self._lifecycle.name)
        if result is None:
            return self._lifecycle.require().sandbox.output(task_id, index, stream)
        kept = result.stdout_bytes if stream == "stdout" else result.stderr_bytes
        size = result.stdout_size if stream == "stdout" else result.stderr_size
        if size <= len(kept):
            return iter((kept,) if kept else ())
        blocks = self._lifecycle.require().sandbox.output(task_id, index, stream)
        of = origin(result)
        grows = of is not None and isinstance(of.step, Command) and of.step.background
        return blocks if grows else _at_most(blocks, size, self._lifecycle.name)

    def _revive(self, retries: int) -> None:
        """Put a fresh sandbox in the place of one that has ended, where nothing that was in it would be missing.

        Only here is it known that the task has not started: one that is lost later may have run.
        """
        for left in reversed(range(retries)):
            held = self._lifecycle.require()
            if held.sandbox.alive() or not held.untouched:
                return
            _logger.info("%s: its sandbox ended before the task started; trying a fresh one", self._lifecycle.name)
            try:
                self._lifecycle.renew(held)
            except InfrastructureError:
                if not left:
                    raise

    def _run(
        self,
        held: OpenSandbox,
        task: TaskRequest,
        on_output: OnOutput | None,
        finished: Finished,
        cancellation: Cancellation | None,
    ) -> TaskResult:
        began, clock = time(), perf_counter()
        sandbox = held.sandbox
        sent = False
        try:
            if cancellation is not None:
                cancellation.watch(lambda: sandbox.cancel(task.id))
            held.uses += 1
            log = _log_of(self._lifecycle.name, task.steps)
            sent = True
            answer = sandbox.execute(task, on_output, None if log is None else log.ended)
            result = self._result(held, task, answer, began, perf_counter() - clock)
            self._judge(task, result)
        except BaseException as error:
            partial = None
            if sent:
                known = error.result.steps if isinstance(error, SandboxLost) and error.result is not None else ()
                partial = self._result(held, task, known or sandbox.partial, began, perf_counter() - clock)
            _logger.info("%s: %s ended by %s", self._lifecycle.name, task.id, type(error).__name__)
            raised = self._lost(held, error, partial)
            finished(task, partial, raised)
            if raised is error:
                raise
            raise raised from None
        self._steps.add(result)
        if log is not None:
            log.finish(result.steps)
        finished(task, result, None)
        return result

    def _result(
        self,
        held: OpenSandbox,
        task: TaskRequest,
        steps: list[StepResult] | tuple[StepResult, ...],
        began: float,
        duration: float,
    ) -> TaskResult:
        result = TaskResult(
            id=task.id,
            sandbox=self._lifecycle.name,
            pool_ref=self._config.pool_ref,
            steps=tuple(steps),
            duration=duration,
            total=len(task.steps),
            started_at=began,
            namespace=self._config.namespace,
            acquired_in=held.acquired_in,
            warm=getattr(held.sandbox, "warm", False) is True,
        )
        return bind(result, task.steps, task.timeout, self._steps.token)

    def _judge(self, task: TaskRequest, result: TaskResult) -> None:
        """Refuse an answer that cannot be true."""
        wanted, got = [step.name for step in task.steps], [step.name for step in result.steps]
        if wanted != got:
            raise self._untrue(f"was asked for the steps {wanted} and answered for {got}")
        for step in result.steps:
            if step.ok != (step.exit_code == 0) or (step.outcome == "Skipped") != (step.exit_code is None):
                raise self._untrue(
                    f"says that step {step.name!r} is {step.outcome} with exit code {step.exit_code}, a contradiction"
                )

    def _untrue(self, answer: str) -> InfrastructureError:
        return InfrastructureError(f"{self._lifecycle.name}: the backend {self._config.backend!r} {answer}")

    def _lost(self, held: OpenSandbox, error: BaseException, partial: TaskResult | None) -> BaseException:
        """The error to raise where a task raised one: a lost sandbox's has what is known of the task."""
        if held.closed and isinstance(error, (SandboxLost, SandboxClosed)):
            return SandboxLost(f"{self._lifecycle.name}: delete_sandbox() was called while a task ran in it", partial)
        if isinstance(error, SandboxLost):
            error.result = partial
        return error


def _log_of(name: str, steps: tuple[Step, ...]) -> TaskLog | None:
    if not _logger.isEnabledFor(logging.INFO):
        return None
    from pytest_arl.session.task_log import TaskLog  # noqa: PLC0415 - few runs log steps

    return TaskLog(name, steps)


def _at_most(blocks: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    """An output whose size its result has told. SandboxLost where it is longer: that is not the step's."""
    for block in blocks:
        size -= len(block)
        if size < 0:
            raise SandboxLost(f"sandbox {name}: its agent has more of an output than its step wrote")
        yield block
