"""The command-line program under test, as a fixture: a function that runs it in the test's sandbox.

The pool `own-cli` (../pyproject.toml) mounts the project read-only, so an edit takes effect at once and no
installation is needed.
"""

from collections.abc import Callable

import pytest

from pytest_arl import SandboxFixture, StepResult


@pytest.fixture(autouse=True)
def mounted(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("arl_backend") == "kubernetes":
        pytest.skip("the pool own-cli mounts a folder of this machine, which no pod has")


@pytest.fixture
def wordcount(arl_sandbox: SandboxFixture) -> Callable[..., StepResult]:
    def run(*arguments: str, stdin: str | None = None) -> StepResult:
        return arl_sandbox.run("python3", "-m", "wordcount", *arguments, stdin=stdin, timeout=10)

    return run
