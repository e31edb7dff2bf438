"""Acquiring, keeping ready, counting and closing."""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl import settings as settings_module
from pytest_arl.backends.base import AcquireRequest
from pytest_arl.backends.local import LocalBackend, create_backend, spawner
from pytest_arl.backends.local import backend as backend_module
from pytest_arl.backends.local.plan import Plan
from pytest_arl.errors import BackendUnavailable, PoolNotFound, SandboxLost, SandboxTimeout, UsageError
from pytest_arl.hooks import get_backend
from pytest_arl.session import open_sandbox
from pytest_arl.session.open_sandbox import OpenSandbox
from pytest_arl.settings import Settings
from tests.local.conftest import MakeBackend, acquire, run, sh
from tests.waiting import until


@pytest.fixture
def two_at_most(make_backend: MakeBackend) -> Iterator[MakeBackend]:
    """Backends under --arl-max-sandboxes=2."""
    with settings_module.override({"max_sandboxes": 2}, "this test"):
        yield make_backend


def test_the_hook_gives_this_backend(folder: Path) -> None:
    settings = Settings.build(start_dir=folder)
    backend = get_backend("local", settings)
    assert isinstance(backend, LocalBackend)
    assert get_backend("local", settings) is backend
    assert create_backend(settings).name == "local"
    backend.close()


def test_making_a_backend_looks_for_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "probe", lambda: pytest.fail("probed"))
    backend = LocalBackend(Settings.build(start_dir=folder))
    assert backend.pools() == ("default",)
    backend.close()


def test_a_sandbox_says_what_it_is(make_backend: MakeBackend) -> None:
    backend = make_backend('[pools.small]\noutput = "4Ki"\n')
    first, second = acquire(backend, "small"), acquire(backend, "small")
    assert first.pool_ref == "small"
    assert first.name.startswith("small-")
    assert first.name != second.name
    assert first.output_limit == 4096
    assert first.isolation in ("bwrap+cgroup", "bwrap+rlimit")


def test_an_unknown_pool_is_an_error_that_lists_those_there_are(make_backend: MakeBackend) -> None:
    backend = make_backend("[pools.a]\n[pools.b]\n")
    assert backend.pools() == ("a", "b", "default")
    with pytest.raises(PoolNotFound, match="a, b, default"):
        acquire(backend, "c")


def test_the_pools_environment_and_path_reach_steps(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend('[pools.p]\nenv = { A = "1", PATH = "/usr/bin:/bin" }\n'), "p")
    assert sh(sandbox, "echo $A $PATH $HOME $USER $LANG") == "1 /usr/bin:/bin /home/arl arl C.UTF-8\n"


def test_many_threads_each_get_a_sandbox(make_backend: MakeBackend) -> None:
    backend = make_backend()
    results: list[str] = []

    def use(number: int) -> None:
        sandbox = acquire(backend)
        results.append(sh(sandbox, f"echo {number} > file; sleep 0.05; cat file"))
        sandbox.close()

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{number}\n" for number in range(8)]


def test_a_sandbox_outlives_the_thread_that_acquired_it(make_backend: MakeBackend) -> None:
    backend = make_backend()
    made = []
    thread = threading.Thread(target=lambda: made.append(acquire(backend)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert sh(made[0], "echo alive") == "alive\n"


def test_acquiring_has_a_deadline(make_backend: MakeBackend, folder: Path) -> None:
    backend = make_backend()
    acquire(backend)  # what is made once is made
    start = time.monotonic()
    acquire(backend).close()
    timeout = max(0.3, 5 * (time.monotonic() - start))  # enough for bubblewrap, on a slow machine too
    plan = backend._plans["default"]
    stuck = folder / "stuck"
    stuck.write_text("#!/bin/sh\nsleep 60\n")
    stuck.chmod(0o755)
    backend._plans["default"] = replaced(plan, bwrap=str(stuck))
    start = time.monotonic()
    with pytest.raises(SandboxTimeout, match="in time"):
        acquire(backend, timeout=timeout)
    assert time.monotonic() - start < 20 + timeout
    backend._plans["default"] = replaced(plan, command=("/usr/bin/sleep", "60"))
    with pytest.raises(SandboxTimeout, match="agent was not ready in time"):
        acquire(backend, timeout=timeout)
    assert len(backend._open) == 1


def replaced(plan: Plan, **changes: object) -> Plan:
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]  # a test's own


def test_a_bubblewrap_that_fails_is_quoted(make_backend: MakeBackend) -> None:
    backend = make_backend()
    acquire(backend)
    plan = backend._plans["default"]
    backend._plans["default"] = replaced(plan, arguments=(*plan.arguments, "--ro-bind", "/not/there", "/x"))
    with pytest.raises(BackendUnavailable, match="Can't find source path /not/there"):
        acquire(backend)
    backend._plans["default"] = replaced(plan, command=("/not/there",))
    with pytest.raises(BackendUnavailable, match="/not/there"):
        acquire(backend)
    assert len(backend._open) == 1


def test_a_killed_agent_is_lost_with_what_is_known(make_backend: MakeBackend) -> None:
    backend = make_backend()
    sandbox = acquire(backend)
    timer = threading.Timer(0.2, next(iter(backend._open.values())).sandbox_process.kill)
    timer.start()
    with pytest.raises(SandboxLost, match="SIGKILL"):
        run(sandbox, "sleep", "30")
    assert not sandbox.alive()
    sandbox.close()


@pytest.mark.parametrize("room", [6, 12, 18, 24, 30])
def test_no_descriptors_left_is_told_as_what_it_is(make_backend: MakeBackend, room: int) -> None:
    backend = make_backend()
    acquire(backend).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + room, hard))
    try:
        with pytest.raises(BackendUnavailable, match="Too many open files"):
            acquire(backend)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) == held
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sh(acquire(backend), "echo works") == "works\n"


