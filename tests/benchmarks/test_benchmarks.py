"""The command runs and prints its table. No figure is looked at."""

import json
import shutil
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


def test_compares_two_checkouts_in_turns(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    before = tmp_path / "before"
    shutil.copytree(pytestconfig.rootpath / "src", before / "src")
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--only", "life", "--against", str(before)]
    done = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert f"pytest-arl in {before}" in done.stdout
    assert "1.00" in done.stdout  # the other checkout is what ratios are against


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--against", str(tmp_path)]
    done = subprocess.run(argv, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert f"{tmp_path} is no checkout of pytest-arl" in done.stderr
