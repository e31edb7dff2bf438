"""Submissions of strangers, some of them hostile: each gets its score, and the machine is not harmed."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest_examples.grading.conftest import Grader

SUBMISSIONS = Path(__file__).parent / "submissions"

EXPECTED = {
    "correct": (3, "Succeeded"),
    "off_by_one": (0, "Succeeded"),
    "crashes": (0, "Failed"),
    "thief": (0, "Failed"),
    "fork_bomb": (0, "processes"),
    "memory_bomb": (0, "memory"),
    "never_ends": (0, "timeout"),
    "endless_output": (0, "timeout"),
}


@pytest.mark.parametrize("submission", EXPECTED)
def test_a_submission_gets_its_score(grader: "Grader", submission: str, pytestconfig: pytest.Config) -> None:
    if submission == "fork_bomb" and pytestconfig.getoption("arl_backend") == "kubernetes":
        pytest.skip("the process limit of a pod is a setting of its node (podPidsLimit), not of the pool")
    score = grader.grade(SUBMISSIONS / f"{submission}.py")

    passed, end = EXPECTED[submission]
    assert score.passed == passed
    assert score.ended == {end}


def test_no_submission_is_forgotten() -> None:
    assert {path.stem for path in SUBMISSIONS.glob("*.py")} == set(EXPECTED)
