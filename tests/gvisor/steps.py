"""Steps in a sandbox of runsc, one after another."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING, Any

from tests.agent.harness import _no_other, command, task
from tests.gvisor.backend import Box, sandbox_of

if TYPE_CHECKING:
    from pytest_arl.results import StepResult

__all__ = ["Steps"]


class Steps:
    """One sandbox, without a session."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.handle = sandbox_of(box, box.close, _no_other)

    def run(self, *argv: str, **fields: Any) -> StepResult:
        """Run one Command."""
        (result,) = self.handle.execute(task(command(*argv, **fields)), None)
        return result

    def python(self, code: str, *argv: str, **fields: Any) -> StepResult:
        """Run one Python program."""
        return self.run("python3", "-I", "-c", dedent(code), *argv, **{"timeout": 60, **fields})
