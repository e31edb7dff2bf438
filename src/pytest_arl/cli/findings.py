"""Findings of a doctor: a line each, with its level and its cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_arl.text.untrusted import neutralise, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Finding", "bad", "good", "note", "show", "warn"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``; ``note``, where it could not be looked at; ``warning``, where tests run but not as they should;
            ``MISSING``, where they do not run.
        what: what was found, in a line.
        cure: what to do; empty where nothing is to be done.
    """

    level: Literal["ok", "note", "warning", "MISSING"]
    what: str
    cure: str = ""


def good(what: str) -> Finding:
    """A check that passed."""
    return Finding("ok", what)


def note(what: str, cure: str = "") -> Finding:
    """Not known."""
    return Finding("note", what, cure)


def warn(what: str, cure: str) -> Finding:
    """Tests run, but not as they should."""
    return Finding("warning", what, cure)


def bad(what: str, cure: str) -> Finding:
    """Tests do not run."""
    return Finding("MISSING", what, cure)


def show(findings: Iterable[Finding]) -> str:
    """Findings as they are printed, each cure under its own."""
    lines = []
    for finding in findings:
        lines.append(f"  {finding.level:<8} {one_line(finding.what, None)}")
        lines += [f"           {line}" for line in neutralise(finding.cure).splitlines()]
    return "".join(f"{line}\n" for line in lines)
