"""One sample of each row, taken in the contender's own process. Seconds are measured around its API alone."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks import processes
from benchmarks.adapters.base import ECHO, Tickets

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.adapters.base import Adapter

    Sample = Callable[["Sampler"], list[float]]

__all__ = ["Sampler"]

_MEGABYTE = 10**6
_CROWD = 50
_IDLE = 20
_TERM_PROOF = """\
trap '' TERM INT HUP
for i in 1 2 3 4 5; do setsid sh -c "trap '' TERM INT HUP; sleep $1; :" & done
wait; sleep $1; :
"""
"""A shell, five shells in sessions of their own, and a ``sleep`` of each of the five: 11 processes."""
_DAEMON = 'setsid sleep "$1" </dev/null >/dev/null 2>&1 & :'


class Sampler:
    """Takes samples of one contender; steps share a sandbox, which is made at the first and kept."""

    def __init__(self, adapter: Adapter, *, quick: bool) -> None:
        self._adapter = adapter
        self._quick = quick
        self._box: Any = None
        self._littered: list[Any] = []

    def take(self, row: str) -> list[float]:
        """The figures of one sample of a row, in the row's units. NotImplementedError where the contender cannot."""
        figures: list[float] = getattr(self, f"_{row}")()
        return figures

    def version(self) -> str:
        """What the contender is."""
        return self._adapter.version()

    @property
    def box(self) -> Any:
        """The sandbox that steps share."""
        if self._box is None:
            self._box = self._adapter.create()
        return self._box

    def stop(self) -> None:
        """Give everything back, as a program does at its end."""
        if self._box is not None:
            self._adapter.close(self._box)
            self._box = None
        self._adapter.stop()

    def _steps(self, *argv: str, printed: int | None = None) -> float:
        box = self.box
        begin = time.perf_counter()
        size = self._adapter.run(box, argv)
        seconds = time.perf_counter() - begin
        # One that caps what it keeps may print less, never more than a terminal's few bytes beside it.
        if printed is not None and size > printed + 100:
            raise AssertionError(f"{size} bytes instead of {printed}")
        return seconds

    def _life(self) -> list[float]:
        time.sleep(self._adapter.steady)
        begin = time.perf_counter()
        box = self._adapter.create()
        ready = time.perf_counter()
        self._adapter.run(box, ECHO)
        used = time.perf_counter()
        self._adapter.close(box)
        return [(ready - begin) * 1e3, (time.perf_counter() - used) * 1e3]

    def _echo(self) -> list[float]:
        return [self._steps(*ECHO) * 1e3]

    def _python(self) -> list[float]:
        return [self._steps("/usr/bin/python3", "-c", "pass") * 1e3]

    def _write(self) -> list[float]:
        box, content = self.box, "x" * _MEGABYTE
        begin = time.perf_counter()
        self._adapter.write(box, "file", content)
        return [(time.perf_counter() - begin) * 1e3]

    def _output(self) -> list[float]:
        size = 10 * _MEGABYTE
        return [self._steps("head", "-c", str(size), "/dev/zero", printed=size) * 1e3]

    def _flood(self) -> list[float]:
        size = _MEGABYTE * (100 if self._quick else 1000)
        self._steps(*ECHO)
        before = processes.reset_peak_memory()
        seconds = self._steps("head", "-c", str(size), "/dev/zero", printed=size)
        return [seconds, (processes.peak_memory() - before) / _MEGABYTE]

    def _hundred(self) -> list[float]:
        return [sum(self._steps(*ECHO) for _ in range(100)) * 1e3]

    def _task(self) -> list[float]:
        box = self.box
        begin = time.perf_counter()
        self._adapter.run_as_one(box, ECHO, 100)
        return [(time.perf_counter() - begin) * 1e3]

    def _crowd(self) -> list[float]:
        begin = time.perf_counter()
        self._adapter.lives(_CROWD, 5, Tickets(_CROWD))
        return [(time.perf_counter() - begin) * 1e3]

    def _rate(self) -> list[float]:
        seconds = 1.0 if self._quick else 10.0
        begin = time.perf_counter()
        count = self._adapter.lives(2, 1, lambda: time.perf_counter() < begin + seconds)
        return [count / (time.perf_counter() - begin)]

    def _timeout(self) -> list[float]:
        marker = f"7.{secrets.randbelow(10**9):09}"
        timeout = max(0.1, self._adapter.timeout_unit)
        box = self._adapter.create()
        try:
            begin = time.perf_counter()
            noticed = self._adapter.run_too_long(box, ["sh", "-c", _TERM_PROOF, "sh", marker], timeout)
            late = time.perf_counter() - begin - timeout
            time.sleep(0.05)
            alive = processes.marked(marker)
            if not noticed:
                raise AssertionError("the program ended before its timeout")
            return [late * 1e3, float(len(alive))]
        finally:
            processes.kill(processes.marked(marker))
            with suppress(Exception):  # some cannot close what has timed out
                self._adapter.close(box)

    def _memory(self) -> list[float]:
        self._steps(*ECHO)
        before = _all_memory()
        boxes = [self._adapter.create() for _ in range(_IDLE)]
        time.sleep(0.2)
        after = _all_memory()
        for box in boxes:
            self._adapter.close(box)
        return [(after - before) / _IDLE / _MEGABYTE]

    def litter(self, marker: str, *, close: bool) -> None:
        """Start a daemon in a sandbox, and close the sandbox or leave it as it is."""
        box = self._adapter.create()
        self._littered.append(box)  # some clean up when they are garbage, which is not what is asked here
        self._adapter.run(box, ["sh", "-c", _DAEMON, "sh", marker])
        if close:
            self._adapter.close(box)


def _all_memory() -> int:
    pids = [os.getpid(), *(process.pid for process in processes.descendants(os.getpid()))]
    return sum(processes.pss(pid) for pid in pids)
