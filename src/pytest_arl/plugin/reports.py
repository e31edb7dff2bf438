"""Our part of pytest's report of a phase, and what is taken from it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_arl.plugin.recorder import RECORD
from pytest_arl.plugin.report_sinks import reads_passing, sinks_of

if TYPE_CHECKING:
    import pytest

    from pytest_arl.plugin.record import StepRecord, TestRecord

__all__ = ["ATTRIBUTE", "attach", "prepare", "shorten_class"]

_OUR_MODULE = re.compile(r"\Apytest_arl(?:\.\w+)*\.(?=[A-Z])")

ATTRIBUTE = "arl"
"""Attribute of a report: ``{"schema": 1, "attempt": 1, "sandboxes": {}, "steps": [], "omitted": 0, "errors": []}``.

Steps are those of the report's phase; ``omitted`` counts the oldest ones, left out of a record that grew too large;
``errors`` are the infrastructure's.
"""


def prepare(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Set an item's properties before pytest makes the report of a phase, which copies them."""
    for sink in sinks_of(item.config):
        sink.before_report(item, item.stash[RECORD], failed=call.excinfo is not None)


def attach(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, *, subtest: bool) -> None:
    """Give the report its part of the record, and a failing one the steps to look at."""
    record = item.stash[RECORD]
    if report.outcome == "failed":
        _on_failure(item, record, call, report, subtest=subtest)
    if subtest:
        return
    part = _part(record, everything=report.outcome == "failed" or reads_passing(item.config))
    setattr(report, ATTRIBUTE, part)
    if part["steps"]:
        for sink in sinks_of(item.config):
            sink.on_steps(report, part)
    if call.when == "teardown":
        # An item lives as long as the run, and may be run again.
        del item.stash[RECORD]


def shorten_class(report: pytest.TestReport) -> None:
    """«SandboxLost: ...» instead of the module's name first, which takes a third of a line of the short summary."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = _OUR_MODULE.sub("", crash.message)


def _part(record: TestRecord, *, everything: bool) -> dict[str, Any]:
    """The part of the record that no report of this attempt carries yet."""
    from pytest_arl.plugin.record import SCHEMA, without_output

    steps = record.since(record.reported)
    record.reported = record.count
    return {
        "schema": SCHEMA,
        "attempt": record.attempt,
        "sandboxes": dict(record.sandboxes),
        "steps": steps if everything else [without_output(step) for step in steps],
        "omitted": record.omitted,
        "errors": list(record.errors),
    }


def _on_failure(
    item: pytest.Item, record: TestRecord, call: pytest.CallInfo[None], report: pytest.TestReport, *, subtest: bool
) -> None:
    steps = _of_subtest(record, call) if subtest else record.since(record.shown)
    if not subtest:
        record.shown = record.count
    blamed = getattr(getattr(call.excinfo.value if call.excinfo else None, "step", None), "name", None)
    for sink in sinks_of(item.config):
        sink.on_failure(report, record, steps, blamed=blamed, verbose=item.config.getoption("verbose", 0))


def _of_subtest(record: TestRecord, call: pytest.CallInfo[None]) -> list[StepRecord]:
    # unittest's subtests come without a time; then all steps so far are shown.
    return [step for step in record.steps if step["endedAt"] >= call.start]
