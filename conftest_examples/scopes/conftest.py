"""Sandboxes that live longer than a test: one line each."""

import pytest

from pytest_arl import SandboxSession, sandbox_fixture

per_class = sandbox_fixture(scope="class")
per_module = sandbox_fixture(scope="module")
per_session = sandbox_fixture(scope="session", keep_workspace=True)


@pytest.fixture(scope="module")
def dataset(per_module: SandboxSession) -> str:
    """Prepared once. Each test of the module finds it in this state, whatever the previous test did to it."""
    per_module.run("sh", "-c", "seq 1 1000 > numbers.txt").check()
    return "numbers.txt"
