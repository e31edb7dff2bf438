"""The command line: what it understands, how it fails, and what it does not load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import pytest_arl
from pytest_arl.cli import main as run_main
from pytest_arl.cli.subcommands import EXIT_FOUND, EXIT_USAGE, _parse

ROOT = Path(__file__).parents[2]


def test_an_installer_makes_the_command() -> None:
    (entry,) = entry_points(group="console_scripts", name="pytest-arl")
    assert entry.load() is run_main


@pytest.mark.parametrize("words", [[], ["no-such-command"], ["manifests", "--no-such-option"], ["gc", "--run"]])
def test_what_is_not_understood_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(words)
    assert stopped.value.code == EXIT_USAGE
    assert "usage: pytest-arl" in capsys.readouterr().err


def test_a_wrong_value_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["manifests", "--agent-image", "two words"]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "pytest-arl: 'two words' is not a name of an image, such as registry.example/pytest-arl-operator:1.0\n"
    )


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"pytest-arl {version('pytest-arl')}\n"


@pytest.mark.parametrize("command", ["doctor", "gc", "manifests", "operator", "pools", "setup"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: pytest-arl {command}" in capsys.readouterr().out


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "kopf", None)
    if "pytest_arl.operator" in sys.modules:  # what is imported anew takes its place in the package, too
        monkeypatch.setattr(pytest_arl, "operator", sys.modules["pytest_arl.operator"])
    for name in [name for name in sys.modules if name.startswith("pytest_arl.operator")]:
        monkeypatch.delitem(sys.modules, name)
    assert run_main(["operator", "run"]) == EXIT_FOUND
    assert "pip install 'pytest-arl[operator]'" in capsys.readouterr().err


def test_printing_manifests_needs_nothing_but_this_package() -> None:
    program = (
        "import sys\nfrom pytest_arl.cli import main\nmain(['manifests'])\nprint(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("apiVersion: v1\nkind: Namespace\n")
    assert {"kubernetes", "yaml", "kopf", "pydantic", "pytest", "asyncio"} & set(done.stderr.split()) == set()


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTED = {
    command.strip()
    for page in PAGES
    for command in re.findall(
        r"\bpytest-arl ((?:doctor|gc|manifests|operator run|pools)\b[^|&`;#,]*)(?<!--help)(?=[|&`;\n])",
        page.read_text(),
    )
}


@pytest.mark.parametrize("command", sorted(DOCUMENTED))
def test_a_command_that_the_documents_show_is_understood(command: str) -> None:
    assert _parse(command.split()).run


def test_the_documents_show_every_command() -> None:
    assert {command.split()[0] for command in DOCUMENTED} >= {"doctor", "gc", "manifests", "pools"}


def test_a_reader_that_has_enough_is_no_error() -> None:
    program = "import sys\nfrom pytest_arl.cli import main\nsys.exit(main(['manifests']))"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        done = subprocess.run([sys.executable, "-c", program], stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
