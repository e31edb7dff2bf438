"""What importing the package costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_arl

SOURCE = Path(__file__).parents[2] / "src"


def modules_after(program: str) -> set[str]:
    process = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-W",
            "error",
            "-c",
            f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{program}\nprint(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(process.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = modules_after("import pytest_arl")
    heavy = {"pydantic", "asyncio", "subprocess", "pluggy", "tomllib", "logging", "threading", "pathlib", "dataclasses"}
    assert "pytest_arl" in modules
    assert modules & heavy == set()


def test_what_start_up_reads_imports_no_parser_and_no_pydantic() -> None:
    modules = modules_after(
        "import pytest_arl.settings, pytest_arl.pools, pytest_arl.errors\n"
        "pytest_arl.settings.Settings.build(environ={}, cli={'timeout': '90s'})"
    )
    assert modules & {"pydantic", "asyncio", "subprocess", "tomllib", "difflib", "shlex", "pluggy"} == set()


@pytest.mark.parametrize("name", pytest_arl.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(pytest_arl, name).__name__ == name


def test_a_name_is_kept_once_it_was_used() -> None:
    assert pytest_arl.Command is vars(pytest_arl)["Command"]


def test_the_public_names_are_listed() -> None:
    assert set(pytest_arl.__all__) <= set(dir(pytest_arl))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sandbox'"):
        pytest_arl.Sandbox  # noqa: B018 - on purpose
