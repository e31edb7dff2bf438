"""Limits by cgroup: the real kernel's where this user may, a folder's where that is enough."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.cgroups import SPARE_PROCESSES, Cgroup, CgroupLimits, RunCgroups, sweep
from pytest_arl.backends.local.hierarchies import Hierarchies
from pytest_arl.backends.local.probe import probe
from tests.local.conftest import MakeBackend, acquire, needs_cgroups, python, run, sh

LIMITS = CgroupLimits(memory=64 * 2**20, files=8 * 2**20, processes=20, cpus=0.5)


@pytest.fixture
def cgroups() -> Iterator[RunCgroups]:
    found = probe().hierarchies
    assert found
    run_cgroups = RunCgroups(found)
    yield run_cgroups
    run_cgroups.close()


def test_version_2_limits_are_written_where_the_kernel_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    real_mkdir = Path.mkdir

    def mkdir(path: Path) -> None:  # a new cgroup comes with its files
        real_mkdir(path)
        for name in (
            "memory.max",
            "memory.swap.max",
            "cpu.max",
            "pids.max",
            "memory.events",
            "pids.events",
            "cpu.stat",
        ):
            (path / name).write_text("")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        group = Cgroup(dict.fromkeys(("memory", "pids", "cpu"), folder), LIMITS, version=2)
    read = {path.name: path.read_text() for path in folder.iterdir()}
    assert read["memory.max"] == str((64 + 8 + 32) * 2**20)
    assert read["memory.swap.max"] == "0"
    assert read["cpu.max"] == "50000 100000"
    assert read["pids.max"] == "28"  # and the agent's few
    assert group.limits_cpus
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert not group.out_of_memory()
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.out_of_memory()


@needs_cgroups
def test_the_kernel_has_the_pools_limits(make_backend: MakeBackend) -> None:
    table = '[pools.p]\nmemory = "100Mi"\nworkspace = "50Mi"\ntmp = "10Mi"\nprocesses = 30\ncpus = 0.5\n'
    backend = make_backend(table)
    acquire(backend, "p")
    (prepared,) = backend._open.values()
    cgroup = prepared.sandbox_process._cgroup
    assert cgroup
    folders = cgroup._folders

    def value(*names: str) -> str:
        (path,) = [folder / name for folder in folders for name in names if (folder / name).exists()]
        return path.read_text().strip()

    assert int(value("memory.limit_in_bytes", "memory.max")) == (100 + 50 + 2 * 10 + 32) * 2**20
    assert value("pids.max") == "38"
    assert value("cpu.cfs_quota_us", "cpu.max").startswith("50000")
    for folder in folders:
        # The agent; where a thread can join, bubblewrap's monitor too; never the process that made them.
        inside = (folder / "cgroup.procs").read_text().split()
        assert len(inside) == (2 if cgroup.joins else 1)
        assert str(os.getpid()) not in inside


@needs_cgroups
def test_a_memory_bomb_ends_the_step_and_names_the_limit(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend('[pools.p]\nmemory = "40Mi"\nworkspace = "8Mi"\ntmp = "8Mi"\n'), "p")
    result = python(sandbox, "x = []\nwhile True: x.append(bytearray(10**6))")
    assert result.outcome == "OutOfMemory"
    assert result.limit == "memory 40Mi"
    assert sh(sandbox, "echo alive") == "alive\n"


@needs_cgroups
def test_a_fork_bomb_is_bounded(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend("[pools.p]\nprocesses = 40\n"), "p")
    script = "import os\nn = 0\ntry:\n  while True:\n    n += 1\n    os.fork() or os.pause()\nexcept OSError: print(n)"
    script = script.replace("os.pause()", "__import__('signal').pause()")
    result = python(sandbox, script)
    assert 20 < int(result.stdout) < 50
    assert result.limit in (None, "processes 40")


@needs_cgroups
def test_processor_time_is_shared_out(make_backend: MakeBackend) -> None:
    backend = make_backend("[pools.fifth]\ncpus = 0.2\n")
    burn = "import time\nwhile time.process_time() < .1: pass"
    throttled = []
    for pool in ("fifth", "default"):
        sandbox = acquire(backend, pool)
        assert python(sandbox, burn).exit_code == 0
        cgroup = backend._open[sandbox.name].sandbox_process._cgroup
        assert cgroup
        counts = [path.read_text().split() for folder in cgroup._folders for path in folder.glob("cpu.stat")]
        throttled.append(
            sum(int(words[words.index("nr_throttled") + 1]) for words in counts if "nr_throttled" in words)
        )
    assert throttled[0] > 0
    assert throttled[1] == 0


def sleep_in(cgroup: Cgroup) -> spawner.SpawnedProcess:
    """A process inside, by the way that this machine has."""
    null = os.open(os.devnull, os.O_WRONLY)
    process = cgroup.spawn(["/bin/sleep", "60"], descriptors=(), stderr=null)
    os.close(null)
    if not cgroup.joins:
        cgroup.add(process.pid)
    return process


@needs_cgroups
def test_closing_removes_the_cgroup_and_what_is_left_in_it(cgroups: RunCgroups) -> None:
    cgroup = cgroups.create(LIMITS)
    process = sleep_in(cgroup)
    assert str(process.pid) in (cgroup._folders[0] / "cgroup.procs").read_text().split()
    cgroup.remove()
    assert process.wait(5) == -signal.SIGKILL
    assert not any(folder.exists() for folder in cgroup._folders)
    cgroup.remove()  # idempotent


@needs_cgroups
def test_the_sweep_takes_a_dead_owners_cgroups_and_leaves_the_livings(cgroups: RunCgroups) -> None:
    living = cgroups.create(LIMITS)
    dead = RunCgroups(cgroups._hierarchies)
    left = dead.create(LIMITS)
    process = sleep_in(left)
    dead.forget()  # as the kernel does with a dead process's locks
    assert sweep(cgroups._hierarchies) >= 1
    assert process.wait(5) == -signal.SIGKILL
    assert not any(folder.exists() for folder in (*left._folders, *dead.folders))
    assert all(folder.exists() for folder in living._folders)


def test_a_run_begins_well_while_others_sweep(tmp_path: Path) -> None:
    """They may take its folder before it is locked, and even before it is opened."""
    hierarchies = Hierarchies(1, {"memory": tmp_path})
    over = threading.Event()
    removed = []

    def sweep_on() -> None:
        while not over.is_set():
            removed.append(sweep(hierarchies))

    sweepers = [threading.Thread(target=sweep_on) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    end = time.monotonic() + 60
    begun = 0
    try:
        while begun < 300 or (not any(removed) and time.monotonic() < end):
            run = RunCgroups(hierarchies)
            assert all(folder.exists() for folder in run.folders)
            run.close()
            begun += 1
    finally:
        over.set()
        for sweeper in sweepers:
            sweeper.join()
    assert sum(removed) > 0, "control: they took some"


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        RunCgroups(Hierarchies(1, {"memory": tmp_path, "pids": tmp_path / "absent"}))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_sweep_ignores_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "somebody").mkdir()
    (tmp_path / "pytest-arl-1-dead").mkdir()
    assert sweep(Hierarchies(1, {"memory": tmp_path})) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["somebody"]


def test_without_a_cgroup_processors_are_set_by_affinity(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_arl.backends.local.hierarchies.find", no_cgroups)
    probe.cache_clear()
    try:
        backend = make_backend("[pools.one]\ncpus = 0.5\n")
        seen = python(acquire(backend, "one"), "import os; print(len(os.sched_getaffinity(0)))")
        assert seen.stdout == "1\n"
        assert len(os.sched_getaffinity(0)) == int(
            python(acquire(backend), "import os; print(len(os.sched_getaffinity(0)))").stdout
        )
    finally:
        probe.cache_clear()


def no_cgroups() -> Hierarchies:
    from pytest_arl.backends.local.hierarchies import NoCgroups

    raise NoCgroups("none in this test")


def test_the_rlimit_tier_bounds_memory_and_processes(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_arl.backends.local.hierarchies.find", no_cgroups)
    probe.cache_clear()
    try:
        backend = make_backend('[pools.p]\nmemory = "300Mi"\nprocesses = 30\n')
        sandbox = acquire(backend, "p")
        assert sandbox.isolation == "bwrap+rlimit"
        result = python(sandbox, "import time; x = bytearray(400 * 2**20); time.sleep(2)")
        assert result.exit_code != 0
        assert result.limit == "memory 300Mi"
        forks = python(
            sandbox,
            "import os, signal\ntry:\n  for n in range(200): os.fork() or signal.pause()\nexcept OSError: print(n)",
        )
        assert int(forks.stdout) <= 30 + SPARE_PROCESSES
        start = time.monotonic()
        both = run(
            sandbox,
            *("sh", "-c", "head -c 200M /dev/zero >/dev/shm/x; head -c 200M /dev/zero | tail; sleep 100"),
            timeout=120,
        )
        assert both.limit == "memory 300Mi"  # neither is too much alone: somebody adds them up
        assert time.monotonic() - start < 90
        apart = run(
            sandbox, "sh", "-c", "rm /dev/shm/x; for f in /workspace/x /tmp/x; do head -c 200M /dev/zero >$f; done"
        )
        assert (apart.exit_code, apart.limit) == (0, None)  # files there have sizes of their own
    finally:
        probe.cache_clear()


@needs_cgroups
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can ask as another user")
def test_another_user_cannot_lock_a_runs_folder(cgroups: RunCgroups) -> None:
    """Who locks it makes a run begin for ever, and keeps a dead one's from the sweep."""
    # No Python: this one may be below /root, where another user does not come.
    opens = ["/bin/sh", "-c", 'exec 3<"$1"', "sh"]
    for folder in cgroups.folders:
        for path, opened in ((folder, False), (folder.parent, True)):
            done = subprocess.run([*opens, str(path)], check=False, user=65534, group=65534, extra_groups=[])
            assert (done.returncode == 0) is opened, path
