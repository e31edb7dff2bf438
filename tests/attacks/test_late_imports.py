"""Modules that code in a sandbox puts into pytest's rootdir, where that is a ``:rw`` mount and on ``sys.path``.

With the name of one that a plugin imports late, as some do when a test has failed, pytest itself once ran it.
"""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent

import pytest

from tests.attacks.conftest import share_rootdir

_POOL = """
[tool.pytest-arl]
pool = "around"
[tool.pytest-arl.pools.around]
mounts = [".:/project:rw"]
"""


@pytest.fixture
def rootdir(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A rootdir that also root's sandboxes can write, though root believes its configuration."""
    share_rootdir(pytester, tmp_path_factory, monkeypatch, mode=0o1777)
    pytester.makepyprojecttoml(_POOL)
    pytester.path.joinpath("pyproject.toml").chmod(0o644)
    return pytester.path


def attack(pytester: pytest.Pytester, script: str, after: str = "pass") -> pytest.RunResult:
    """Run a shell script in the sandbox of a test that then fails, with a line of Python before."""
    code = f"""
        def test_of_attack(arl_sandbox):
            arl_sandbox.run("sh", "-c", {script!r})
            {after}
            assert 1 == 2
    """
    pytester.makepyfile(test_attack=dedent(code))
    temporary = f"--basetemp={os.environ['HOME']}/temporary"  # pytester's own lies in the rootdir
    return pytester.runpytest_subprocess("-p", "no:randomly", "-o", "addopts=", temporary)


def test_a_module_that_comes_later_is_not_imported(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    late = """try:
                import arl_late
            except ImportError:
                print("not found")"""
    result = attack(pytester, "echo 'print(\"run by pytest\")' > /project/arl_late.py; ls /project", late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_late.py").exists()
    result.stdout.fnmatch_lines(["not found"])
    result.stdout.no_fnmatch_line("run by pytest")


def test_a_module_that_was_there_is_imported(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("")
    (rootdir / "arl_early.py").write_text("print('run by pytest')")
    result = attack(pytester, "true", "import arl_early")
    result.stdout.fnmatch_lines(["run by pytest"])


def test_what_was_no_module_does_not_become_one(rootdir: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nassert __file__.rpartition('/')[0] in sys.path")
    (rootdir / "arl_report.xml").touch()
    pytester.mkdir("arl_folder").chmod(0o777)
    (rootdir / "arl_early.py").write_text("print('an early one')")
    script = """cd /project
        echo 'print("run by pytest")' | tee arl_report.py > arl_folder/__init__.py"""
    late = """import importlib
            importlib.import_module("arl_early")
            for name in ("arl_report", "arl_folder"):
                try:
                    importlib.import_module(name)
                except ImportError:
                    print(name, "not found")"""
    result = attack(pytester, script, late)
    result.assert_outcomes(failed=1)
    assert (rootdir / "arl_report.py").exists()
    assert (rootdir / "arl_folder/__init__.py").exists()
    result.stdout.fnmatch_lines(["an early one", "arl_report not found", "arl_folder not found"])
    result.stdout.no_fnmatch_line("run by pytest")
