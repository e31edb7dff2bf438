"""The watch over memory: the janitor's process, the page that it shares with an agent, and what becomes of it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import pack, unpack_from

import pytest

from benchmarks.memory_table import program
from pytest_arl.agent import memory_page
from pytest_arl.backends.local import LocalBackend
from pytest_arl.backends.local.process_resources import janitor_pid
from pytest_arl.backends.local.watched_cgroup import MI, Version1
from pytest_arl.backends.local.watched_sandbox import WatchedSandbox, end_unwatched
from pytest_arl.errors import SandboxLost
from pytest_arl.results import StepResult
from tests.local.conftest import MakeBackend, acquire, needs_cgroups, python, run, sh
from tests.waiting import until

POOL = '[pools.p]\nmemory = "64Mi"\nworkspace = "64Mi"\ntmp = "32Mi"\n'
MEMORY = 64 * MI
WALL = (64 + 64 + 2 * 32 + 32) * MI


def page_of(backend: LocalBackend, name: str) -> bytes:
    watch = backend._open[name].sandbox_process._watch
    assert watch
    return os.pread(watch._page, memory_page.SIZE, 0)


def number(page: bytes, at: int) -> int:
    return int(unpack_from("=Q", page, at)[0])


def waits(pid: int) -> int:
    """How often a process has gone to sleep."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary")]
    return int(line.split()[1])


# With the kernel's own cgroups


@needs_cgroups
def test_a_test_that_holds_the_interpreters_lock_does_not_stop_the_watch(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend(POOL), "p")
    results: list[StepResult] = []
    thread = threading.Thread(target=lambda: results.append(python(sandbox, program("memfd", 150, 600))))
    thread.start()
    assert until(thread.is_alive, 5)
    time.sleep(0.05)
    ctypes.PyDLL(None).usleep(2_000_000)  # by PyDLL, the lock is kept
    thread.join(20)  # the program would hold what it took for ten minutes
    assert [(result.outcome, result.limit) for result in results] == [("OutOfMemory", "memory 64Mi")]


@needs_cgroups
def test_an_idle_sandbox_costs_nothing_and_wakes_with_a_step(make_backend: MakeBackend) -> None:
    backend = make_backend(POOL)
    sandboxes = [acquire(backend, "p") for _ in range(3)]
    pid = janitor_pid()
    assert pid
    assert until(lambda: all(number(page_of(backend, each.name), memory_page.ASLEEP) for each in sandboxes), 20)
    time.sleep(0.2)  # the last look after it has said so
    before = waits(pid)
    time.sleep(0.5)
    assert waits(pid) == before
    for each in sandboxes:
        assert sh(each, "echo fits") == "fits\n"
        assert python(each, program("memfd", 100, 60)).outcome == "OutOfMemory"
    assert waits(pid) > before, "control"


@needs_cgroups
def test_without_the_watcher_a_sandbox_is_lost_and_the_next_has_another(make_backend: MakeBackend) -> None:
    backend = make_backend(POOL)
    sandbox = acquire(backend, "p")
    first = janitor_pid()
    assert first
    timer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
    timer.start()
    with pytest.raises(SandboxLost, match=rf"the process that watched its memory \(pid {first}\) is gone"):
        run(sandbox, "sleep", "60", timeout=60)
    after = acquire(backend, "p")
    assert janitor_pid() != first
    assert python(after, program("memfd", 100, 60)).outcome == "OutOfMemory"
    sandbox.close()


@needs_cgroups
def test_while_the_watcher_is_held_up_the_kernel_keeps_to_the_sum_of_all_sizes(make_backend: MakeBackend) -> None:
    backend = make_backend(POOL)
    sandbox = acquire(backend, "p")
    assert until(lambda: number(page_of(backend, sandbox.name), memory_page.ASLEEP), 20)
    pid = janitor_pid()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        fits = python(sandbox, program("memfd", 100, 0))
        result = python(sandbox, program("memfd", 400, 60))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fits.ok, "control: nobody looks"
    assert (result.outcome, result.limit, result.exit_code) == ("OutOfMemory", "memory 64Mi", 137)
    assert sh(sandbox, "echo alive") == "alive\n"


@needs_cgroups
def test_the_kernels_limit_follows_the_files(make_backend: MakeBackend) -> None:
    backend = make_backend(POOL.replace('"64Mi"\ntmp', '"1Gi"\ntmp'))
    sandbox = acquire(backend, "p")
    cgroup = backend._open[sandbox.name].sandbox_process._cgroup
    assert cgroup
    path = cgroup.memory / ("memory.limit_in_bytes" if cgroup.version == 1 else "memory.high")

    def limit() -> float:
        text = path.read_text().strip()
        return float("inf") if text == "max" else int(text)

    wide = limit()
    limits: dict[int, float] = {}
    for mib in (1, 200):
        thread = threading.Thread(target=python, args=(sandbox, program("/workspace", mib, 2)))
        thread.start()
        assert until(lambda: limit() < wide, 20)
        if mib > 1:
            assert until(lambda: limit() > limits[1] + 150 * MI, 20)
        limits[mib] = limit()
        thread.join()
        assert until(lambda: limit() == wide, 20), "between steps the agent may be sent as much as fits"


