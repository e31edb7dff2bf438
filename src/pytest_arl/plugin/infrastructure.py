"""Errors of the infrastructure are errors (E): never failures (F), never an expected failure (x).

pytest decides between E and F by the phase. A sandbox that is lost in the middle of a test's body would
be counted as a failure of that test, and one marked ``xfail`` would even pass: a broken cluster would
turn a suite green.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_arl.errors import BackendUnavailable, InfrastructureError

__all__ = [
    "IN_BODY",
    "forget_subtests",
    "is_infrastructure",
    "mark_report",
    "raise_all",
    "say_once",
    "status",
    "unavailable",
]

__tracebackhide__ = True

IN_BODY: pytest.StashKey[bool] = pytest.StashKey()
"""Set on an item while its body runs: a report made meanwhile is a subtest's."""

_SUBTESTS: pytest.StashKey[list[int]] = pytest.StashKey()
"""The number of an item's subtests that failed, by the infrastructure and otherwise."""

_FLAG = "arl_infrastructure"
"""Attribute of a report that is an error whatever its phase."""


def is_infrastructure(error: BaseException) -> bool:
    """True if an exception, or every exception of a group, is the infrastructure's."""
    if "pytest_arl.errors" not in sys.modules:
        return False
    return _of_infrastructure(error, sys.modules["pytest_arl.errors"].InfrastructureError)


def _of_infrastructure(error: BaseException, kind: type[InfrastructureError]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_of_infrastructure(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)


def raise_all(what: str, errors: Sequence[Exception]) -> None:
    """Raise the errors of something that was done for each of several sandboxes; nothing where there are none."""
    if len(errors) > 1:
        raise ExceptionGroup(what, errors)
    if errors:
        raise errors[0]


def unavailable(call: pytest.CallInfo[None]) -> BackendUnavailable | None:
    """The error that keeps every test of this run from a sandbox, if a test broke on that."""
    error = None if call.excinfo is None else call.excinfo.value
    if error is None or "pytest_arl.errors" not in sys.modules:
        return None
    kind = sys.modules["pytest_arl.errors"].BackendUnavailable
    return error if isinstance(error, kind) and error.brief else None


def say_once(report: pytest.TestReport, error: BackendUnavailable) -> None:
    """Replace a traceback of ours, which is the same for each test, by a line. The run's end says the rest."""
    report.longrepr = f"{type(error).__name__}: {error.brief} (cause and cure: at the end of this run)"


def mark_report(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport, *, subtest: bool) -> None:
    """Note on the report what it must be counted as; undo what ``xfail`` made of it."""
    if call.excinfo is not None and is_infrastructure(call.excinfo.value):
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        report.outcome = "failed"
        setattr(report, _FLAG, "error")
    if subtest:
        _count_subtest(item, report)
    elif call.when == "call" and call.excinfo is None and _SUBTESTS in item.stash:
        broken, failed = item.stash[_SUBTESTS]
        if broken and not failed:
            setattr(report, _FLAG, "subtests")


def _count_subtest(item: pytest.Item, report: pytest.TestReport) -> None:
    if report.outcome == "failed":
        counts = item.stash.setdefault(_SUBTESTS, [0, 0])
        counts[0 if hasattr(report, _FLAG) else 1] += 1


def forget_subtests(item: pytest.Item) -> None:
    """A new attempt starts."""
    if _SUBTESTS in item.stash:
        del item.stash[_SUBTESTS]


_Status = tuple[str, str, "str | tuple[str, Mapping[str, bool]]"]


def status(report: pytest.CollectReport | pytest.TestReport, result: _Status) -> _Status:
    """The terminal's category for a report, given the one that it would have without us."""
    flag = getattr(report, _FLAG, None)
    if flag == "error" or (flag == "subtests" and report.outcome == "failed"):
        return "error", "E", "ERROR"
    return result
