"""Taking turns: one sample of everybody, then the next of everybody, beginning with another one each time."""

from __future__ import annotations

import secrets
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.client import NoAnswer, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contenders import Contender
    from benchmarks.rows import Row

__all__ = ["Measured", "compare"]

_ENOUGH = 3


@dataclass(slots=True)
class Measured:
    """One contender's samples of one figure, or why there are none."""

    figure: str
    contender: str
    samples: list[float] = field(default_factory=list)
    missing: str = ""


class _Turns:
    """The workers, replaced where one had to be given up."""

    def __init__(self, contenders: Sequence[Contender], *, quick: bool) -> None:
        self._quick = quick
        self._contenders = {contender.key: contender for contender in contenders}
        self._workers: dict[str, Worker] = {}
        self.keys = list(self._contenders)

    def worker(self, key: str) -> Worker:
        if key not in self._workers:
            self._workers[key] = Worker(self._contenders[key], quick=self._quick)
        return self._workers[key]

    def fresh(self, key: str) -> Worker:
        return Worker(self._contenders[key], quick=self._quick)

    def sample(self, key: str, row: Row) -> list[float] | str:
        try:
            answer = self.worker(key).ask(row.patience, do="sample", row=row.key)
        except NoAnswer as error:
            self._workers.pop(key).close()
            return str(error)
        figures: list[float] | str = answer["missing"] if "missing" in answer else answer["figures"]
        return figures

    def pids(self) -> set[int]:
        return {worker.process.pid for worker in self._workers.values()}

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


def compare(
    contenders: Sequence[Contender],
    rows: Sequence[Row],
    *,
    quick: bool,
    seconds: float | None,
    introduce: Callable[[dict[str, str]], None],
    show: Callable[[Row, list[Measured]], None],
) -> None:
    """What each contender says it is, then every row as soon as everybody's samples are there.

    ``seconds`` takes the place of each row's budget.
    """
    processes.adopt_orphans()
    turns = _Turns(contenders, quick=quick)
    versions: dict[str, str] = {}
    try:
        for key in turns.keys:
            try:
                versions[key] = turns.worker(key).ask(60, do="version").get("version", "?")
            except NoAnswer as error:
                versions[key] = f"cannot be run here: {error}"
        running = [key for key in turns.keys if not versions[key].startswith("cannot")]
        introduce(versions)
        for row in rows:
            budget = row.budget if seconds is None else seconds
            cells = _left(turns, running, row) if row.key == "left" else _row(turns, running, row, budget, quick=quick)
            show(row, cells)
    finally:
        turns.close()


def _row(turns: _Turns, keys: list[str], row: Row, budget: float, *, quick: bool) -> list[Measured]:
    cells = {key: [Measured(figure.key, key) for figure in row.figures] for key in keys}
    spent = dict.fromkeys(keys, 0.0)
    count = row.quick if quick else row.samples
    for number in range(-row.warm_up, count):
        shift = number % len(keys)
        for key in keys[shift:] + keys[:shift]:
            first = cells[key][0]
            if first.missing or (spent[key] > budget and len(first.samples) >= _ENOUGH):
                continue
            begin = time.perf_counter()
            figures = turns.sample(key, row)
            spent[key] += time.perf_counter() - begin
            if isinstance(figures, str):
                for cell in cells[key]:
                    cell.missing = figures
            elif number >= 0:
                for cell, value in zip(cells[key], figures, strict=True):
                    cell.samples.append(value)
    return [cell for key in keys for cell in cells[key]]


def _left(turns: _Turns, keys: list[str], row: Row) -> list[Measured]:
    """What is alive after a normal end, and after a killed caller, of what a sandbox was told to leave."""
    found = []
    for key in keys:
        cells = [Measured(figure.key, key) for figure in row.figures]
        found += cells
        try:
            figures = [_alive_after_close(turns, key, row), *_left_by_a_kill(turns, key, row)]
        except NoAnswer as error:
            for cell in cells:
                cell.missing = str(error)
            continue
        for cell, value in zip(cells, figures, strict=True):
            cell.samples.append(float(value))
    processes.reap_orphans(turns.pids())
    return found


def _alive_after_close(turns: _Turns, key: str, row: Row) -> int:
    marker = _marker()
    with turns.fresh(key) as worker:
        _litter(worker, row, marker, close=True)
        worker.ask(row.patience, do="stop")
        worker.process.wait(row.patience)
        time.sleep(0.5)
        return _kill_marked(marker)


def _left_by_a_kill(turns: _Turns, key: str, row: Row) -> tuple[int, int]:
    marker = _marker()
    with turns.fresh(key) as worker:
        _litter(worker, row, marker, close=False)
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        time.sleep(1)
        return _kill_marked(marker), _folders(worker)


def _litter(worker: Worker, row: Row, marker: str, *, close: bool) -> None:
    answer = worker.ask(row.patience, do="litter", marker=marker, close=close)
    if "missing" in answer:
        raise NoAnswer(answer["missing"])


def _marker() -> str:
    """Seconds for ``sleep`` that no other process on this machine sleeps."""
    return f"31.{secrets.randbelow(10**9):09}"


def _kill_marked(marker: str) -> int:
    alive = processes.marked(marker)
    processes.kill(alive)
    return len(alive)


def _folders(worker: Worker) -> int:
    own = sum(1 for entry in worker.folder.iterdir() if entry.is_dir())
    return own + len(processes.folders_below("/sys/fs/cgroup", f"pytest-arl-{worker.process.pid}-"))
