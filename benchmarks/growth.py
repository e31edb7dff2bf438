"""How cost grows: with sandboxes that live, with output, with steps in a task. A line that bends up is a defect."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.statistics import median
from pytest_arl import SandboxSession

if TYPE_CHECKING:
    from collections.abc import Callable

    Points = list[tuple[float, float]]

__all__ = ["measure"]

_ECHO = {"type": "Command", "command": ["echo", "hi"]}
_LIVING = 500
_MEMORY = 8 * 10**6  # bytes that a living sandbox takes at most: its processes, and the kernel for them
_LARGEST = 10**9
_MOST_STEPS = 10_000


def measure(*, quick: bool, say: Callable[[str], None]) -> dict[str, Points]:
    """Lines by name: points of (how many, milliseconds)."""
    begin = time.perf_counter()
    lines: dict[str, Points] = {}
    lines |= _living(20 if quick else _LIVING)
    lines |= _output(10**6 if quick else _LARGEST)
    lines |= _steps(100 if quick else _MOST_STEPS)
    say(f"growth: {time.perf_counter() - begin:.0f} s")
    return lines


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def _living(most: int) -> dict[str, Points]:
    """Beside n sandboxes that live: making one more, a step in the newest and in the oldest, closing the last."""
    create: Points = []
    step: Points = []
    close: Points = []
    _have_memory(most * _MEMORY)
    with SandboxSession() as oldest:
        oldest.run("echo", "hi")
    alive: list[SandboxSession] = []
    for number in range(most):
        session = SandboxSession()
        create.append((number + 1, _timed(session.create_sandbox)))
        alive.append(session)
        session.run("echo", "hi")
        times = [_timed(lambda: box.run("echo", "hi")) for box in (session, alive[0]) for _ in range(3)]  # noqa: B023
        step.append((number + 1, median(times)))
    while alive:
        session = alive.pop()
        close.append((len(alive) + 1, _timed(session.delete_sandbox)))
    return {"create": create, "step": step, "close": close[::-1]}


def _have_memory(size: int) -> None:
    """Touch so much memory and give it back: a virtual machine is given pages by its host as it touches them.

    Living sandboxes take memory that was not used lately, closed ones that of the one before. Without this it is the
    host that is measured: from where fresh memory began, at some 400 sandboxes, making one took 30 ms instead of 17,
    with the time spent in clearing pages; 5 GB of bytearray took 8.5 s the first time, and 2.4 s once more.
    """
    subprocess.run([sys.executable, "-c", f"bytearray({size})"], check=True)


def _sizes(largest: int) -> list[int]:
    sizes, size = [], 1000
    while size <= largest:
        sizes += [size, size * 3] if size * 3 <= largest else [size]
        size *= 10
    return sizes


def _output(largest: int) -> dict[str, Points]:
    """One step that prints so many bytes, beside subprocess.run, which keeps all of them."""
    ours: Points = []
    theirs: Points = []
    with SandboxSession() as session:
        for size in _sizes(largest):
            argv = ["head", "-c", str(size), "/dev/zero"]
            count = 15 if size <= 10**7 else 3
            times: list[tuple[float, float]] = []
            for _ in range(count + 1):
                one = _timed(lambda: session.run(*argv).check())  # noqa: B023
                other = _timed(lambda: subprocess.run(argv, capture_output=True, check=True))  # noqa: B023
                times.append((one, other))
            ours.append((size, median([one for one, _ in times[1:]])))
            theirs.append((size, median([other for _, other in times[1:]])))
    return {"output": ours, "output-subprocess": theirs}


def _steps(most: int) -> dict[str, Points]:
    """A task of so many steps: milliseconds for each of them."""
    points: Points = []
    with SandboxSession() as session:
        session.run("echo", "hi")
        size = 1
        while size <= most:
            for count in (size, size * 3):
                if count <= most:
                    tasks = max(1, min(20, 300 // count))
                    times = [_timed(lambda: session.execute([_ECHO] * count).check()) for _ in range(tasks)]  # noqa: B023
                    points.append((count, median(times) / count))
            size *= 10
    return {"steps": points}
