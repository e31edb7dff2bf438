from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.agent.harness import BUBBLEWRAP, Sandbox, file_system, sandbox_of


@pytest.fixture(scope="session")
def bubblewrap() -> str:
    """A bubblewrap that works here."""
    if BUBBLEWRAP is None:
        pytest.skip("bubblewrap is not installed: pip install 'pytest-arl[local]'")
    tried = [BUBBLEWRAP, "--unshare-all", *file_system(), "true"]
    result = subprocess.run(tried, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"bubblewrap does not work here: {result.stderr.strip()}")
    return BUBBLEWRAP


@pytest.fixture
def sandbox(bubblewrap: str) -> Iterator[Sandbox]:
    with sandbox_of() as sandbox:
        yield sandbox
