"""The command runs and prints its table. No figure is looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_prints_and_writes_what_was_asked_for(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    file = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--no-peers", "--only", "create,echo", "--json", str(file)]
    done = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "create: a sandbox, from asking to ready" in done.stdout
    assert "pytest-arl, warm pool" in done.stdout
    cells = json.loads(file.read_text())["rows"]
    assert {cell["figure"] for cell in cells} == {"create", "close", "echo"}
    assert all(cell["samples"] for cell in cells)


def test_says_what_it_can_measure(pytestconfig: pytest.Config) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--only", "nonsense"]
    done = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "growth" in done.stderr
