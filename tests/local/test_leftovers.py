"""Nothing is left behind, however the process ends that made the sandboxes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_arl.backends.local.probe import probe
from tests.local.conftest import needs_cgroups
from tests.waiting import until

SOURCE = Path(__file__).resolve().parents[2] / "src"
PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.local import LocalBackend
from pytest_arl.backends.local.process_resources import janitor_pid
from pytest_arl.settings import Settings
from pytest_arl.steps import parse_steps
from pytest_arl.backends.local import interpreter
interpreter._FLAGS = (*interpreter._FLAGS, "-X", "arl-test=" + os.environ["ARL_TEST_MARK"])
backend = LocalBackend(Settings.build(start_dir=Path("/")))
sandbox = backend.acquire(AcquireRequest("default"))
def run(*argv, background=False):
    steps = parse_steps([{"type": "Command", "command": list(argv), "background": background}])
    return sandbox.execute(TaskRequest(os.urandom(8).hex(), steps), None)[0]
def report():
    monitors = [prepared.sandbox_process._process.pid for prepared in backend._open.values()]
    pids = [*monitors]
    for pid in monitors:
        pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    if janitor_pid(): pids.append(janitor_pid())
    cgroups = backend._surroundings.cgroups
    print(*pids, "|", *(cgroups.folders if cgroups else ()), flush=True)
"""


@dataclass
class Run:
    """A process that has a sandbox, and what belongs to it."""

    process: subprocess.Popen[str]
    pids: list[int]
    folders: list[Path]
    mark: str

    def started(self) -> list[int]:
        """Every process of a sandbox, bubblewrap's own included, that lives now."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if f"arl-test={self.mark}".encode() in path.read_bytes() and alive(int(path.parent.name)):
                    found.append(int(path.parent.name))
        return found

    def left(self, seconds: float = 5.0) -> list[str]:
        """What is still there after that long."""
        end = time.monotonic() + seconds
        while left := [
            *map(str, {*filter(alive, self.pids), *self.started()}),
            *map(str, filter(Path.exists, self.folders)),
        ]:
            if time.monotonic() > end:
                return left
            time.sleep(0.01)
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(body: str, **options: object) -> Run:
        mark = secrets.token_hex(8)
        script = PRELUDE + textwrap.dedent(body)
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "ARL_TEST_MARK": mark},
            start_new_session=True,
            **options,  # type: ignore[call-overload]  # a test's own
        )
        processes.append(process)
        pids, _, folders = process.stdout.readline().partition("|")
        run = Run(process, [int(pid) for pid in pids.split()], [Path(path) for path in folders.split()], mark)
        assert len(run.pids) >= 2
        assert all(alive(pid) for pid in run.pids)
        assert bool(run.folders) == probe().cgroups
        assert all(path.is_dir() for path in run.folders)
        return run

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_normal_end_leaves_nothing(start: Start) -> None:
    run = start("report(); sys.stdin.read()")
    run.process.communicate(timeout=20)
    assert run.process.returncode == 0
    assert run.left(0) == []  # at once: the end waited for it


def test_an_uncaught_exception_leaves_nothing(start: Start) -> None:
    run = start("report(); sys.stdin.read(); sys.stderr.close(); raise RuntimeError")
    run.process.communicate(timeout=20)
    assert run.left(0) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_process_leaves_nothing(start: Start, number: int) -> None:
    run = start("report(); time.sleep(60)")
    run.process.send_signal(number)
    run.process.wait(20)
    assert run.left() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_leaves_nothing(start: Start, number: int) -> None:
    run = start("report(); time.sleep(60)")
    os.killpg(run.process.pid, number)
    run.process.wait(20)
    assert run.left() == []


def test_os_exit_leaves_nothing(start: Start) -> None:
    run = start("report(); sys.stdin.read(); os._exit(3)")
    run.process.communicate(timeout=20)
    assert run.process.returncode == 3
    assert run.left() == []


def test_a_kill_in_the_middle_of_a_step_leaves_nothing(start: Start) -> None:
    run = start("""
        threading.Timer(0.3, report).start()
        run("sh", "-c", "trap '' TERM HUP INT; setsid sleep 60 & setsid sleep 60 & wait")
    """)
    agent_children = Path(f"/proc/{run.pids[1]}/task/{run.pids[1]}/children").read_text().split()
    assert agent_children
    run.process.kill()
    run.process.wait(20)
    run.pids += [int(pid) for pid in agent_children]
    assert run.left() == []


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.CDLL(None).fork()"])
def test_a_forked_child_that_outlives_the_process_keeps_nothing_alive(start: Start, fork: str) -> None:
    run = start(f"""
        import ctypes
        report()
        sys.stdin.readline()
        if {fork} == 0:
            os.close(1)
            time.sleep(15)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    run.process.communicate("go\n", timeout=20)
    assert run.left(10) == []


