"""The static program that starts an agent's interpreter, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_arl.agent_package.first_stage import ENVIRONMENT, first_stage

PYTHON = os.path.realpath(sys.executable)
SAY = "import sys; print((sys.argv[1:], open('/proc/self/environ', 'rb').read()))"
OWN = b"LC_ALL=C\0TZ=:\0"


@pytest.fixture
def start(tmp_path: Path) -> str:
    path = tmp_path / "start"
    path.write_bytes(first_stage(os.uname().machine))
    path.chmod(0o755)
    return str(path)


def said(start: str, *argv: str, env: Mapping[bytes, bytes]) -> tuple[list[str], bytes]:
    command = [start, PYTHON, "-I", "-S", "-c", SAY, *argv]
    found: tuple[list[str], bytes] = eval(subprocess.check_output(command, env=env))
    return found


def test_variables_are_given_on_under_names_that_nothing_looks_for(start: str) -> None:
    env = {b"LD_PRELOAD": b"/nowhere.so", b"PYTHONHOME": b"/nowhere", b"EMPTY": b"", b"\xccD": b"\xff=\n"}
    _, environ = said(start, env=env)

    assert environ == OWN + b"".join(b"=" + name + b"=" + value + b"\0" for name, value in env.items())
    assert b"".join(f"{name}={value}\0".encode() for name, value in ENVIRONMENT.items()) == OWN


def test_nothing_is_made_of_no_variables(start: str) -> None:
    assert said(start, env={}) == ([], OWN)


@pytest.mark.parametrize("arguments", [(), ("one",), ("", "a b", "-x", "ünd")])
def test_arguments_are_the_programs(start: str, arguments: tuple[str, ...]) -> None:
    assert said(start, *arguments, env={b"A": b"1"}) == (list(arguments), OWN + b"=A=1\0")


def test_as_many_variables_as_a_program_may_have_are_given_on(start: str) -> None:
    """A third of all that the kernel takes, in the fewest and in very many variables."""
    for size, count in ((2**17 - 64, 15), (1, 60_000)):
        env = {b"V%d" % number: b"x" * size for number in range(count)}
        _, environ = said(start, env=env)
        assert environ.count(b"\0=V") == count
        assert len(environ) == len(OWN) + sum(len(name) + size + 3 for name in env)


@pytest.mark.parametrize("argv", [(), ("/no/such/program",), ("/etc",)])
def test_what_cannot_be_run_ends_with_127(start: str, argv: tuple[str, ...]) -> None:
    assert subprocess.run([start, *argv], check=False).returncode == 127
    assert subprocess.run([start, PYTHON, "-c", "raise SystemExit(3)"], check=False).returncode == 3


def test_it_needs_neither_loader_nor_library_nor_a_stack_that_runs(start: str) -> None:
    image = Path(start).read_bytes()

    assert image[:4] == b"\x7fELF"
    assert {int.from_bytes(image[at : at + 4], "little") for at in range(64, 64 + 3 * 56, 56)} == {1, 0x6474E551}
    assert [image[at + 4] for at in range(64, 64 + 3 * 56, 56)] == [5, 6, 6], "no page may be both written and run"


def test_there_is_one_for_each_machine_that_is_known() -> None:
    assert first_stage("x86_64")[18] == 62
    assert first_stage("aarch64")[18] == 183
    with pytest.raises(RuntimeError, match="no first stage for riscv64 yet, only for aarch64 and x86_64"):
        first_stage("riscv64")
