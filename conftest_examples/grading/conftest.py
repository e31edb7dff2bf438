"""Grading: runs a submission against every case, each in a sandbox of its own, and prints the table of scores.

The expected answers never enter a sandbox: the grader compares a submission's output with them outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_arl import SandboxFactory, StepResult

CASES = {"1 2": "3", "20 22": "42", "-5 5": "0"}
SCORES = pytest.StashKey[list["Score"]]()


@dataclass(frozen=True)
class Score:
    submission: str
    passed: int
    runs: list[StepResult]

    @property
    def ended(self) -> set[str]:
        """The limits that ended the runs (``memory 128Mi`` is ``memory``), or their outcomes."""
        return {run.limit.split()[0] if run.limit else run.outcome for run in self.runs}

    def __str__(self) -> str:
        return f"{self.submission:<16} {self.passed}/{len(CASES)}   {', '.join(sorted(self.ended))}"


class Grader:
    def __init__(self, factory: SandboxFactory, scores: list[Score]) -> None:
        self.factory = factory
        self.scores = scores

    def grade(self, submission: Path) -> Score:
        runs, passed = [], 0
        for question, answer in CASES.items():
            with self.factory(pool_ref="grading") as sandbox:
                sandbox.upload(submission, "solution.py")
                run = sandbox.run("python3", "solution.py", stdin=question, timeout=8)
            runs.append(run)
            passed += run.ok and run.stdout.strip() == answer
            if run.limit:
                break  # the other cases would take as long
        score = Score(submission.stem, passed, runs)
        self.scores.append(score)
        return score


@pytest.fixture(scope="session")
def grader(arl_sandbox_factory: SandboxFactory, pytestconfig: pytest.Config) -> Grader:
    return Grader(arl_sandbox_factory, pytestconfig.stash.setdefault(SCORES, []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if scores := config.stash.get(SCORES, None):
        terminalreporter.section("scores")
        for score in scores:
            terminalreporter.line(str(score))
