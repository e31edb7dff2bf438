"""Contract, "Isolation": ``memory`` bounds what processes hold, and nothing else does it bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.memory_table import KINDS, program
from tests.contract.backends import not_on_a_cluster
from tests.contract.probes import living, python
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl import SandboxSession, StepResult
    from tests.contract.backends import ContractBackend

pytestmark = not_on_a_cluster("what a pod's memory counts is the kernel's business there: files in memory, too")

BELOW, ABOVE = 112, 140
"""MiB, of 128: a Python that starts holds 6 itself; and 5 % or 16 MiB more than the limit may be had for a moment."""
HOLD = 0.5
_HELD = [kind for kind in KINDS if kind not in ("half in a file", "/workspace", "mapped /workspace", "/tmp")]
_LASTING = ("/dev/shm", "System V")
"""Kinds that stay when nobody holds them any more."""
_FILES = """
for path, mib in (("/workspace/file", 250), ("/tmp/file", 60), ("/home/arl/file", 60)):
    write_file(path, mib * MIB)
"""


@pytest.fixture
def bounded(backend: ContractBackend) -> Iterator[SandboxSession]:
    """A sandbox of 128 MiB, with folders that hold more."""
    with backend.open("bounded") as session:
        yield session


def _take(sandbox: SandboxSession, kind: str, mib: int, then: str = "") -> StepResult:
    return python(sandbox, program(kind, mib, HOLD) + then, timeout=120)


@pytest.mark.parametrize("kind", _HELD)
def test_as_much_as_the_limit_can_be_held(bounded: SandboxSession, kind: str) -> None:
    result = _take(bounded, kind, BELOW)

    assert (result.outcome, result.limit) == ("Succeeded", None), result.stderr


@pytest.mark.parametrize("kind", _HELD)
def test_more_than_the_limit_cannot(bounded: SandboxSession, kind: str) -> None:
    result = _take(bounded, kind, ABOVE)

    if kind == "/dev/shm" and result.limit == "shm 128Mi":  # its own size, which is met at the same moment
        assert result.outcome == "Failed"
        return
    assert (result.outcome, result.limit) == ("OutOfMemory", "memory 128Mi"), result.stderr
    assert (result.exit_code, result.signal) == (137, "SIGKILL")
    if kind not in _LASTING:
        assert living(bounded) == [], "and the sandbox goes on"


@pytest.mark.parametrize("first", ["memory", "files"])
def test_files_count_against_their_own_sizes_only(bounded: SandboxSession, first: str) -> None:
    code = program("anonymous", BELOW, HOLD)
    code = code + _FILES if first == "memory" else code.replace("\nHOLD,", f"{_FILES}\nHOLD,", 1)
    result = python(bounded, code, timeout=120)

    assert (result.outcome, result.limit) == ("Succeeded", None), result.stderr
    sizes = bounded.run("stat", "--format=%s", "/workspace/file", "/tmp/file", "/home/arl/file").stdout.split()
    assert [int(size) >> 20 for size in sizes] == [250, 60, 60], "control"


def test_what_is_held_is_bounded_though_folders_are_full(bounded: SandboxSession) -> None:
    python(bounded, program("reserved", 1, 0) + _FILES, timeout=120).check()
    result = _take(bounded, "anonymous", ABOVE)

    assert (result.outcome, result.limit) == ("OutOfMemory", "memory 128Mi"), result.stderr


def test_files_as_they_are_sent_are_no_memory(bounded: SandboxSession) -> None:
    python(bounded, "pass").check()
    for number in range(4):
        bounded.write(f"/workspace/{number}", bytes(60 << 20))

    assert _take(bounded, "anonymous", BELOW).ok


def test_a_step_is_out_of_memory_whatever_of_it_ends_first(bounded: SandboxSession) -> None:
    """The program that held too much is a child of one that ends well."""
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {program('anonymous', ABOVE, 30)!r}])"
    result = python(bounded, code)

    assert (result.outcome, result.limit, result.exit_code) == ("OutOfMemory", "memory 128Mi", 137), result.stderr


def test_a_background_process_that_holds_too_much_is_out_of_memory(bounded: SandboxSession) -> None:
    process = bounded.start("python3", "-I", "-c", program("anonymous", ABOVE, 60))
    result = process.wait(60)

    assert (result.outcome, result.limit, result.exit_code) == ("OutOfMemory", "memory 128Mi", 137), result.stderr
    assert bounded.run("echo", "alive").stdout == "alive\n"


def test_a_background_process_counts_beside_a_step(bounded: SandboxSession) -> None:
    process = bounded.start(
        "python3", "-I", "-u", "-c", program("anonymous", BELOW // 2, 0) + "print(1); time.sleep(60)"
    )
    assert until(lambda: process.stdout == "1\n", 60)
    alone = _take(bounded, "anonymous", BELOW // 4)
    both = _take(bounded, "anonymous", ABOVE - BELOW // 2)

    assert alone.ok, "control"
    assert (both.outcome, both.limit) == ("OutOfMemory", "memory 128Mi"), both.stderr
    assert process.wait(10).outcome == "OutOfMemory", "whose memory it is cannot be told"


def test_shared_memory_that_a_step_left_can_be_removed(bounded: SandboxSession) -> None:
    _take(bounded, "/dev/shm", ABOVE)
    left = bounded.run("stat", "--format=%s", "/dev/shm/table")
    removed = bounded.run("rm", "/dev/shm/table")

    assert int(left.stdout) >> 20 >= BELOW, "control"
    assert removed.ok, removed
    assert _take(bounded, "anonymous", BELOW).ok