@needs_cgroups
def test_what_is_watched_is_let_go_with_the_sandbox(make_backend: MakeBackend) -> None:
    backend = make_backend(POOL)
    first = acquire(backend, "p")
    pid = janitor_pid()
    assert pid

    def held() -> list[str]:
        links = []
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(os.readlink(path))
        return links

    def pages() -> int:
        return sum("arl-memory-page" in link for link in held())

    assert until(lambda: pages() == 1, 20)
    first.close()
    assert until(lambda: pages() == 0, 20)
    before = len(held())
    sandboxes = [acquire(backend, "p") for _ in range(3)]
    assert until(lambda: pages() == 3, 20), "control"
    assert until(lambda: sum("/workspace" in link for link in held()) == 3, 20), "control"
    for each in sandboxes:
        each.close()
    assert until(lambda: len(held()) <= before, 20)


@needs_cgroups
def test_a_step_gets_nothing_of_the_watch(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend(POOL), "p")
    assert sh(sandbox, "ls /proc/self/fd") == "0\n1\n2\n3\n"  # ls has opened the folder itself
    process = "import os; print(sorted(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]))"
    seen = python(sandbox, process).stdout
    assert "memory" not in seen
    assert "memfd" not in seen


# With a folder that looks like a cgroup of version 1


class Scene:
    """A sandbox to be watched, made of plain files: the agent is a sleeping process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = subprocess.Popen(["sleep", "600"])
        self.others: list[subprocess.Popen[bytes]] = []
        self.page = os.memfd_create("page")
        os.ftruncate(self.page, memory_page.SIZE)
        self.set(held=0, step=0)
        (folder / "memory.limit_in_bytes").write_text("0")
        self.descriptors = [os.pidfd_open(self.agent.pid), os.eventfd(0), os.dup(self.page)]
        message = f"1 {self.agent.pid} 0 {MEMORY} {WALL} {folder}".encode()
        self.now = 1000.0
        self.sandbox = WatchedSandbox(message, self.descriptors, self.now)

    def set(self, *, held: int, step: int, cache: int = 0) -> None:
        stat = f"total_cache {cache}\ntotal_rss {held}\ntotal_shmem 0\n"
        (self.folder / "memory.stat").write_text(stat)
        (self.folder / "memory.usage_in_bytes").write_text(str(held + cache))
        processes = [self.agent, *self.others]
        (self.folder / "cgroup.procs").write_text("".join(f"{process.pid}\n" for process in processes))
        os.pwrite(self.page, pack("=QQQ", step, 0, 1 << 40), memory_page.STEP)

    def start(self) -> subprocess.Popen[bytes]:
        self.others.append(subprocess.Popen(["sleep", "600"]))
        return self.others[-1]

    def end_others(self) -> None:
        for process in self.others:
            process.kill()
            process.wait()
        self.others.clear()

    def look(self, seconds: float = 0.05) -> None:
        self.now += seconds
        self.sandbox.look(self.now)

    def told(self, at: int) -> int:
        return number(os.pread(self.page, memory_page.SIZE, 0), at)

    def close(self) -> None:
        self.end_others()
        self.agent.kill()
        self.agent.wait()
        for descriptor in {*self.descriptors, self.page}:
            os.close(descriptor)
        self.sandbox.group.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_what_holds_too_much_is_told_first_and_killed_but_for_the_agent(scene: Scene) -> None:
    program = scene.start()
    scene.set(held=MEMORY - MI, step=1)
    scene.look()
    assert scene.told(memory_page.KILLS) == 0
    assert program.poll() is None
    scene.set(held=MEMORY + MI, step=1)
    scene.look()
    assert scene.told(memory_page.KILLS) == 1
    assert program.wait(10) == -signal.SIGKILL
    assert scene.agent.poll() is None


def test_page_cache_is_nothing_that_is_held(scene: Scene) -> None:
    program = scene.start()
    scene.set(held=MEMORY - MI, step=1, cache=100 * MI)
    scene.look()
    assert scene.told(memory_page.KILLS) == 0
    assert program.poll() is None


def test_who_forks_meanwhile_is_killed_too_and_the_next_step_is_not(scene: Scene) -> None:
    scene.start()
    scene.set(held=MEMORY + MI, step=1)
    scene.look()
    forked = scene.start()
    scene.set(held=MEMORY + MI, step=1)
    scene.look(0.001)
    assert forked.wait(10) == -signal.SIGKILL
    of_the_next = scene.start()
    scene.set(held=MI, step=3)
    scene.look(0.001)
    assert of_the_next.poll() is None
    assert scene.told(memory_page.KILLS) == 1


def test_shared_memory_that_was_left_leaves_room_for_its_removal_and_no_more(scene: Scene) -> None:
    scene.start()
    scene.set(held=MEMORY + 2 * MI, step=1)
    scene.look()
    scene.end_others()
    scene.set(held=MEMORY + MI, step=1)  # all are killed, and a file in /dev/shm is left
    scene.look(0.001)
    removing = scene.start()
    scene.set(held=MEMORY + 15 * MI, step=3)
    scene.look()
    assert removing.poll() is None
    scene.set(held=MEMORY + 17 * MI, step=3)
    scene.look()
    assert removing.wait(10) == -signal.SIGKILL


def test_the_fuller_the_sooner_the_next_look(scene: Scene) -> None:
    scene.start()
    waits = []
    for held in (0, MEMORY // 2, MEMORY):
        scene.set(held=held, step=1)
        scene.look()
        assert scene.sandbox.due
        waits.append(scene.sandbox.due - scene.now)
    assert waits == sorted(waits, reverse=True)
    assert waits[0] <= 0.05
    assert waits[-1] <= 0.001 + 1e-9


def test_the_most_that_was_seen_is_told_for_the_step_that_runs(scene: Scene) -> None:
    scene.start()
    seen = []
    for held, step in ((20, 1), (30, 1), (10, 1), (5, 3), (50, 4)):
        scene.set(held=held * MI, step=step)
        scene.look()
        seen.append((scene.told(memory_page.SEEN), scene.told(memory_page.SEEN + 8) // MI))
    assert seen == [(1, 20), (1, 30), (1, 30), (3, 5), (3, 5)]


def test_what_cannot_be_watched_is_ended_with_the_reason(scene: Scene) -> None:
    (scene.folder / "cgroup.procs").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        scene.look()
    end_unwatched(scene.descriptors, caught.value)
    assert scene.agent.wait(10) == -signal.SIGKILL
    assert os.strerror(scene.told(memory_page.FAILURE)) == "No such file or directory"


def test_a_page_that_was_cut_off_is_a_failure_too(scene: Scene) -> None:
    os.ftruncate(scene.page, 8)
    with pytest.raises(OSError, match="Bad message"):
        scene.look()


def test_files_of_a_cgroup_are_closed_where_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / "memory.usage_in_bytes").write_text("0")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Version1(os.fsencode(tmp_path), MEMORY, WALL)
    assert len(os.listdir("/proc/self/fd")) == before


# What a step held at most


def peak(result: StepResult) -> float | None:
    """MiB."""
    assert result.usage
    return None if result.usage.memory_peak is None else result.usage.memory_peak / MI


@needs_cgroups
@pytest.mark.parametrize("kind", ["anonymous", "8 processes", "shared anonymous", "/dev/shm", "memfd", "System V"])
def test_what_was_held_for_a_moment_only_is_known(make_backend: MakeBackend, kind: str) -> None:
    sandbox = acquire(make_backend(POOL.replace('memory = "64Mi"', 'memory = "256Mi"')), "p")
    found = peak(python(sandbox, program(kind, 100, 0.03)))
    assert found is not None
    assert 100 <= found <= 100 * 1.05 + 10  # the interpreters hold something themselves


@needs_cgroups
def test_files_and_page_cache_are_no_peak(make_backend: MakeBackend, folder: Path) -> None:
    with (folder / "big").open("wb") as file:
        file.write(bytes(40 * MI))
        os.fsync(file.fileno())
    (folder / "big").chmod(0o644)
    sandbox = acquire(make_backend(f'{POOL}mounts = ["{folder}:/mounted"]\n'), "p")
    read = """
import os
file = os.open("/mounted/big", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read anew is the reader's
while os.read(file, 1 << 20): pass
"""
    for code in (program("/workspace", 50, 0.1), *[read] * 6):
        found = peak(python(sandbox, code))
        assert found is None or found < 20
    held = peak(python(sandbox, read + program("memfd", 30, 0.1)))
    assert held is None or 30 <= held < 50, "control"


@needs_cgroups
def test_each_step_has_a_peak_of_its_own(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend(POOL), "p")
    much, little = peak(python(sandbox, program("memfd", 50, 0))), peak(run(sandbox, "true"))
    assert much is not None
    assert 50 <= much < 64
    assert little is None or little < 5  # an older kernel does not begin anew


@needs_cgroups
def test_what_ended_a_step_is_its_peak(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend(POOL), "p")
    result = python(sandbox, program("memfd", 150, 60))
    found = peak(result)
    assert result.outcome == "OutOfMemory"
    assert found is not None
    assert found >= 64
    assert result.usage
    assert result.usage.oom_kills == 1
