"""The tasks of one session: whose turn it is, what comes back, and where each step's output is.

Results are judged here before anyone sees them: a backend whose answer contradicts itself is an infrastructure error,
never a test's result.
"""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from time import perf_counter, time
from typing import TYPE_CHECKING

from pytest_arl.backends.base import TaskRequest
from pytest_arl.errors import InfrastructureError, SandboxClosed, SandboxLost, UsageError
from pytest_arl.results import StepResult, TaskResult, bind, origin
from pytest_arl.session import listeners
from pytest_arl.text.units import format_duration
from pytest_arl.text.wording import command_line, hint, shorten, type_name

if TYPE_CHECKING:
    from pytest_arl.backends.base import OnOutput
    from pytest_arl.session import SandboxSession
    from pytest_arl.session.fair_queue import Cancellation
    from pytest_arl.session.open_sandbox import OpenSandbox
    from pytest_arl.steps import Step

__all__ = ["TaskExecution"]

_logger = logging.getLogger("pytest_arl")

_tokens = itertools.count(1)


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
    """Runs the tasks of a session for the caller whose turn it is. Holds no session, so that none lives on by it."""

    def __init__(self) -> None:
        self._token = f"session-{next(_tokens)}"
        self._latest: dict[str, tuple[str, int, weakref.ref[StepResult]]] = {}

    def forget(self) -> None:
        """The sandbox is another one now: what ran in the one before can no longer be asked for by name."""
        self._latest = {}

    def run(
        self,
        session: SandboxSession,
        held: OpenSandbox,
        steps: tuple[Step, ...],
        timeout: float | None,
        on_output: OnOutput | None,
        cancellation: Cancellation | None,
    ) -> TaskResult:
        """Run one task and tell whoever listens how it ended."""
        __tracebackhide__ = True
        task = TaskRequest(next(_ids), steps, timeout)
        began, clock = time(), perf_counter()
        sandbox = held.sandbox
        sent = False
        try:
            if cancellation is not None:
                cancellation.watch(lambda: sandbox.cancel(task.id))
            held.uses += 1
            progress = _Progress(session.name, task.steps) if _logger.isEnabledFor(logging.INFO) else None
            sent = True
            answer = sandbox.execute(task, on_output, None if progress is None else progress.ended)
            result = self._result(session, held, task, answer, began, perf_counter() - clock)
            _judge(session, task, result)
        except BaseException as error:
            partial = None
            if sent:
                known = error.result.steps if isinstance(error, SandboxLost) and error.result is not None else ()
                partial = self._result(session, held, task, known or sandbox.partial, began, perf_counter() - clock)
            _logger.info("%s: %s ended by %s", session.name, task.id, type(error).__name__)
            raised = _lost(session, held, error, partial)
            listeners.notify_finished(session, task, partial, raised)
            if raised is error:
                raise
            raise raised from None
        for index, step in enumerate(result.steps):
            self._latest[step.name] = (task.id, index, weakref.ref(step))
        if progress is not None:
            progress.finish(result.steps)
        listeners.notify_finished(session, task, result, None)
        return result

    def locate(self, session: SandboxSession, step: StepResult | str) -> tuple[str, int, StepResult | None]:
        """Task and index of a step, and its result where that is still there."""
        __tracebackhide__ = True
        if isinstance(step, StepResult):
            of = origin(step)
            if of is None or of.session != self._token:
                raise UsageError(f"the step {step.name!r} did not run in {session.name}: ask the session that ran it")
            return of.task_id, of.index, step
        if not isinstance(step, str):
            raise UsageError(f"a step is given by its StepResult or its name, not by {type_name(step)}")
        found = self._latest.get(step)
        if found is None:
            known = hint(step, list(self._latest)) if self._latest else "none has run since it was created or reset"
            raise UsageError(f"no step {step!r} has run in {session.name}; {known}")
        return found[0], found[1], found[2]()

    def _result(
        self,
        session: SandboxSession,
        held: OpenSandbox,
        task: TaskRequest,
        steps: list[StepResult] | tuple[StepResult, ...],
        began: float,
        duration: float,
    ) -> TaskResult:
        result = TaskResult(
            id=task.id,
            sandbox=session.name,
            pool_ref=session.pool_ref,
            steps=tuple(steps),
            duration=duration,
            total=len(task.steps),
            started_at=began,
            namespace=session.namespace,
            acquired_in=held.acquired_in,
            warm=getattr(held.sandbox, "warm", False) is True,
        )
        return bind(result, task.steps, task.timeout, self._token)


def _judge(session: SandboxSession, task: TaskRequest, result: TaskResult) -> None:
    """Refuse an answer that cannot be true."""
    __tracebackhide__ = True
    wanted, got = [step.name for step in task.steps], [step.name for step in result.steps]
    if wanted != got:
        raise InfrastructureError(
            f"{session.name}: the backend {session.backend!r} was asked for the steps {wanted} and answered for {got}"
        )
    for step in result.steps:
        if step.ok != (step.exit_code == 0) or (step.outcome == "Skipped") != (step.exit_code is None):
            raise InfrastructureError(
                f"{session.name}: the backend {session.backend!r} says that step {step.name!r} is {step.outcome} "
                f"with exit code {step.exit_code}, which cannot be"
            )


def _lost(
    session: SandboxSession, held: OpenSandbox, error: BaseException, partial: TaskResult | None
) -> BaseException:
    """What to raise for an error of a task: a lost sandbox says whose doing it was, and what is known of the task."""
    if held.closed and isinstance(error, (SandboxLost, SandboxClosed)):
        return SandboxLost(f"{session.name}: delete_sandbox() was called while a task ran in it", partial)
    if isinstance(error, SandboxLost):
        error.result = partial
    return error


class _Progress:
    """Logs each step as it starts and ends, so that ``--log-cli-level=INFO`` shows what runs now."""

    def __init__(self, name: str, steps: tuple[Step, ...]) -> None:
        self._name = name
        self._steps = steps
        self._told = 0
        self._starts()

    def ended(self, step: StepResult) -> None:
        """A step has ended, and the next one starts if it succeeded."""
        code = "" if step.exit_code is None else f", exit code {step.exit_code}"
        self._say("ended", f": {step.outcome}{code}, {format_duration(step.duration)}")
        self._told += 1
        if step.ok:
            self._starts()

    def finish(self, results: tuple[StepResult, ...]) -> None:
        """The task is over: tell what is not told yet, such as the steps that were skipped."""
        for result in results[self._told :]:
            self.ended(result)

    def _starts(self) -> None:
        if self._told < len(self._steps):
            step = self._steps[self._told]
            what = command_line(step.command) if step.type == "Command" else shorten(repr(step.path), 80)
            self._say("starts", f" ({what})")

    def _say(self, verb: str, rest: str) -> None:
        step = self._steps[self._told]
        _logger.info("%s: step %d/%d %r %s%s", self._name, self._told + 1, len(self._steps), step.name, verb, rest)