def test_an_interrupt_while_a_process_is_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*arguments: object, **options: object) -> object:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        time.sleep(0.1)
        started.append(real(*arguments, **options))  # type: ignore[call-overload]  # as they came
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            spawner.spawn(["sleep", "60"], descriptors=(), stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_close_is_idempotent_and_closes_everything(make_backend: MakeBackend) -> None:
    backend = make_backend()
    sandboxes = [acquire(backend) for _ in range(3)]
    sandboxes[0].close()
    sandboxes[0].close()
    backend.close()
    backend.close()
    assert not any(sandbox.alive() for sandbox in sandboxes)
    with pytest.raises(BackendUnavailable, match="closed"):
        acquire(backend)


def test_closing_gives_back_every_descriptor(make_backend: MakeBackend) -> None:
    backend = make_backend()
    acquire(backend).close()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        acquire(backend).close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_failed_start_gives_back_every_descriptor(make_backend: MakeBackend) -> None:
    backend = make_backend()
    acquire(backend).close()
    plan = backend._plans["default"]
    before = sorted(os.listdir("/proc/self/fd"))
    for changes in ({"bwrap": "/not/there"}, {"bwrap": "/bin/false"}, {"command": ("/not/there",)}):
        backend._plans["default"] = replaced(plan, **changes)
        with pytest.raises(BackendUnavailable):
            acquire(backend)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_restored_sandbox_is_a_fresh_one_and_its_files_come_along(make_backend: MakeBackend) -> None:
    backend = make_backend()
    sandbox = acquire(backend)
    sandbox.write("kept", b"kept", None)
    checkpoint = sandbox.checkpoint()
    sh(sandbox, "touch dropped; ipcmk -Q || true")
    fresh = sandbox.restore(checkpoint)
    assert sh(fresh, "ls; cat kept") == "kept\nkept"
    assert not sandbox.alive()
    assert len(backend._open) == 1
    checkpoint.close()


# --arl-max-sandboxes


def opened(backend: LocalBackend, pool: str = "default", timeout: float = 30.0) -> OpenSandbox:
    """A sandbox as a session opens it, where two may be open in this process."""
    held, _ = open_sandbox.acquire(backend, AcquireRequest(pool, acquire_timeout=timeout), 2, None)
    return held


NO_PLACE = "2 are open in this process, and --arl-max-sandboxes allows no more"


def test_no_more_sandboxes_than_allowed_are_open_and_the_next_waits_its_turn(make_backend: MakeBackend) -> None:
    backend = make_backend()
    first, second = opened(backend), opened(backend)
    with pytest.raises(SandboxTimeout, match=NO_PLACE):
        opened(backend, timeout=0.1)
    order: list[int] = []

    def queue(number: int) -> None:
        sandbox = opened(backend)
        order.append(number)
        sandbox.close()

    threads = [threading.Thread(target=queue, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert order == []
    first.close()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    second.close()


def test_a_reset_needs_no_place_beside_the_one_it_has(make_backend: MakeBackend) -> None:
    backend = make_backend()
    one, other = opened(backend), opened(backend)
    before = one.sandbox
    sh(before, "touch x")
    one.renew()
    assert one.sandbox is not before
    assert sh(one.sandbox, "ls") == ""
    with pytest.raises(SandboxTimeout, match=NO_PLACE):
        opened(backend, timeout=0.05)
    one.close()
    opened(backend, timeout=5).close()
    other.close()


def test_a_failed_start_gives_its_place_back(make_backend: MakeBackend) -> None:
    backend = make_backend('[pools.bad]\nmounts = ["missing:/x"]\n')
    for _ in range(3):
        with pytest.raises(UsageError):
            opened(backend, "bad", timeout=5)
    first = opened(backend)
    plan = backend._plans["default"]
    backend._plans["default"] = replaced(plan, command=("/not/there",))
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            opened(backend, timeout=5)
    backend._plans["default"] = plan
    opened(backend, timeout=5).close()
    first.close()


# warm


WARM = "[pools.w]\nwarm = 2\n[pools.cold]\n"


def test_a_warm_pool_hands_out_what_is_ready_and_fills_up_again(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    assert not acquire(backend, "w").warm  # type: ignore[attr-defined]  # optional in the protocol
    assert until(lambda: backend._warm.count() == 2)
    ready = {id(one) for shelf in backend._warm._ready.values() for one in shelf}
    sandbox = acquire(backend, "w")
    assert id(backend._open[sandbox.name]) in ready
    assert sandbox.warm  # type: ignore[attr-defined]  # as above
    assert not acquire(backend, "cold").warm  # type: ignore[attr-defined]  # as above
    assert sh(sandbox, "echo works") == "works\n"
    assert until(lambda: backend._warm.count() == 2)


def test_a_warm_sandbox_that_died_is_not_handed_out(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    acquire(backend, "w")
    assert until(lambda: backend._warm.count() == 2)
    ready = list(backend._warm._ready["w"])
    for one in ready:
        one.sandbox_process.kill()
    assert until(lambda: not any(one.sandbox_process.alive() for one in ready))
    assert sh(acquire(backend, "w"), "echo works") == "works\n"


def test_an_agent_that_waits_for_a_processor_is_told_from_one_that_does_nothing(make_backend: MakeBackend) -> None:
    backend = make_backend("")
    sandbox = acquire(backend, "default")
    enclosure = backend._open[sandbox.name].sandbox_process
    assert until(lambda: not enclosure.starved())
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    agents = enclosure._pid
    try:
        enclosure._pid = busy.pid  # in the place of an agent that is starved: no test can starve one
        assert until(enclosure.starved)
        busy.send_signal(signal.SIGSTOP)
        assert until(lambda: not enclosure.starved())
    finally:
        enclosure._pid = agents
        busy.kill()
        busy.wait()


def test_warm_sandboxes_count_and_give_way(two_at_most: MakeBackend) -> None:
    backend = two_at_most(WARM)
    acquire(backend, "w")
    assert until(lambda: backend._warm.count() == 1)
    time.sleep(0.1)
    assert backend._warm.count() == 1  # one open, one ready: two
    cold = acquire(backend, "cold", timeout=5)
    assert backend._warm.count() == 0
    cold.close()


def test_a_reset_leaves_what_is_warm_its_place(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    with settings_module.override({"max_sandboxes": 3}, "this test"):
        cold, warm = acquire(backend, "cold"), acquire(backend, "w")
        assert until(lambda: backend._warm.count() == 1)  # two open, one ready: three
        (ready,) = backend._warm.ready()
        checkpoint = cold.checkpoint()
        sh(cold, "touch x")
        fresh = cold.restore(checkpoint)
        assert backend._warm.ready() == [ready]
    fresh.close()
    warm.close()
    assert (backend._open, backend._opening) == ({}, set())


def test_nothing_is_kept_warm_before_it_is_used_nor_after_the_end(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    acquire(backend, "cold")
    time.sleep(0.1)
    assert backend._warm.count() == 0
    acquire(backend, "w")
    assert until(lambda: backend._warm.count() == 2)
    pids = [one.sandbox_process._process.pid for one in backend._warm._ready["w"]]
    backend.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not [thread for thread in threading.enumerate() if thread.name == "arl-warm"]


def test_filling_waits_while_somebody_waits_for_a_sandbox(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    with backend._warm.paused():
        acquire(backend, "w")
        time.sleep(0.1)
        assert backend._warm.count() == 0
    assert until(lambda: backend._warm.count() == 2)


def test_a_pool_that_cannot_be_kept_warm_says_so_and_is_tried_at_the_next_use(
    make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make_backend(WARM)
    acquire(backend, "w")
    assert until(lambda: backend._warm.count() == 2)
    plan = backend._plans["w"]
    with caplog.at_level(logging.WARNING, "pytest_arl"):
        backend._plans["w"] = replaced(plan, command=("/not/there",))
        with pytest.raises(BackendUnavailable):
            acquire(backend, "w")
        assert until(lambda: "not kept warm" in caplog.text)
    backend._plans["w"] = plan
    acquire(backend, "w")
    assert until(lambda: backend._warm.count() == 2)


def test_warm_sandboxes_make_resets_quick(make_backend: MakeBackend) -> None:
    backend = make_backend(WARM)
    sandbox = acquire(backend, "w")
    checkpoint = sandbox.checkpoint()
    run(sandbox, "true")
    assert until(lambda: backend._warm.count() == 2)
    ready = {id(one) for one in backend._warm._ready["w"]}
    fresh = sandbox.restore(checkpoint)
    assert id(backend._open[fresh.name]) in ready
