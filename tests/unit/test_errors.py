"""Errors: one tree, and each survives the way to another process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from pytest_arl import errors
from pytest_arl.results import StepResult, TaskResult

STEP = StepResult(name="build", type="Command", outcome="Failed", exit_code=2, stderr_bytes=b"no rule\n")
TASK = TaskResult(id="t", sandbox="s", pool_ref="default", steps=(STEP,), duration=1.0, total=1)

EVERY = [
    errors.StepFailed("exited 2", STEP, TASK),
    errors.StepFailed("exited 2", STEP),
    errors.SandboxLost("gone", TASK),
    errors.SandboxLost("gone"),
    *(getattr(errors, name)("why") for name in errors.__all__ if name not in ("StepFailed", "SandboxLost")),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_an_error_survives_a_copy_with_all_it_knows(
    error: errors.ArlError, way: Callable[[errors.ArlError], errors.ArlError]
) -> None:
    other = way(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    for what in ("step", "result"):
        assert getattr(other, what, None) == getattr(error, what, None)


def test_the_tree_is_the_one_that_its_docstring_draws() -> None:
    for name in errors.__all__:
        assert name in str(errors.__doc__)
        assert issubclass(getattr(errors, name), errors.ArlError)
    for name in (
        "BackendUnavailable",
        "PoolNotFound",
        "SandboxTimeout",
        "SandboxLost",
        "SandboxClosed",
        "PermissionDenied",
    ):
        assert issubclass(getattr(errors, name), errors.InfrastructureError)
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.StepFailed, AssertionError)
    assert not issubclass(errors.StepFailed, errors.InfrastructureError)
