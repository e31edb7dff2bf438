"""Each test here runs pytest on a small project of its own, with real sandboxes of this machine."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

POOLS = """
[tool.pytest-arl.pools.a]
env = { POOL = "a" }
[tool.pytest-arl.pools.b]
env = { POOL = "b" }
[tool.pytest-arl.pools.c]
env = { POOL = "c" }
"""

HELPERS = """
import os, psutil, time

def pool(sandbox):
    return sandbox.run("sh", "-c", "echo ${POOL-default}").check().stdout.strip()

MARK = os.environ.get("MARK", "")

def visible():
    "Whether a process «sleep MARK» is alive, as this machine sees it, within some seconds of its start."
    for _ in range(100):
        if any(["sleep", MARK] == found.info["cmdline"] for found in psutil.process_iter(["cmdline"])):
            return True
        time.sleep(0.05)
"""

_QUIET = ["-p", "no:html", "-p", "no:allure_pytest", "-p", "no:asyncio", "-p", "no:hypothesispytest"]
"""Plugins that are not what a test is about, and cost time."""


class Project:
    """A project in a folder of its own, and runs of pytest on it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        self.toml("")
        self.write("helpers.py", HELPERS)
        self.write("conftest.py", "")

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def toml(self, settings: str) -> None:
        """The pyproject.toml: pools a, b and c, and these settings."""
        self.write("pyproject.toml", "[tool.pytest-arl]\n" + textwrap.dedent(settings) + POOLS)

    def ini(self, settings: str) -> None:
        self.write("pytest.ini", "[pytest]\n" + textwrap.dedent(settings))

    def test(self, text: str, name: str = "test_it.py") -> None:
        """A test module; ``pool(sandbox)`` asks a sandbox which pool it is of."""
        self.write(name, "import pytest\nfrom helpers import pool\n" + textwrap.dedent(text))

    def run(self, *args: str) -> Outcome:
        """Pytest, in a process of its own."""
        # No short summary, unless a test asks for it: it repeats names that tests look for.
        summary = () if "no:terminal" in args else ("-rN",)
        return Outcome(self.pytester.runpytest_subprocess(*_QUIET, *summary, *args, timeout=120), self)

    def run_with_everything(self, *args: str) -> Outcome:
        """Pytest with every plugin that is installed."""
        return Outcome(self.pytester.runpytest_subprocess(*args, timeout=120), self)


class Outcome:
    """What a run of pytest printed and counted."""

    def __init__(self, result: pytest.RunResult, project: Project) -> None:
        self.result = result
        self.project = project
        self.ret = int(result.ret)
        self.text = result.stdout.str()
        self.errors = result.stderr.str()

    def counts(self, **expected: int) -> None:
        """Assert the terminal's counts: ``counts(passed=2, errors=1)``."""
        counted = self.result.parseoutcomes()
        counted.pop("warnings", None)
        assert counted == expected, self.text + self.errors

    def passes(self, number: int) -> None:
        self.counts(passed=number)
        assert self.ret == 0, self.text

    @property
    def last_line(self) -> str:
        return self.text.rstrip().splitlines()[-1]

    @property
    def used(self) -> tuple[int, int, int]:
        """Sandboxes, steps and what is left, as the last line has them."""
        found = re.match(r"arl: (\d+) sandbox(?:es)?, (\d+) steps?, (\d+) left \(.+\)", self.last_line)
        assert found, self.text
        return int(found[1]), int(found[2]), int(found[3])

    def section(self, title: str) -> str:
        """The text below the first heading that has this title, up to the next."""
        lines = self.text.splitlines()
        starts = [index for index, line in enumerate(lines) if title in line and re.match(r"[-_=]+ ", line)]
        assert starts, f"no section {title!r} in\n{self.text}"
        rest = lines[starts[0] + 1 :]
        ends = [index for index, line in enumerate(rest) if re.fullmatch(r"([-_=])\1+ .* \1+", line)]
        return "\n".join(rest[: ends[0]] if ends else rest)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project with pools a, b and c."""
    for name in list(os.environ):
        if name.startswith("PYTEST_ARL_") or name in {"PYTEST_ADDOPTS", "CI", "PYTEST_XDIST_WORKER"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    return Project(pytester)
