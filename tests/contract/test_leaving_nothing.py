"""Contract, "Leaving nothing behind": what is left in this process and on this machine once sandboxes are closed.

How a run is interrupted, and what is left then, is tests/interruption's.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_arl import SandboxLost
from tests.contract.probes import agents, marked, new_marker, start_python
from tests.contract.trees import TREES
from tests.leftovers import Traces, left_of, look_at
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import SandboxSession
    from tests.contract.backends import ContractBackend


@pytest.fixture
def folder(backend: ContractBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TMPDIR of this process while the test runs."""
    if not backend.on_this_machine:
        pytest.skip("its sandboxes leave nothing here")
    with backend.open() as sandbox:  # what all sandboxes of a process share is there from here on
        sandbox.run("true").check()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def _nothing_left(folder: Path) -> Iterator[list[Traces]]:
    """What the block shows it that it did not have before is gone after it; and so are its descriptors and threads."""
    gc.collect()
    descriptors, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    before = look_at(os.getpid(), folder)
    shown: list[Traces] = []
    yield shown
    assert shown, "control: the block must look while there is something"
    for seen in shown:
        # The run's own folder, which holds all cgroups of this process, stays until this process ends (as a scope does).
        cgroups = {each for each in seen.cgroups - before.cgroups if not Path(each).name.startswith("pytest-arl-")}
        processes = {each for each in seen.processes - before.processes if not _is_the_runs(each[0])}
        new = replace(seen, processes=frozenset(processes), cgroups=frozenset(cgroups))
        assert new.processes, "control: there were processes"
        assert until(partial(_is_gone, new, before, folder), 2), left_of(new, before, folder)
    gc.collect()
    assert until(lambda: not _new_files(descriptors), 2), _new_files(descriptors)
    assert until(lambda: threading.active_count() <= threads, 2)


def _is_the_runs(pid: int) -> bool:
    """True if it waits to be the next sandbox's: it ends with the run, which tests/interruption looks at."""
    try:
        return b"propagation_program.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _is_gone(seen: Traces, before: Traces, folder: Path) -> bool:
    return not left_of(seen, before, folder)


def _new_files(descriptors: set[str]) -> list[str]:
    found = []
    for name in set(os.listdir("/proc/self/fd")) - descriptors:
        with suppress(OSError):
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def _busy(sandbox: SandboxSession, marker: str) -> None:
    """Fill a sandbox with whatever might be left."""
    start_python(sandbox, TREES["sessions of their own"], marker)
    start_python(sandbox, TREES["deaf to every signal"], marker)
    sandbox.write("file", b"x" * 3_000_000)
    sandbox.run("sh", "-c", "seq 300000; ipcmk -M 4096 >/dev/null; true").check()
    sandbox.checkpoint()


# 22


@pytest.mark.parametrize("end", ["with", "delete", "exception", "reset", "failure", "timeout", "garbage"])
def test_nothing_is_left_after_a_sandbox_that_was_closed(backend: ContractBackend, folder: Path, end: str) -> None:
    marker = new_marker()
    with _nothing_left(folder) as shown, suppress(ZeroDivisionError):
        sandbox = backend.open()
        _busy(sandbox, marker)
        shown.append(look_at(os.getpid(), folder))
        assert marked(marker)
        match end:
            case "with":
                with sandbox:
                    sandbox.run("true")
            case "exception":
                with sandbox:
                    raise ZeroDivisionError
            case "reset":
                sandbox.reset()
                sandbox.delete_sandbox()
            case "failure":
                assert not sandbox.run("false").ok
                sandbox.delete_sandbox()
            case "timeout":
                assert not sandbox.run("sleep", "60", timeout=0.2).ok
                sandbox.delete_sandbox()
            case "garbage":
                del sandbox
                gc.collect()
                assert until(lambda: marked(marker) == set(), 5)
            case _:
                sandbox.delete_sandbox()
                sandbox.delete_sandbox()
    assert marked(marker) == set()


def test_nothing_is_left_after_a_sandbox_that_was_lost(backend: ContractBackend, folder: Path) -> None:
    with _nothing_left(folder) as shown, backend.open() as sandbox:
        _busy(sandbox, new_marker())
        shown.append(look_at(os.getpid(), folder))
        for agent in agents():
            os.kill(agent, 9)
        with pytest.raises(SandboxLost):
            sandbox.run("true")


def test_nothing_is_left_of_a_step_that_runs_when_its_sandbox_is_deleted(
    backend: ContractBackend, folder: Path
) -> None:
    marker = new_marker()
    with _nothing_left(folder) as shown:
        sandbox = backend.open()

        def run() -> None:
            with pytest.raises(SandboxLost):
                sandbox.run("python3", "-c", TREES["double fork"], marker)

        thread = threading.Thread(target=run)
        thread.start()
        assert until(lambda: len(marked(marker)) >= 2)
        shown.append(look_at(os.getpid(), folder))
        sandbox.delete_sandbox()
        thread.join(10)
        assert not thread.is_alive()


def test_many_sandboxes_leave_as_little_as_one(backend: ContractBackend, folder: Path) -> None:
    def live(_: int) -> None:
        with backend.open() as sandbox:
            sandbox.run("true").check()

    with _nothing_left(folder) as shown:
        sandboxes = [backend.open() for _ in range(8)]
        shown.append(look_at(os.getpid(), folder))
        for sandbox in sandboxes:
            sandbox.delete_sandbox()
        threads = [threading.Thread(target=live, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)


def test_what_is_kept_alive_ends_with_its_process_at_the_latest(backend: ContractBackend, folder: Path) -> None:
    with _nothing_left(folder) as shown:
        sandbox = backend.open(keep_alive=True)
        with sandbox:
            _busy(sandbox, marker := new_marker())
        shown.append(look_at(os.getpid(), folder))
        assert sandbox.run("true").ok, "control: it outlives the with block"
        assert marked(marker)
        sandbox.delete_sandbox()
