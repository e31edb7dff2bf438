"""Make harmless the text that pytest itself prints: a test, a fixture or a plugin may quote what a sandbox printed.

A test's failure, its captured output and its reason to be skipped, a warning, a line of a live log, the reason of an
exit: each goes to the terminal as it is. It is only looked at in runs that had a sandbox.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any

from pytest_arl.text.untrusted import neutralise, one_line

if TYPE_CHECKING:
    import warnings
    from collections.abc import Callable

    import pytest

__all__ = ["LiveLog", "clean_exit", "clean_report", "clean_representation", "clean_subtest", "clean_warning"]

_LONGEST_REASON = 4000
_AT_MARGIN = re.compile(r"\n(?=\S)")


def clean_report(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make the texts of a report harmless."""
    report.sections[:] = [(one_line(title), _block(text)) for title, text in report.sections]
    longrepr: Any = report.longrepr
    if isinstance(longrepr, str):
        report.longrepr = _block(longrepr)
    elif isinstance(longrepr, tuple):  # where a test was skipped, and why
        report.longrepr = (longrepr[0], longrepr[1], _reason(longrepr[2]))
    elif longrepr is not None:
        clean_representation(longrepr)
    reason = getattr(report, "wasxfail", None)
    if reason is not None:
        setattr(report, "wasxfail", _reason(reason))  # noqa: B010 - pytest puts it on some reports only


def clean_representation(longrepr: Any) -> None:
    """The same for the representation of an exception."""
    parts = [(part[0], part[1]) for part in getattr(longrepr, "chain", None) or ()]
    if not parts and hasattr(longrepr, "reprtraceback"):
        parts = [(longrepr.reprtraceback, getattr(longrepr, "reprcrash", None))]
    crashes = [*(crash for _, crash in parts), getattr(longrepr, "reprcrash", None)]
    for crash in {id(crash): crash for crash in crashes if crash is not None}.values():  # the last of a chain is both
        # On a CI, and with -vv, pytest's summary has all of the message: its first line alone stands at the margin.
        crash.message = _AT_MARGIN.sub("\n  ", neutralise(crash.message))
    for traceback, _ in parts:
        for entry in getattr(traceback, "reprentries", ()):
            _clean_entry(entry)
    for _, lines in getattr(longrepr, "reprlocation_lines", ()):  # a doctest's
        lines[:] = [_block(line) for line in lines]
    if hasattr(longrepr, "sections"):
        longrepr.sections[:] = [(one_line(name), _block(text), mark) for name, text, mark in longrepr.sections]
    if isinstance(getattr(longrepr, "longrepr", None), str):  # of a collection
        longrepr.longrepr = _block(longrepr.longrepr)


def clean_subtest(report: Any) -> None:
    """The name of a subtest, and its parameters."""
    context = getattr(report, "context", None)
    message, parameters = getattr(context, "msg", None), getattr(context, "kwargs", None)
    if context is None or (message is None and not parameters):
        return
    context = copy.copy(context)
    # Of pytest, a frozen class; of pytest-subtests, another one.
    object.__setattr__(context, "msg", message if message is None else _reason(str(message)))
    object.__setattr__(context, "kwargs", {name: _parameter(value) for name, value in dict(parameters or {}).items()})
    report.context = context


def clean_warning(warning: warnings.WarningMessage) -> None:
    """A warning's text. It keeps its category."""
    text = str(warning.message)
    clean = neutralise(text)
    if clean != text:
        warning.message = Warning(clean)


def clean_exit(error: BaseException) -> None:
    """The reason of ``pytest.exit``, which is shown on a line of its own."""
    error.args = tuple(_reason(each) if isinstance(each, str) else each for each in error.args)
    if isinstance(getattr(error, "msg", None), str):
        error.msg = _reason(error.msg)  # type: ignore[attr-defined] # of pytest's Exit


class LiveLog(logging.Formatter):
    """The formatter of ``log_cli``, with harmless lines: only a record's first one stands at the margin."""

    def __init__(self, formatter: logging.Formatter, needed: Callable[[], bool]) -> None:
        super().__init__()
        self._formatter = formatter
        self._needed = needed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._formatter, name)  # `add_color_level`, as pytest's manual has it

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        text = self._formatter.format(record)
        return neutralise(text, keep_colours=True).replace("\n", "\n    ") if self._needed() else text


def _block(text: str) -> str:
    """Lines below a title. Colours are harmless and may be the test's own."""
    return neutralise(text, keep_colours=True)


def _reason(text: str) -> str:
    return one_line(text, _LONGEST_REASON)


def _parameter(value: object) -> object:
    return _reason(value) if isinstance(value, str) else value


def _clean_entry(entry: Any) -> None:
    for owner in (entry, getattr(entry, "reprlocals", None)):
        if owner is not None and hasattr(owner, "lines"):
            owner.lines[:] = [neutralise(line) for line in owner.lines]
    arguments = getattr(entry, "reprfuncargs", None)
    if arguments is not None:
        arguments.args[:] = [(name, neutralise(text)) for name, text in arguments.args]
