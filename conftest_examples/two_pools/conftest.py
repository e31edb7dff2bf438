"""A fixture that opens a second sandbox for a test."""

import pytest

from pytest_arl import SandboxFixture, SandboxSession


@pytest.fixture
def small(arl_sandbox: SandboxFixture) -> SandboxSession:
    return arl_sandbox(pool_ref="small")  # lives as long as arl_sandbox does
