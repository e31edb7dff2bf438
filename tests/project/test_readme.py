"""README.md and docs/usage.md hold: their Python runs as printed, README's commands are CI's, links lead somewhere."""

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(*match) for match in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def printed(page: str) -> list[tuple[str, str]]:
    """Each block of Python, and the block that follows: what it prints."""
    return [(one.text, after.text) for one, after in itertools.pairwise(blocks(page)) if one.language == "python"]


SHELL = [block.text.strip() for block in blocks("README.md") if block.language == "sh"]
TESTS = printed("README.md")
SCRIPTS = printed("docs/usage.md")
LAST_LINE = re.compile(r"^(arl: \d+ sandbox(?:es)?, \d+ steps?, 0 left) \((?!none)\S.*\)$", re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the pyproject.toml that docs/usage.md prints, and nothing else."""
    settings = [block.text for block in blocks("docs/usage.md") if block.language == "toml"]
    (tmp_path / "pyproject.toml").write_text("\n".join(settings))
    return tmp_path


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_there_are_three_samples_and_one_test_file() -> None:
    assert len(SCRIPTS) == 3
    assert len(TESTS) == 1


@pytest.mark.parametrize(("code", "output"), SCRIPTS, ids=["context-manager", "keep-alive", "file-patch"])
def test_a_sample_prints_what_the_page_says(project: Path, code: str, output: str) -> None:
    (project / "sample.py").write_text(code)
    run = python("sample.py", cwd=project)
    assert (run.stdout, run.stderr, run.returncode) == (output, "", 0)


@pytest.mark.parametrize(("code", "output"), TESTS, ids=["first"])
def test_a_test_file_passes_and_names_its_isolation(project: Path, code: str, output: str) -> None:
    (project / "test_sample.py").write_text(code)
    run = python("-m", "pytest", "-p", "no:asyncio", cwd=project)
    assert run.returncode == 0, run.stdout + run.stderr
    assert LAST_LINE.findall(run.stdout) == LAST_LINE.findall(output) != [], run.stdout


def test_the_two_commands_are_one_line_each() -> None:
    assert len(SHELL) == 2
    assert [len(command.splitlines()) for command in SHELL] == [1, 1]


def test_ci_runs_the_commands_of_the_readme_and_no_copies_of_them() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "$first" in ci
    assert "$second" in ci
    assert ".venv/bin/pytest" not in ci


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_map_of_contributing_names_modules_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [path for path in re.findall(r"`([\w/]+/\w+\.py)`", text) if not path.startswith("tests/")]
    assert len(named) > 20
    assert [path for path in named if not (ROOT / "src" / "pytest_arl" / path).exists()] == []
