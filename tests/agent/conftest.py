from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl.agent_package import image
from tests.agent.harness import BUBBLEWRAP, Sandbox, file_system, sandbox_of
from tests.agent.remote_harness import Agent, Operator, agent_of


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


@pytest.fixture
def agent(bubblewrap: str) -> Iterator[Agent]:
    """One that listens on a port, as in a pod."""
    with agent_of() as agent:
        yield agent


@pytest.fixture
def operator(agent: Agent) -> Operator:
    return agent.operator()


def made_by(python: str, folder: Path) -> Path:
    """The folder of the agent's image, made by an interpreter."""
    source = Path(image.__file__).parents[2]
    run = [python, "-S", "-m", "pytest_arl.agent_package.image", str(folder)]
    done = subprocess.run(
        run,
        env={"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{folder}: \d+ files, [\d.]+ MB\n", done.stdout)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the interpreter of the tests, without any package (-S): only the standard library is needed."""
    return made_by(os.path.realpath(sys.executable), tmp_path_factory.mktemp("image") / "arl")
