"""Tests of a command-line program that cannot see or break anything of this machine."""

from collections.abc import Callable

import pytest

from pytest_arl import SandboxFixture, StepResult

pytestmark = pytest.mark.arl(pool_ref="own-cli")


def test_it_counts_words_of_a_file(arl_sandbox: SandboxFixture, wordcount: Callable[..., StepResult]) -> None:
    arl_sandbox.write("notes.txt", "to be or not to be")
    assert wordcount("notes.txt").check().stdout.splitlines() == ["   2 to", "   2 be", "   1 or", "   1 not"]


def test_it_reads_stdin(wordcount: Callable[..., StepResult]) -> None:
    assert wordcount(stdin="a b a").check().stdout == "   2 a\n   1 b\n"


def test_a_missing_file_is_named(wordcount: Callable[..., StepResult]) -> None:
    result = wordcount("nowhere.txt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "wordcount: nowhere.txt: No such file or directory\n"


def test_it_works_without_a_home(arl_sandbox: SandboxFixture) -> None:
    env = {"HOME": "/nonexistent"}
    assert arl_sandbox.run("python3", "-m", "wordcount", env=env, stdin="").ok


def test_the_project_cannot_be_changed_from_inside(arl_sandbox: SandboxFixture) -> None:
    result = arl_sandbox.run("sh", "-c", "echo broken > /project/wordcount/__main__.py")
    assert not result.ok
    assert "Read-only file system" in result.stderr
