"""Each step in the log as it starts and ends, so that ``--log-cli-level=INFO`` shows what runs now."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytest_arl.results import described

if TYPE_CHECKING:
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["TaskLog"]

_logger = logging.getLogger("pytest_arl")


class TaskLog:
    """Logs one task of the session that is called ``name``."""

    def __init__(self, name: str, steps: tuple[Step, ...]) -> None:
        self._name = name
        self._steps = steps
        self._told = 0
        self._starts()

    def ended(self, step: StepResult) -> None:
        """Log the end of a step, and the start of the next one if it succeeded."""
        self._say(described(step))
        self._told += 1
        if step.ok:
            self._starts()

    def finish(self, results: tuple[StepResult, ...]) -> None:
        """Log the rest once the task is over, such as the steps that were skipped."""
        for result in results[self._told :]:
            self.ended(result)

    def _starts(self) -> None:
        if self._told < len(self._steps):
            step = self._steps[self._told]
            self._say(f"starts ({step.shown})")

    def _say(self, what: str) -> None:
        step = self._steps[self._told]
        _logger.info("%s: step %d/%d %r %s", self._name, self._told + 1, len(self._steps), step.name, what)
