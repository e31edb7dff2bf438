"""Descriptors that are very many, where the kernel does not say how many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pytest_arl.agent import descriptors
from pytest_arl.agent.descriptors import Descriptors

_MANY = 900
_PROGRAM = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({_MANY}, {_MANY}))
try:
    while True: os.dup(0)
except OSError: pass
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def crowded() -> Iterator[int]:
    """A process with all the descriptors that it may have."""
    command = [sys.executable, "-I", "-c", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


@pytest.mark.parametrize(("limit", "reached"), [(_MANY - 1, True), (_MANY, True), (_MANY + 1, False)])
def test_they_are_counted_a_few_at_a_look(
    crowded: int, monkeypatch: pytest.MonkeyPatch, limit: int, reached: bool
) -> None:
    looks = Descriptors(limit)
    monkeypatch.setattr(looks, "_started", lambda: [crowded])
    monkeypatch.setattr(descriptors, "_LOOK_SECONDS", -1.0)  # each look is late when it begins
    monkeypatch.setattr(descriptors, "_BUDGET", 1e9)
    real = os.stat
    empty = os.stat_result([0] * 10)
    monkeypatch.setattr(
        os, "stat", lambda path, **more: empty if str(path).startswith("/proc/") else real(path, **more)
    )
    count = 0
    while not looks.reached and count < 100:
        count += 1
        looks.look()
    looks.begin(0)
    assert count == 100 if not reached else _MANY // 64 <= count < 100


def test_a_look_takes_no_more_than_its_time(crowded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many processes, the rest is for the next look; which comes later, the longer this one took."""
    looks = Descriptors(_MANY)
    monkeypatch.setattr(looks, "_started", lambda: [os.getpid()] * 50 + [crowded])
    ticks = iter(range(10_000))
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    clock.thread_time = lambda: next(ticks) * descriptors._LOOK_SECONDS / 10
    monkeypatch.setattr(descriptors, "time", clock)
    asked: list[int] = []
    real = looks._has_all

    def ask(pid: int) -> bool:
        asked.append(pid)
        return real(pid)

    monkeypatch.setattr(looks, "_has_all", ask)
    looks.look()
    assert not looks.reached
    assert 5 < len(asked) < 15
    first = len(asked)
    clock.now += descriptors._LOOK_SECONDS / descriptors._BUDGET
    looks.look()
    assert len(asked) == first, "not due before the look's time is so small a part of all"
    clock.now += 5 * descriptors._LOOK_SECONDS / descriptors._BUDGET
    looks.look()
    assert len(asked) > first
    looks.begin(0)
    monkeypatch.setattr(descriptors, "_LOOK_SECONDS", 1e9)
    clock.thread_time = lambda: 0.0
    looks.look()
    assert looks.reached, "the control: a look that has the time comes to the last of them"
