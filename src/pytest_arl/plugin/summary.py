"""The end of a run's report: the slowest steps, and the sandboxes that were used.

Built from reports, in the process that the user started: under xdist the steps ran in others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.plugin.record import without_output
from pytest_arl.plugin.workers import Workers
from pytest_arl.text.endings import cpu_time, memory_used
from pytest_arl.text.units import format_duration
from pytest_arl.text.untrusted import one_line, printable

if TYPE_CHECKING:
    from pytest_arl.plugin.recorder import Recorder, Totals

__all__ = ["Summary", "last_line"]

_MOST_REASONS = 3
"""Reasons that a run shows: workers on several machines may each have their own."""


class Summary:
    """A plugin of pytest's own kind: it reads the reports that come in."""

    def __init__(self, recorder: Recorder, durations: int | None) -> None:
        self._recorder = recorder
        self._workers = Workers()
        self._durations = None if durations is None else _Slowest(durations)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a report up; once everyone has read it, its outputs need not stay in memory."""
        self._workers.report(report)
        part: dict[str, Any] | None = getattr(report, "arl", None)
        if part is None:
            return
        if self._durations is not None:
            self._durations.add(report.nodeid, part)
        part["steps"] = [without_output(step) for step in part["steps"]]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist ended, or crashed."""
        self._workers.down(node)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The section of ``--arl-durations``, and what went wrong with ours."""
        if self._durations is not None and (lines := self._durations.lines()):
            terminalreporter.write_sep("=", self._durations.title)
            for line in lines:
                terminalreporter.write_line(line)
        totals = self._workers.totals(self._recorder.totals())
        if totals["unavailable"]:
            terminalreporter.write_sep("=", "no sandbox", red=True)
        for reason in totals["unavailable"][:_MOST_REASONS]:
            for line in printable(reason).splitlines():
                terminalreporter.write_line(line)
        for problem in totals["problems"]:
            terminalreporter.write_line(f"arl: {one_line(problem, 1000)}", yellow=True)

    def write_last_line(self, config: pytest.Config) -> None:
        """Count the sandboxes and steps, after everything else; silent without any, in a worker, and with ``-qq``."""
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        totals = self._workers.totals(self._recorder.totals())
        line = last_line(totals, self._workers.crashed)
        verbosity: int = config.getoption("verbose", 0)  # the terminal's option, which `-p no:terminal` takes away
        if line and verbosity > 0:
            line += _bubblewrap(totals)
        if line and terminal is not None and self._recorder.worker is None and verbosity > -2:
            terminal.write_line(line)


def last_line(totals: Totals, crashed: list[str]) -> str | None:
    """``arl: 12 sandboxes, 41 steps, 0 left (bwrap+cgroup)``; None where no sandbox was used."""
    if not totals["sandboxes"]:
        return None
    tiers = f" ({', '.join(totals['isolation'])})" if totals["isolation"] else ""
    counts = f"{_count(totals['sandboxes'], 'sandbox', 'es')}, {_count(totals['steps'], 'step', 's')}"
    lost = f"; {', '.join(crashed)} crashed: its counts are those of its last report" if crashed else ""
    return f"arl: {counts}, {totals['open']} left{tiers}{lost}"


def _bubblewrap(totals: Totals) -> str:
    """The bubblewrap that made the sandboxes, where one did."""
    if not any(tier.startswith("bwrap") for tier in totals["isolation"]):
        return ""
    from pytest_arl.backends.local.bubblewraps import described
    from pytest_arl.backends.local.probe import probe
    from pytest_arl.errors import InfrastructureError

    try:
        return f", {described(probe().bwrap)}"
    except InfrastructureError:
        return ""


def _count(number: int, word: str, plural: str) -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


class _Slowest:
    """The slowest steps and acquisitions of a run (``most`` of them; 0 is all), and what those steps used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[tuple[float, str, str, str, str]] = []
        self._known: set[tuple[str, int, str]] = set()

    @property
    def title(self) -> str:
        return f"slowest {self._most} arl steps" if self._most else "slowest arl steps"

    def add(self, test: str, part: dict[str, Any]) -> None:
        for name, where in part["sandboxes"].items():
            if "seconds" in where and (key := (test, part["attempt"], name)) not in self._known:
                self._known.add(key)
                self._rows.append((where["seconds"], f"acquire {name}", "", "", test))
        for step in part["steps"]:
            if step["outcome"] not in {None, "Skipped"}:
                used = step.get("usage")
                cpu, memory = cpu_time(used), memory_used(used)
                self._rows.append((step["duration"] or 0.0, f"step {step['name']}", cpu, memory, test))
        if self._most:
            self._rows = sorted(self._rows, reverse=True)[: self._most]

    def lines(self) -> list[str]:
        rows = sorted(self._rows, reverse=True)
        return [
            f"{format_duration(seconds):>8}  {one_line(what, 40):<40}  {cpu:<11}  {memory:<14}  {test}"
            for seconds, what, cpu, memory, test in rows
        ]
