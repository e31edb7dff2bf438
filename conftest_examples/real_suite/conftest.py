"""Runs the test suite of pyflakes (part of its wheel) in a sandbox, and reports the results here, file by file."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from pytest_arl import SandboxSession, sandbox_fixture

PYTEST = ("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=junit.xml")
# This one fails on early patch releases of Python 3.11, in a sandbox or not.
LEAVE_OUT = "--deselect=test_api.py::CheckTests::test_misencodedFileUTF16"

suite_sandbox = sandbox_fixture(pool_ref="python-39-std", scope="module")

SUITE = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="module", autouse=True)
def installed(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("arl_backend") == "kubernetes":
        pytest.skip("pytest and pyflakes come from this machine's Python environment, which no pod has")


@pytest.fixture(scope="module")
def suite(suite_sandbox: SandboxSession, pytestconfig: pytest.Config) -> dict[str, Counter[str]]:
    """The number of tests with each outcome, for each file of the suite."""
    run = suite_sandbox.run(
        *(*PYTEST, LEAVE_OUT, "--pyargs", "pyflakes.test"),
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        timeout=300,
    )
    assert run.exit_code in (0, 1), run.stdout + run.stderr  # 1: some tests failed, and the report names them
    files: dict[str, Counter[str]] = {}
    for case in ET.fromstring(suite_sandbox.read("junit.xml")).iter("testcase"):  # noqa: S314 - read, not trusted
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        file = next(part for part in case.get("classname", "").split(".") if part.startswith("test_"))
        files.setdefault(file, Counter())[outcome] += 1
    pytestconfig.stash[SUITE] = sum(files.values(), Counter())
    return files


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if total := config.stash.get(SUITE, None):
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(total.items()))
        terminalreporter.section("the suite of pyflakes, in a sandbox")
        terminalreporter.line(counts)
