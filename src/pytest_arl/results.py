"""Results of steps, and of the tasks that they are part of.

Neither has a truth value, so that ``assert sandbox.run("false")`` cannot pass by accident; their ``repr`` is one line
and holds no output, for a sandbox's output is untrusted and may be long.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from pytest_arl.errors import SandboxLost, StepFailed, UsageError
from pytest_arl.steps.types import StepType  # noqa: TC001 - pydantic reads the annotation
from pytest_arl.text.endings import ending
from pytest_arl.text.timestamps import timestamp
from pytest_arl.text.units import format_duration, go_duration
from pytest_arl.text.untrusted import shorten, tail
from pytest_arl.text.wording import hint
from pytest_arl.usage import Usage  # noqa: TC001 - pydantic reads the annotation

if TYPE_CHECKING:
    from typing import Self

    from pytest_arl.steps import Step

__all__ = ["Outcome", "StepResult", "TaskResult"]

_LAST_LINES = 10
"""Lines of a step's output in the message of ``check()``."""

Outcome = Literal["Succeeded", "Failed", "TimedOut", "OutOfMemory", "Killed", "Cancelled", "Skipped"]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, ignored_types=(cached_property,))

    def __bool__(self) -> NoReturn:
        __tracebackhide__ = True
        raise TypeError(f"a {type(self).__name__} is neither true nor false: use .ok or .check()")

    def __eq__(self, other: object) -> bool:
        # Two results are equal when they say the same; who asked for them (a private attribute) is no part of that.
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in type(self).model_fields)

    def __str__(self) -> str:
        return repr(self)


