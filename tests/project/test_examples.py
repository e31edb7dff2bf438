"""conftest_examples/: they pass, none is skipped, each can be read in a minute."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/conftest.py"))

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)


def test_every_folder_is_an_example() -> None:
    folders = {path for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert folders == set(FOLDERS)
    assert len(FOLDERS) >= 9


@each_folder
def test_an_example_has_one_test_file_of_its_own_name(folder: Path) -> None:
    assert [path.name for path in folder.glob("test_*.py")] == [f"test_{folder.name}.py"]


@each_folder
def test_an_example_says_what_it_shows(folder: Path) -> None:
    for path in (folder / "conftest.py", folder / f"test_{folder.name}.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@each_folder
def test_an_example_is_read_in_a_minute(folder: Path) -> None:
    files = (folder / "conftest.py", folder / f"test_{folder.name}.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 130


@each_folder
def test_an_example_uses_public_names_only(folder: Path) -> None:
    for path in folder.glob("*.py"):
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in modules if name and name.startswith("pytest_arl.")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("arguments", [[], ["-n2"]], ids=["alone", "two-workers"])
def test_the_examples_pass_none_is_skipped_and_the_isolation_is_named(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, str(EXAMPLES)],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    *_, totals, isolation = run.stdout.splitlines()
    assert re.fullmatch(r"=+ \d+ passed in .* =+", totals), run.stdout
    assert re.fullmatch(r"arl: \d+ sandbox(?:es)?, \d+ steps?, 0 left \((?!none).+\)", isolation), run.stdout
