"""The steps that ran in a session's sandbox, found again by their results or their names."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.results import StepResult, origin
from pytest_arl.text.wording import hint, type_name

if TYPE_CHECKING:
    from pytest_arl.results import TaskResult

__all__ = ["StepIndex"]

__tracebackhide__ = True

_tokens = itertools.count(1)


class StepIndex:
    """The latest step of each name. It keeps no result alive.

    Attributes:
        token: the session's, for the origin of its results.
    """

    def __init__(self) -> None:
        self.token = f"session-{next(_tokens)}"
        self._latest: dict[str, tuple[str, int, weakref.ref[StepResult]]] = {}

    def forget(self) -> None:
        """Forget all: there is another sandbox now, and names mean its steps."""
        self._latest = {}

    def add(self, result: TaskResult) -> None:
        """Add the steps of a task that ran."""
        for index, step in enumerate(result.steps):
            self._latest[step.name] = (result.id, index, weakref.ref(step))

    def find(self, step: StepResult | str, name: str) -> tuple[str, int, StepResult | None]:
        """Task and index of a step, and its result where that is still there. UsageError, which calls the session
        ``name``, where it ran no such step.
        """
        if isinstance(step, StepResult):
            of = origin(step)
            if of is None or of.session != self.token:
                raise UsageError(f"the step {step.name!r} did not run in {name}: ask the session that ran it")
            return of.task_id, of.index, step
        if not isinstance(step, str):
            raise UsageError(f"a step is given by its StepResult or its name, not by {type_name(step)}")
        found = self._latest.get(step)
        if found is None:
            known = hint(step, list(self._latest)) if self._latest else "none has run since it was created or reset"
            raise UsageError(f"no step {step!r} has run in {name}; {known}")
        return found[0], found[1], found[2]()
