"""Contract, "Leaving nothing behind": however a run ends, nothing of it is left two seconds later.

Each case looks at the run while everything is under way (the control: there are processes, cgroups, sockets to be
left) and again after its end.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_arl import SandboxSession
from tests.interruption.scene import SANDBOXES, Scene, started
from tests.leftovers import below
from tests.waiting import until


def _look(scene: Scene, workers: int = 1, marked: int = 16) -> None:
    """See what there is to be left; ``marked`` processes of steps in each worker."""
    wanted = SANDBOXES * workers

    def enough() -> bool:
        seen = scene.look()
        return (
            len(scene.marked()) >= marked * workers  # a step's in the foreground and one's in the background
            and len(seen.agents) >= wanted
            and len(seen.processes) >= wanted + marked * workers
            and (not cgroups or len(seen.cgroups) >= wanted)
            and (os.geteuid() != 0 or len(seen.sockets) >= wanted)
        )

    cgroups = _isolation() == "bwrap+cgroup"
    assert until(enough, 20), scene.look()


@functools.cache
def _isolation() -> str | None:
    """The tier on this machine."""
    with SandboxSession() as sandbox:
        return sandbox.isolation


# In one process


def test_after_the_normal_end(tmp_path: Path) -> None:
    with started(tmp_path, "return") as scene:
        _look(scene)
        scene.go()
        code = scene.wait()
        assert scene.left() == {}, scene.output()
    assert code == 0, scene.output()
    assert "0 left" in scene.output()


def test_after_a_failure_under_x(tmp_path: Path) -> None:
    with started(tmp_path, "fail", "-x") as scene:
        _look(scene)
        scene.go()
        code = scene.wait()
        assert scene.left() == {}, scene.output()
    assert code == 1, scene.output()
    assert "1 failed" in scene.output()


def test_after_ctrl_c(tmp_path: Path) -> None:
    with started(tmp_path, "steps") as scene:
        _look(scene)
        scene.signal(signal.SIGINT)
        code = scene.wait()
        assert scene.left() == {}, scene.output()
    assert code == pytest.ExitCode.INTERRUPTED, scene.output()
    assert "KeyboardInterrupt" in scene.output()


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_after_ctrl_c_twice(tmp_path: Path, pause: float) -> None:
    with started(tmp_path, "steps") as scene:
        _look(scene)
        scene.signal(signal.SIGINT)
        time.sleep(pause)
        if scene.process.poll() is None:
            scene.signal(signal.SIGINT)
        assert scene.wait() != 0
        assert scene.left() == {}, scene.output()


@pytest.mark.parametrize(
    ("end", "name"),
    [("steps", "SIGTERM"), ("steps", "SIGHUP"), ("steps", "SIGKILL"), ("hang", "SIGKILL"), ("hang", "SIGTERM")],
)
def test_after_a_signal_that_ends_pytest_where_it_stands(tmp_path: Path, end: str, name: str) -> None:
    with started(tmp_path, end) as scene:
        _look(scene)
        scene.signal(signal.Signals[name])
        assert scene.wait() == -signal.Signals[name]
        assert scene.left() == {}, scene.output()


@pytest.mark.parametrize("end", ["exit", "crash"])
def test_after_the_process_ended_itself(tmp_path: Path, end: str) -> None:
    with started(tmp_path, end) as scene:
        _look(scene)
        scene.go()
        assert scene.wait() in (3, -signal.SIGSEGV)
        assert scene.left() == {}, scene.output()


def test_after_pytest_timeout_in_its_thread_mode(tmp_path: Path) -> None:
    pytest.importorskip("pytest_timeout")
    # Longer than a slow machine takes to get under way.
    with started(tmp_path, "hang", "-p", "pytest_timeout", "--timeout=20", "--timeout-method=thread") as scene:
        _look(scene)
        scene.go()
        assert scene.wait() == 1
        assert scene.left() == {}, scene.output()
    assert "Timeout" in scene.output()


def test_after_sigkill_when_a_forked_child_lives_on(tmp_path: Path) -> None:
    """It holds copies of every descriptor, so that no stream ends with its parent."""
    with started(tmp_path, "fork") as scene:
        _look(scene, marked=8)
        link = scene.project / "forked"
        (scene.project / "fork").touch()
        assert until(link.is_symlink, 10)
        forked = int(os.readlink(link))
        scene.signal(signal.SIGKILL)
        scene.wait()
        try:
            left = scene.left()
            assert os.path.exists(f"/proc/{forked}"), "control: the child does live on"
        finally:
            os.kill(forked, signal.SIGKILL)
        left["processes"] = {line for line in left.get("processes", ()) if not line.startswith(f"{forked} ")}
    assert left == {"processes": set()}


@pytest.mark.parametrize("moment", range(4))
def test_after_sigkill_while_sandboxes_come_and_go(tmp_path: Path, moment: int) -> None:
    with started(tmp_path, "churn", churn=True, sandboxes=0) as scene:
        assert until(lambda: list(scene.project.glob("ready-*")), 40), scene.output()
        end = time.monotonic() + 0.05 + 0.037 * moment
        while time.monotonic() < end:
            scene.look()
        assert scene.look().processes
        scene.signal(signal.SIGKILL)
        scene.wait()
        assert scene.left() == {}, scene.output()


def test_what_a_killed_janitor_leaves_the_next_run_removes(tmp_path: Path) -> None:
    if _isolation() != "bwrap+cgroup":
        pytest.skip("only cgroups outlive every process")
    with started(tmp_path, "steps") as scene:
        _look(scene)
        seen = scene.look()
        janitors = [pid for pid in below(scene.pid) if b"janitor_program" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        for pid in (*janitors, scene.pid):
            os.kill(pid, signal.SIGKILL)
        scene.wait()
        if any(path.endswith(".scope") for path in seen.cgroups):
            assert scene.left() == {}, "systemd removes it with the run's own scope"
            return
        # Not scene.left(), which waits: another worker's run may come by and do what this test waits for.
        assert until(lambda: set(scene.remains()) == {"cgroups"}, 2), "control: folders alone are left"
        code = "from pytest_arl import SandboxSession\nwith SandboxSession() as s: s.run('true').check()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert until(lambda: scene.left() == {}, 5)
        assert len(janitors) == 1


# Under xdist


@pytest.mark.parametrize("end", ["exit", "crash"])
def test_after_a_worker_ended_itself(tmp_path: Path, end: str) -> None:
    pytest.importorskip("xdist")
    with started(tmp_path, end, "--max-worker-restart=0", workers=2) as scene:
        _look(scene, workers=2)
        scene.go()
        assert scene.wait() != 0
        assert scene.left() == {}, scene.output()
    assert "crashed" in scene.output()


def test_a_killed_worker_leaves_nothing_while_the_others_go_on(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    with started(tmp_path, "hang", "--max-worker-restart=0", workers=2) as scene:
        _look(scene, workers=2)
        victim = scene.workers()[0]
        of_victim = scene.marked() - _marked_but_for(scene, victim)
        os.kill(victim, signal.SIGKILL)
        assert of_victim
        assert until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in of_victim), 2)
        assert len(scene.marked()) >= 16, "control: those of the other worker live"
        scene.signal_group(signal.SIGKILL)
        scene.wait()
        assert scene.left() == {}, scene.output()


def _marked_but_for(scene: Scene, worker: int) -> set[int]:
    return scene.marked() - below(worker)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_after_a_signal_to_the_whole_group_of_an_xdist_run(tmp_path: Path, name: str) -> None:
    pytest.importorskip("xdist")
    with started(tmp_path, "steps", workers=2) as scene:
        _look(scene, workers=2)
        scene.signal_group(signal.Signals[name])
        assert scene.wait() != 0
        assert scene.left() == {}, scene.output()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_after_a_signal_to_the_controller_of_an_xdist_run_alone(tmp_path: Path, name: str) -> None:
    """Its workers end when they notice; what counts is that sandboxes end with them."""
    pytest.importorskip("xdist")
    with started(tmp_path, "hang", workers=2) as scene:
        _look(scene, workers=2)
        workers = scene.workers()
        scene.signal(signal.Signals[name])
        scene.wait()
        for worker in workers:  # a worker in the middle of a test may not notice
            if os.path.exists(f"/proc/{worker}"):
                os.kill(worker, signal.SIGKILL)
        assert scene.left() == {}, scene.output()