class StepResult(_Result):
    """The result of one step.

    Attributes:
        name, type: the step's.
        outcome: Succeeded, or why not; Skipped where an earlier step did not succeed.
        exit_code: 0 exactly where the outcome is Succeeded, 124 for TimedOut, 128 + n for signal n, None for Skipped.
        signal: name of the signal that ended it (``SIGSEGV``), or None.
        stdout_bytes, stderr_bytes: what it printed, exactly, up to the pool's limit (the first and the last half).
        stdout_size, stderr_size: bytes it really printed.
        limit: which limit ended it (``memory 512Mi``), or None.
        started_at: seconds since the epoch, or None where it never started.
        duration: seconds.
        usage: what a Command used; None where none ran (a FilePatch, which the agent writes itself, Skipped, a program
            that could not be started), for the step that starts a background program (the program's own result has it),
            and where an older agent says nothing.
    """

    name: str
    type: StepType
    outcome: Outcome
    exit_code: int | None
    signal: str | None = None
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""
    stdout_size: int = Field(default_factory=lambda data: len(data.get("stdout_bytes", b"")))
    stderr_size: int = Field(default_factory=lambda data: len(data.get("stderr_bytes", b"")))
    limit: str | None = None
    started_at: float | None = None
    duration: float = 0.0
    usage: Usage | None = None

    _origin: _Origin | None = PrivateAttr(None)

    @classmethod
    def skipped(cls, step: Step) -> Self:
        """The result of a step that an earlier one kept from running."""
        return cls(name=step.name, type=step.type, outcome="Skipped", exit_code=None)

    @property
    def ok(self) -> bool:
        """True if the step succeeded."""
        return self.outcome == "Succeeded"

    @cached_property
    def stdout(self) -> str:
        """Its stdout as text; bytes that are no UTF-8 are U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @cached_property
    def stderr(self) -> str:
        """Its stderr as text; bytes that are no UTF-8 are U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def truncated(self) -> bool:
        """True if it printed more than is here. ``sandbox.output(step, stream)`` has all of it."""
        return self.stdout_size > len(self.stdout_bytes) or self.stderr_size > len(self.stderr_bytes)

    def check(self) -> Self:
        """This result, or :class:`~pytest_arl.errors.StepFailed`."""
        __tracebackhide__ = True
        if not self.ok:
            raise StepFailed(_report(self), self, None)
        return self

    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``status.steps`` has it: camelCase, JSON types only."""
        return {
            "name": self.name,
            "type": self.type,
            "outcome": self.outcome,
            "exitCode": self.exit_code,
            "signal": self.signal,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "stdoutSize": self.stdout_size,
            "stderrSize": self.stderr_size,
            "truncated": self.truncated,
            "limit": self.limit,
            "startedAt": _timestamp(self.started_at),
            "durationSeconds": self.duration,
            "usage": None if self.usage is None else self.usage.to_json(),
        }

    def __repr__(self) -> str:
        sizes = f"stdout {self.stdout_size} bytes, stderr {self.stderr_size} bytes"
        return f"<StepResult {shorten(repr(self.name), 60)} {described(self)}, {sizes}>"


class TaskResult(_Result, Mapping[str, Any]):
    """The result of a task: its steps, and the Task's JSON as a read-only mapping.

    ``result["status"]["steps"][0]["exitCode"]`` reads what the cluster's Task would say.

    Attributes:
        id: the task's, unique.
        sandbox: name of the sandbox that ran it.
        pool_ref: the sandbox's pool.
        steps: one result for each step asked, fewer only in the partial result of a SandboxLost.
        duration: seconds.
        total: how many steps were asked.
        started_at: seconds since the epoch, or None where it is not known.
        namespace: the Kubernetes namespace, or None on this machine.
        acquired_in: seconds that it took to get the sandbox, or None where that is not known.
        warm: whether the sandbox was ready before it was asked for.
    """

    id: str
    sandbox: str
    pool_ref: str
    steps: tuple[StepResult, ...]
    duration: float
    total: int
    started_at: float | None = None
    namespace: str | None = None
    acquired_in: float | None = None
    warm: bool = False

    _asked: tuple[Step, ...] = PrivateAttr(())
    _timeout: float | None = PrivateAttr(None)

    @property
    def ok(self) -> bool:
        """True if every step succeeded."""
        return len(self.steps) == self.total and all(step.ok for step in self.steps)

    @property
    def state(self) -> Literal["Succeeded", "Failed"]:
        """Succeeded, or Failed."""
        return "Succeeded" if self.ok else "Failed"

    @property
    def failed_step(self) -> StepResult | None:
        """The step that did not succeed; those after it are Skipped."""
        return next((step for step in self.steps if not step.ok), None)

    @property
    def exit_code(self) -> int | None:
        """0, or that of the step that failed; None where the sandbox was lost before one did."""
        if self.ok:
            return 0
        failed = self.failed_step
        return None if failed is None else failed.exit_code

    @cached_property
    def stdout(self) -> str:
        """The stdout of the steps, one after another."""
        return "".join(step.stdout for step in self.steps)

    @cached_property
    def stderr(self) -> str:
        """The stderr of the steps, one after another."""
        return "".join(step.stderr for step in self.steps)

    def step(self, name: str) -> StepResult:
        """The result of the step of that name."""
        __tracebackhide__ = True
        for step in self.steps:
            if step.name == name:
                return step
        raise UsageError(f"this task has no step {name!r}; {hint(str(name), [step.name for step in self.steps])}")

    def check(self) -> Self:
        """This result, or :class:`~pytest_arl.errors.StepFailed` for the first step that did not succeed.

        A partial result, all of whose steps succeeded, raises :class:`~pytest_arl.errors.SandboxLost`.
        """
        __tracebackhide__ = True
        failed = self.failed_step
        if failed is not None:
            raise StepFailed(_report(failed), failed, self)
        if not self.ok:
            raise SandboxLost(f"the sandbox was lost after {len(self.steps)} of {self.total} steps", self)
        return self

    def to_json(self) -> dict[str, Any]:
        """The Task as the cluster has it: ``metadata``, ``spec`` and ``status``, JSON types only."""
        return {"metadata": self._metadata(), "spec": self._spec(), "status": self._status()}

    def __getitem__(self, key: str) -> Any:
        parts = {"metadata": self._metadata, "spec": self._spec, "status": self._status}
        return parts[key]()

    def __iter__(self) -> Iterator[str]:  # type: ignore[override] # of the two bases' meanings, the mapping's is the promise
        return iter(("metadata", "spec", "status"))

    def __len__(self) -> int:
        return 3

    def __contains__(self, key: object) -> bool:
        return key in ("metadata", "spec", "status")

    def keys(self) -> KeysView[str]:
        """The Task's parts."""
        return KeysView(self)

    def __repr__(self) -> str:
        failed = self.failed_step
        ended = f": step {failed.name!r} {described(failed)}" if failed is not None else ""
        done = sum(step.ok for step in self.steps)
        line = f"<TaskResult {self.state}, {done} of {self.total} steps in {format_duration(self.duration)}{ended}"
        return f"{shorten(line, 180)}>"

    def _metadata(self) -> dict[str, Any]:
        named = {"name": self.id}
        return named if self.namespace is None else {**named, "namespace": self.namespace}

    def _spec(self) -> dict[str, Any]:
        body: dict[str, Any] = {"sandboxRef": self.sandbox, "steps": [step.to_json() for step in self._asked]}
        if self._timeout is not None:
            body["timeout"] = go_duration(self._timeout)
        return body

    def _status(self) -> dict[str, Any]:
        ended = None if self.started_at is None else self.started_at + self.duration
        status: dict[str, Any] = {
            "state": self.state,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "startTime": _timestamp(self.started_at),
            "completionTime": _timestamp(ended),
            "duration": go_duration(self.duration),
            "steps": [step.to_json() for step in self.steps],
        }
        return status if self.exit_code is None else {**status, "exitCode": self.exit_code}


