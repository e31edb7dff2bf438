"""What a Command used, and the limit of its processor time, where no cgroup counts anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.agent import container, usage_meter
from pytest_arl.agent.foreground import Foreground
from pytest_arl.agent.usage_meter import CpuWatch, Meter, Sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.agent.harness import Sandbox

BURN = """
import os, signal, time
def burn(seconds):
    while time.process_time() < seconds: pass
"""


def _fork_and_burn(sandbox: Sandbox, code: str, **options: Any) -> Any:
    return sandbox.run("python3", "-I", "-c", BURN + code, **options)


# In a sandbox


def test_all_that_was_waited_for_is_in_it(sandbox: Sandbox) -> None:
    program = "for _ in range(2):\n  os.fork() or (burn({}), os._exit(0))\n  os.wait()"
    idle = _fork_and_burn(sandbox, program.format(0.0)).usage  # what the interpreter takes for itself
    result = _fork_and_burn(sandbox, program.format(0.15))

    assert result.usage is not None
    assert idle is not None
    assert 0.3 <= result.usage.cpu_time < 0.4 + 2 * idle.cpu_time
    assert (result.usage.processes, result.usage.oom_kills) == (3, None)


def test_a_step_whose_supervisor_is_killed_has_used_what_its_orphans_did(sandbox: Sandbox) -> None:
    # Beside a background program a supervisor collects. Without it PID 1 does, and ends all there is.
    sandbox.start("sleep", "1000")
    idle = _fork_and_burn(sandbox, "").usage
    result = _fork_and_burn(sandbox, "burn(0.3); os.kill(os.getppid(), 9); time.sleep(1000)")

    assert result.usage is not None
    assert idle is not None
    assert 0.3 <= result.usage.cpu_time < 0.4 + 2 * idle.cpu_time


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a background program"])
def test_a_limit_of_a_few_milliseconds_is_kept(sandbox: Sandbox, beside: bool) -> None:
    if beside:
        sandbox.start("sleep", "1000")
    result = _fork_and_burn(sandbox, "burn(0.1)", cpu_time=0.05)

    assert (result.outcome, result.exit_code, result.limit) == ("TimedOut", 124, "cpu time 0.05s")


def test_the_timeout_that_comes_first_is_named(sandbox: Sandbox) -> None:
    slow = sandbox.run("sleep", "1000", timeout=0.3, cpu_time=100)

    assert (slow.outcome, slow.limit) == ("TimedOut", "timeout")


def test_a_program_that_fails_in_time_has_failed_and_no_more(sandbox: Sandbox) -> None:
    result = sandbox.run("sh", "-c", "exit 3", cpu_time=5)

    assert (result.outcome, result.exit_code, result.limit) == ("Failed", 3, None)


def test_what_lives_and_the_children_that_it_has_waited_for_are_live_seconds() -> None:
    code = BURN + "os.fork() or (burn(0.15), os._exit(0))\nos.wait()\nburn(0.15)\nprint(flush=True)\ntime.sleep(1000)"
    before = usage_meter.live_seconds(os.getpid())  # other tests' processes may live
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            # A child's time is in two figures of hundredths of a second.
            assert 0.28 <= usage_meter.live_seconds(os.getpid()) - before < 0.6
        finally:
            process.kill()


# Parts


def _rusage(**more: int) -> Any:
    figures = {
        "ru_utime": 0.5,
        "ru_stime": 0.25,
        "ru_maxrss": 0,
        "ru_inblock": 2,
        "ru_oublock": 3,
        "ru_nvcsw": 4,
        "ru_nivcsw": 5,
    }
    return SimpleNamespace(**(figures | more))


def _figures(packed: bytes) -> tuple[Any, ...]:
    return usage_meter.WIRE.unpack(packed)


def test_sums_add_up_but_for_the_largest() -> None:
    sums = Sums()
    sums.add(_rusage(ru_maxrss=2**20))
    sums.add(_rusage(ru_maxrss=2**21))
    user, system, rss, peak, read, written, processes, kills, voluntary, involuntary = _figures(sums.used(7, 8, 9))

    assert (user, system, rss) == (1.0, 0.5, 2**31)
    assert (peak, processes, kills) == (7, 8, 9)
    assert (read, written, voluntary, involuntary) == (2048, 3072, 8, 10)


def test_what_a_cgroup_counted_beside_them_is_shared_as_they_are() -> None:
    sums = Sums()
    sums.add(_rusage())

    assert _figures(sums.used(missing=3.0))[:2] == (2.5, 1.25)
    assert _figures(Sums().used(missing=3.0))[:2] == (3.0, 0.0)


def test_what_is_merged_comes_on_top() -> None:
    sums, other, both = Sums(), Sums(), Sums()
    for each in (sums, both):
        each.add(_rusage(ru_maxrss=2**20))
    for each in (other, both):
        each.add(_rusage(ru_maxrss=2**21))
    sums.merge(other)

    assert sums.figures() == both.figures()


def test_a_copy_is_as_good() -> None:
    sums, copy = Sums(), Sums()
    sums.add(_rusage(ru_maxrss=2**21))
    copy.take(sums.figures())

    assert copy.used() == sums.used()


def test_pids_that_begin_anew_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = iter([1, 32_760, 32_766, 302, 310])
    monkeypatch.setattr(Meter, "_newest_pid", lambda _self: next(pids))
    monkeypatch.setattr(usage_meter, "_pid_max", lambda: 32_768)
    meter = Meter(None)
    meter.begin(alone=True)
    for _ in range(2):
        meter.count()
    limits: Any = SimpleNamespace(memory_peak=lambda: None, oom_kills=lambda: None)

    # 6 up to 32,766, one more and 300 to 302 at most, and 8.
    assert _figures(meter.end(limits)[0])[6] in range(17, 20)


@pytest.mark.parametrize("alone", [True, False])
def test_what_passed_a_limit_has_used_no_less(monkeypatch: pytest.MonkeyPatch, *, alone: bool) -> None:
    """The sums of what was waited for lag behind the counter that showed it, by less than counts as missing."""
    monkeypatch.setattr(Meter, "_newest_pid", lambda _self: 1)
    meter = Meter(None)
    limits: Any = SimpleNamespace(memory_peak=lambda: None, oom_kills=lambda: None)
    for least in (2.0, 0.0):
        meter.begin(alone=alone)
        meter.sums.user, meter.sums.system = 1.5, 0.495
        meter.least = least
        used, seconds = meter.end(limits)

        assert seconds == pytest.approx(max(least, 1.995))
        assert sum(_figures(used)[:2]) == pytest.approx(max(least, 1.995))
        meter.least = 5.0  # is gone with the next step


def _looks(monkeypatch: pytest.MonkeyPatch, used: list[float], limit: float = 1.0) -> tuple[list[float], bool]:
    """When a watch looks (seconds since its beginning) at a program that has used that by each look; whether it ended
    it.
    """
    clock = [100.0]
    due: list[tuple[float, Callable[[], None]]] = []
    ended: list[bool] = []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    loop: Any = SimpleNamespace(call_at=lambda when, call: due.append((when, call)))
    figures = iter(used)
    CpuWatch(loop, limit, lambda: next(figures), lambda: ended.append(True))
    looks = []
    for _ in used:
        clock[0], call = due.pop()
        looks.append(round(clock[0] - 100.0, 6))
        call()
    return looks, bool(ended)


def test_the_next_look_is_when_all_processors_could_have_used_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, ended = _looks(monkeypatch, [0.5, 0.9, 0.999, 1.0001])

    assert looks == [0.5, 0.75, 0.8, 0.805]
    assert ended


@pytest.mark.parametrize(
    ("seconds", "killed", "reason"), [(1.0, False, None), (1.01, False, "TimedOut"), (1.01, True, None)]
)
def test_a_program_that_ended_since_the_last_look_is_judged_by_what_it_used(
    seconds: float, killed: bool, reason: str | None
) -> None:
    ended: Any = Foreground.__new__(Foreground)  # as far as it is looked at here
    ended.reason = ended.limit = None
    ended._cpu_time = 1.0
    ended._parts = SimpleNamespace(limits=SimpleNamespace(memory_killed=lambda: killed))
    ended.judge(seconds)

    assert (ended.reason, ended.limit) == (reason, reason and "cpu time 1s")


def test_a_program_at_its_limit_is_not_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _looks(monkeypatch, [1.0])[1]
    assert _looks(monkeypatch, [1.000001])[1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2s"), (0.25, "0.25s"), (90.0, "90s"), (100.0, "100s"), (1e-6, "0.000001s")]
)
def test_a_limit_is_named_with_its_value(seconds: float, text: str) -> None:
    assert usage_meter.shown_limit(seconds) == f"cpu time {text}"


@pytest.mark.parametrize("version", [1, 2])
def test_the_machines_own_cgroup_is_known_from_others(tmp_path: Path, version: int) -> None:
    marks = {1: "release_agent", 2: "cgroup.type"}
    (tmp_path / "plain").mkdir()
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / marks[version]).touch()
    top, other = ("marked", "plain") if version == 1 else ("plain", "marked")

    assert container._is_top(os.fsencode(tmp_path / top), version=version)
    assert not container._is_top(os.fsencode(tmp_path / other), version=version)
