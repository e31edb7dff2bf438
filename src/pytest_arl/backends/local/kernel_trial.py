"""Asks the kernel what it lets a process do of what bubblewrap does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

__all__ = ["run"]

_PROGRAM = Path(__file__).with_name("kernel_trial_program.py")
_SECONDS = 10.0


def run(*before: str) -> dict[str, int]:
    """An error number for each act, in their order up to the first that is refused; 0: done.

    ``before``: the program and its options that start the trial; none for a trial as this process.
    Raises OSError, ValueError or subprocess.TimeoutExpired where there was none.
    """
    done = subprocess.run(
        [*before, sys.executable, "-I", "-S", str(_PROGRAM)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={},
        cwd="/",
        timeout=_SECONDS,
        check=False,
    )
    answers = json.loads(done.stdout)
    if not isinstance(answers, dict) or not all(type(error) is int for error in answers.values()):
        raise ValueError(f"no answers: {answers!r}"[:200])
    return answers
