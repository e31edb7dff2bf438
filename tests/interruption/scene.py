"""A run of pytest with everything in it that could be left behind, started in a process of its own to be interrupted.

The run's tests hold: a sandbox in the middle of a long step whose children are in sessions of their own and deaf to
SIGTERM, one with a background process, one that a large file is being uploaded to, and a pool that keeps two warm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.leftovers import Traces, below, left_of, look_at, still_alive
from tests.waiting import until

__all__ = ["SANDBOXES", "Scene", "started"]

SANDBOXES = 5
"""Agents of one process of the run: three sandboxes that tests hold, and two warm ones."""

_SECONDS = 2.0
"""In which everything must be gone."""

_PYPROJECT = """
[tool.pytest-arl.pools.kept-warm]
warm = 2
"""

_CONFTEST = """
import pytest
from pytest_arl import SandboxSession, sandbox_fixture

shared = sandbox_fixture(pool_ref="kept-warm", scope="module")

@pytest.fixture(scope="session")
def uploading():
    with SandboxSession() as sandbox:
        yield sandbox
"""

_TESTS = '''
import os, subprocess, sys, threading, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent
MARKER = (HERE / "marker").read_text()
TREE = f"""
for n in 1 2 3; do setsid sh -c 'trap "" TERM HUP INT; sleep 1000.{MARKER}' & done
echo ready; sleep 1000.{MARKER}
"""

def upload_for_ever(sandbox):
    large = HERE / "large"
    if not large.exists():
        with large.open("wb") as file:
            file.truncate(300 << 20)
    try:
        while True:
            sandbox.upload(large, "large")
    except BaseException:
        pass  # closed under it

def ready(*_):
    (HERE / f"ready-{os.getpid()}").touch()

def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.01)

def hold(arl_sandbox, shared, uploading):
    threading.Thread(target=upload_for_ever, args=(uploading,), daemon=True).start()
    shared.start("sh", "-c", TREE)
    shared.write("file", "x" * 100_000)

@pytest.mark.parametrize("number", range(2))
def test_busy(arl_sandbox, shared, uploading, number):
    hold(arl_sandbox, shared, uploading)
    end = os.environ["SCENE"]
    if end == "steps":
        arl_sandbox.execute([{"type": "Command", "command": ["sh", "-c", TREE]}], on_output=ready)
    thread = threading.Thread(target=arl_sandbox.run, args=("sh", "-c", TREE), daemon=True)
    if end != "fork":
        thread.start()
    ready()
    if end == "fork":
        wait_for("fork")
    if end == "fork" and os.fork() == 0:
        (HERE / "forked").symlink_to(str(os.getpid()))
        time.sleep(1000)
    wait_for("go")
    if end == "exit":
        os._exit(3)
    if end == "crash":
        os.kill(os.getpid(), 11)
    if end == "hang":
        time.sleep(1000)
    assert end != "fail"
    if end == "return":
        arl_sandbox.delete_sandbox()  # its caller in the other thread hears of it
'''

_CHURN = """
import os
from pathlib import Path
from pytest_arl import SandboxSession

def test_churn():
    while True:
        with SandboxSession("kept-warm") as sandbox:
            sandbox.run("true")
        (Path(__file__).parent / f"ready-{os.getpid()}").touch()
"""


class Scene:
    """A run under way."""

    def __init__(self, process: subprocess.Popen[bytes], project: Path, tmp: Path, marker: str, before: Traces) -> None:
        self.process = process
        self.pid = process.pid
        self.project = project
        self._tmp = tmp
        self._marker = marker
        self._before = before
        self._seen: list[Traces] = []

    def look(self) -> Traces:
        """What there is of it at the moment; it must be gone in the end."""
        seen = look_at(self.pid, self._tmp)
        self._seen.append(seen)
        return seen

    def marked(self) -> set[int]:
        """Processes of its steps: those with the marker in their argv."""
        found = set()
        for pid in below(self.pid):
            with suppress(OSError):
                if self._marker.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != self.pid:
                    found.add(pid)
        return found

    def workers(self) -> list[int]:
        """The processes in which its tests run."""
        return sorted(int(path.name.removeprefix("ready-")) for path in self.project.glob("ready-*"))

    def go(self) -> None:
        """Let the tests go on to their end."""
        (self.project / "go").touch()

    def signal(self, number: int) -> None:
        """Send a signal to the process that the user started."""
        os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to its process group, as a terminal or a CI's runner does."""
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(60)

    def left(self) -> dict[str, set[str]]:
        """What is still there, of all that was seen, two seconds later at the latest."""
        until(lambda: not self.remains(), _SECONDS)
        return self.remains()

    def remains(self) -> dict[str, set[str]]:
        """What is there at the moment, of all that was seen."""
        left: dict[str, set[str]] = {}
        for seen in self._seen:
            for kind, found in left_of(seen, self._before, self._tmp).items():
                left[kind] = found | left.get(kind, set())
        return left

    def output(self) -> str:
        """What the run printed."""
        return (self.project / "output").read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Leave nothing, whatever the run did: only what was seen below it, and only if it is still the same process."""
        for seen in self._seen:
            for pid in still_alive(seen):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def started(
    folder: Path, end: str, *arguments: str, workers: int = 0, churn: bool = False, sandboxes: int | None = None
) -> Iterator[Scene]:
    """A run that has everything under way. ``end`` is what its tests do once told to go; it is closed afterwards."""
    project, tmp = folder / "project", folder / "tmp"
    project.mkdir()
    tmp.mkdir()
    marker = f"8{os.getpid():08}{time.monotonic_ns() % 10**9:09}"
    for name, content in {
        "pyproject.toml": _PYPROJECT,
        "conftest.py": _CONFTEST,
        "test_scene.py": _CHURN if churn else _TESTS,
        "marker": marker,
    }.items():
        (project / name).write_text(content)
    # pytest's own temporary folders elsewhere, so that TMPDIR is ours.
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--basetemp={folder / 'base'}"]
    argv += ["-p", "pytest_arl.plugin", *arguments]
    if workers:
        argv += ["-p", "xdist.plugin", "-n", str(workers)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    # Without whatever other plugins are installed: importing them took longer than the rest.
    ours = {"TMPDIR": str(tmp), "SCENE": end, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    before = look_at(os.getpid(), tmp)
    with (project / "output").open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=project,
            env={**environ, **ours},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    scene = Scene(process, project, tmp, marker, before)
    try:
        expected = (SANDBOXES if sandboxes is None else sandboxes) * (workers or 1)
        if not until(
            lambda: len(scene.workers()) >= (workers or 1) and len(look_at(scene.pid, tmp).agents) >= expected, 150
        ):
            agents = look_at(scene.pid, tmp).agents
            process.send_signal(signal.SIGINT)  # so that it says what failed
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            message = f"the run did not get under way: {agents}\n{scene.output()}"
            raise AssertionError(message)
        yield scene
    finally:
        scene.look()
        scene.end()
