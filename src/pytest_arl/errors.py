"""The errors, as one tree.

::

    ArlError
    ├── UsageError(ValueError)      what the caller wrote is wrong: says which field, and the fix
    ├── InfrastructureError         the test is not to blame; pytest shows it as E, never as F
    │   ├── BackendUnavailable      no bubblewrap, no cluster: what was tried, how to mend it
    │   ├── PoolNotFound            lists the pools there are
    │   ├── SandboxTimeout          not ready in time: what was waited for, what was last seen
    │   ├── SandboxLost             evicted, deleted, agent gone: what is known, output so far
    │   ├── SandboxClosed           used after delete_sandbox, or never created
    │   └── PermissionDenied        what was refused, and the rule that grants it
    └── StepFailed(AssertionError)  from check(): which step, how it ended, the end of its stderr

A caller who wants to retry what the machine did wrong, and nothing else::

    try:
        session.execute(steps)
    except InfrastructureError:
        ...

Two of them carry results, whose types are named here for type checkers of users' code: an import that never runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.results import StepResult, TaskResult

__all__ = [
    "ArlError",
    "BackendUnavailable",
    "InfrastructureError",
    "PermissionDenied",
    "PoolNotFound",
    "SandboxClosed",
    "SandboxLost",
    "SandboxTimeout",
    "StepFailed",
    "UsageError",
]


class ArlError(Exception):
    """Base of everything this library raises on purpose."""


class UsageError(ArlError, ValueError):
    """The caller's arguments or settings cannot be used. Nothing was run."""


class InfrastructureError(ArlError):
    """The sandbox's side failed; the code under test is not to blame."""


class BackendUnavailable(InfrastructureError):
    """No sandbox can be made here. The message says what was tried and how to mend it.

    Attributes:
        brief: where no test of the run can have a sandbox, the message in a few words: each test says these, and the
            end of the run says the whole message, once. Empty where it is one sandbox that could not be made.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.brief)


class PoolNotFound(InfrastructureError):
    """There is no pool of that name. The message lists those there are."""


class SandboxTimeout(InfrastructureError):
    """A sandbox was not ready in time. The message says what it last saw."""


class SandboxLost(InfrastructureError):
    """The sandbox ended while it was needed.

    Attributes:
        result: the interrupted task as far as it is known (its finished steps, the output so far), or None.
    """

    def __init__(self, message: str, result: TaskResult | None = None) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.result)


class SandboxClosed(InfrastructureError):
    """The sandbox was deleted, or never created."""


class PermissionDenied(InfrastructureError):
    """The backend refused the caller. The message names the rule that would allow it."""


class StepFailed(ArlError, AssertionError):
    """Raised by ``check()`` for a step that did not succeed: a test failure, shown as F.

    Attributes:
        step: the result of the step that failed.
        result: the result of its task, or None where only the step is known.
    """

    def __init__(self, message: str, step: StepResult, result: TaskResult | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.step, self.result)