class _Origin:
    """The origin of a step's result: needed by messages and ``output``, and not by JSON."""

    __slots__ = ("index", "session", "step", "task_id", "total")

    def __init__(self, session: str, task_id: str, index: int, total: int, step: Step) -> None:
        self.session = session
        self.task_id = task_id
        self.index = index
        self.total = total
        self.step = step


def bind(result: TaskResult, asked: tuple[Step, ...], timeout: float | None, session: str) -> TaskResult:
    """Tell a result what was asked for; for the session. ``session`` is the token of the session that asked."""
    # Private attributes are no part of the frozen value: equality, JSON and pickles of the fields stay as they were.
    result._asked = asked  # noqa: SLF001 - this module's own
    result._timeout = timeout  # noqa: SLF001
    for index, (step, of) in enumerate(zip(result.steps, asked, strict=False)):
        step._origin = _Origin(session, result.id, index, len(asked), of)  # noqa: SLF001
    return result


def bind_step(result: StepResult, like: StepResult) -> StepResult:
    """Tell the result of a background process which step started it."""
    result._origin = like._origin  # noqa: SLF001 - this module's own
    return result


def origin(result: StepResult) -> _Origin | None:
    """The origin of a step's result; None where no session has bound it."""
    return result._origin  # noqa: SLF001 - this module's own


def described(step: StepResult) -> str:
    """The end of a step: ``exited 2 after 4.1 s``."""
    after = None if step.outcome == "Skipped" else step.duration
    return ending(step.outcome, step.exit_code, signal=step.signal, limit=step.limit, seconds=after)


def _report(step: StepResult) -> str:
    """The message of ``check()`` for a step that did not succeed: one line, then the end of its stderr."""
    __tracebackhide__ = True
    where, size = ("stderr", step.stderr_size) if step.stderr.strip() else ("stdout", step.stdout_size)
    shown, _ = tail(step.stderr.rstrip() or step.stdout.rstrip(), _LAST_LINES)
    why = ": an earlier step did not succeed" if step.outcome == "Skipped" else ""
    lines = [f"{_which(step)} {described(step)}{why}"]
    if shown:
        lines += [f"the end of its {where} ({size} bytes):", *(f"  | {line}" for line in shown)]
    return "\n".join(lines)


def _which(step: StepResult) -> str:
    """``step 3/5 'build' (make test)``."""
    of = step._origin  # noqa: SLF001 - this module's own
    name = shorten(repr(step.name), 60)
    if of is None:
        return f"step {name}"
    number = f"{of.index + 1}/{of.total} " if of.total > 1 else ""
    return f"step {number}{name} ({of.step.shown})"


def _timestamp(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


StepResult.model_rebuild(_types_namespace={"_Origin": _Origin})
