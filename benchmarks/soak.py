"""10,000 sandboxes and 100,000 steps in one process: whatever piles up shows."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes
from pytest_arl import SandboxSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["KINDS", "as_text", "measure"]

_SANDBOXES = 10_000
_STEPS = 10
_WORKERS = 2
_BETWEEN = 100

KINDS = {
    "memory": "resident memory, MB",
    "descriptors": "open descriptors",
    "threads": "threads",
    "children": "child processes",
    "zombies": "of them zombies",
    "mounts": "mounts of the machine",
    "cgroups": "cgroups of this run",
    "milliseconds": "a sandbox with 10 steps, ms",
    "processor": "processor time of it, ms",
}


def measure(*, quick: bool, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Samples by kind, one every 100 sandboxes, taken while none lives; ``sandboxes`` has how many there were."""
    begin = time.perf_counter()
    total, between = (40, 10) if quick else (_SANDBOXES, _BETWEEN)
    found: dict[str, list[float]] = {kind: [] for kind in ("sandboxes", *KINDS)}
    with ThreadPoolExecutor(_WORKERS) as pool:
        for done in range(0, total + 1, between):
            started, worked = time.perf_counter(), processes.cpu_seconds()
            if done:
                list(pool.map(_life, range(between)))
            seconds = {"milliseconds": time.perf_counter() - started, "processor": processes.cpu_seconds() - worked}
            each = {kind: value / between * 1e3 if done else float("nan") for kind, value in seconds.items()}
            for kind, value in {"sandboxes": float(done), **each, **_now()}.items():
                found[kind].append(value)
    say(f"soak: {total} sandboxes, {total * _STEPS} steps, {time.perf_counter() - begin:.0f} s")
    return found


def _life(_number: int) -> None:
    with SandboxSession() as session:
        for _ in range(_STEPS):
            if session.run("echo", "hi").stdout != "hi\n":
                raise AssertionError("echo did not say hi")


def _now() -> dict[str, float]:
    mine = [process for process in processes.processes().values() if process.parent == os.getpid()]
    status = Path("/proc/self/statm").read_text().split()
    runs = processes.folders_below("/sys/fs/cgroup", f"pytest-arl-{os.getpid()}-")
    return {
        "memory": int(status[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "descriptors": float(sum(1 for _ in Path("/proc/self/fd").iterdir())),
        "threads": float(threading.active_count()),
        "children": float(len(mine)),
        "zombies": float(sum(process.state == "Z" for process in mine)),
        "mounts": float(len(Path("/proc/self/mountinfo").read_text().splitlines())),
        "cgroups": float(sum(len(processes.folders_below(run, "")) for run in runs)),
    }


def as_text(samples: Mapping[str, Sequence[float]]) -> str:
    """A line for each kind. The very first sample is before the first sandbox, so it is left out."""
    lines = []
    for kind, text in KINDS.items():
        values = samples[kind]
        first, middle, last = values[1], values[len(values) // 2], values[-1]
        lines.append(f"soak: {text}: {first:.1f} at first, {middle:.1f} halfway, {last:.1f} at last")
    return "\n".join(lines)