@pytest.mark.parametrize("method", ["SandboxProcess._place", "_Prepared._greet"])
def test_a_forked_child_does_not_keep_a_start_half_done_alive_either(start: Start, method: str) -> None:
    """Between bubblewrap's fork and the agent's exec, and between that and the agent's config."""
    run = start(f"""
        from pytest_arl.backends.local.backend import _Prepared
        from pytest_arl.backends.local.sandbox_process import SandboxProcess
        def stop(*_):
            report()
            time.sleep(60)
        {method} = stop
        threading.Thread(target=backend.acquire, args=(AcquireRequest("default"),), daemon=True).start()
        sys.stdin.readline()
        forked = os.fork()
        if forked == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(forked, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert until(lambda: len(run.started()) == 4, 20)  # two sandboxes': bubblewrap and PID 1
    said, _ = run.process.communicate("go\n", timeout=20)
    forked = int(said)
    try:
        assert run.left(10) == []
        assert alive(forked), "control: the child does live on"
    finally:
        os.kill(forked, signal.SIGKILL)


@pytest.mark.parametrize("delay", [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45])
def test_a_kill_while_sandboxes_are_made_leaves_nothing(start: Start, delay: float) -> None:
    run = start("""
        def make():
            while True:
                backend.acquire(AcquireRequest("default")).close()
        for _ in range(2):
            threading.Thread(target=make, daemon=True).start()
        report()
        time.sleep(60)
    """)
    time.sleep(delay)
    run.process.kill()
    run.process.wait(20)
    assert run.left() == []
    assert not sandboxes_of(run.process.pid)


def test_a_start_that_is_given_up_leaves_nothing(start: Start) -> None:
    run = start("""
        from pytest_arl.errors import SandboxTimeout
        outcomes = set()
        for tenths in range(1, 120):
            try:
                backend.acquire(AcquireRequest("default", acquire_timeout=tenths / 10_000)).close()
                outcomes.add("ready")
            except SandboxTimeout:
                outcomes.add("given up")
        sandbox.close()
        backend.acquire(AcquireRequest("default"))
        report()
        print(sorted(outcomes), flush=True)
        sys.stdin.read()
    """)
    assert run.process.stdout
    assert "given up" in run.process.stdout.readline()
    assert len(run.started()) == 2  # the last sandbox's: bubblewrap and the agent
    run.process.communicate(timeout=20)
    assert run.left(0) == []


def sandboxes_of(pid: int) -> list[str]:
    """Cgroups that carry the name of a process."""
    found = probe().hierarchies
    return (
        [str(path) for folder in set(found.folders.values()) for path in folder.glob(f"pytest-arl-{pid}-*")]
        if found
        else []
    )


def in_own_scope(folders: list[Path]) -> bool:
    """Whether systemd made the place of a run's cgroups for that run alone."""
    return any(path.parent.name.startswith("pytest-arl-") and path.parent.suffix == ".scope" for path in folders)


@needs_cgroups
def test_where_the_janitor_was_killed_too_the_next_run_sweeps(start: Start) -> None:
    run = start("report(); time.sleep(60)")
    os.kill(run.pids[-1], signal.SIGKILL)
    run.process.kill()
    run.process.wait(20)
    if in_own_scope(run.folders):
        assert run.left() == [], "systemd removes it with its scope"
        return
    # The control: somebody has to. At once, for a test in another worker may come by and do it.
    assert any(path.exists() for path in run.folders)
    again = start("report(); sys.stdin.read()")
    assert run.left(3) == []
    assert all(path.exists() for path in again.folders)


def test_nothing_is_written_to_the_disk(start: Start, tmp_path: Path) -> None:
    run = start("report(); sys.stdin.read()", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    run.process.kill()
    run.process.wait(20)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_neither_ends_nor_uses_its_parents_sandbox(start: Start) -> None:
    run = start("""
        report()
        mine = os.readlink(f"/proc/self/fd/{list(backend._open.values())[0].sandbox_process.connection.fileno()}")
        pid = os.fork()
        if pid == 0:
            assert mine not in {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
            sandbox.kill()
            sandbox.close()
            backend.close()
            mine = LocalBackend(Settings.build(start_dir=Path("/")))
            mine.acquire(AcquireRequest("default")).close()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(run("echo", "still here").stdout.strip(), flush=True)
        sys.stdin.read()
    """)
    assert run.process.stdout
    assert run.process.stdout.readline() == "still here\n"
    assert all(alive(pid) for pid in run.pids)
    assert all(path.exists() for path in run.folders)
    run.process.communicate(timeout=20)
    assert run.process.returncode == 0
    assert run.left(0) == []


def test_however_many_backends_a_process_makes_it_has_one_janitor(start: Start) -> None:
    run = start("""
        others = [LocalBackend(Settings.build(start_dir=Path("/"))) for _ in range(3)]
        for other in others:
            other.acquire(AcquireRequest("default")).close()
        backend.close()
        for other in others[1:]:
            other.close()
        backend = others[0]
        sandbox = backend.acquire(AcquireRequest("default"))
        report()
        sys.stdin.read()
    """)
    of_it = [path for path in Path("/proc").glob("[0-9]*/stat") if parent(path) == run.process.pid]
    janitors = [path for path in of_it if b"janitor_program" in (path.parent / "cmdline").read_bytes()]
    assert len(janitors) == (1 if probe().cgroups else 0)
    run.process.communicate(timeout=20)
    assert run.left(0) == []


def parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1
