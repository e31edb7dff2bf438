"""Reports that have what sandboxes ran.

pytest's own reports carry the record of a test (see ``reports``). A sink puts it in the words of one more: a module of
``sinks`` with a subclass of :class:`ReportSink` named ``Sink``, and a row in ``own_files.REPORTS``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_arl.plugin.own_files import REPORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_arl.plugin.record import StepRecord, TestRecord

__all__ = ["ReportSink", "reads_passing", "sinks_of"]

_ALWAYS = ("failure_sections",)
"""Sinks that no option asks for."""


class ReportSink:
    """One kind of report, where it is asked for. All methods are optional."""

    def before_report(self, item: pytest.Item, record: TestRecord, *, failed: bool) -> None:
        """Set an item's properties before pytest makes the report of a phase, which copies them."""

    def on_failure(
        self,
        report: pytest.TestReport,
        record: TestRecord,
        steps: list[StepRecord],
        *,
        blamed: str | None,
        verbose: int,
    ) -> None:
        """The report of a phase, or of a subtest, that failed; ``steps`` are those to show, ``blamed`` is the name of
        the one that the error names.
        """

    def on_steps(self, report: pytest.TestReport, part: dict[str, Any]) -> None:
        """The report of a phase in which there were steps, with its part of the record: see ``reports.ATTRIBUTE``."""


def sinks_of(config: pytest.Config) -> Iterator[ReportSink]:
    """The sinks that this run asks for."""
    asked = [module for module, _, option, _ in REPORTS if module is not None and config.getoption(option, None)]
    for module in (*_ALWAYS, *asked):
        sink: ReportSink = import_module(f"pytest_arl.plugin.sinks.{module}").Sink()
        yield sink


def reads_passing(config: pytest.Config) -> bool:
    """True if a report of this run shows outputs of passing tests."""
    return any(passing and config.getoption(option, None) for _, _, option, passing in REPORTS)
