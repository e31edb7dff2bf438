"""The end of a step in words: how it ended, and what it used. Reports, messages and statuses all say it so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.text.units import format_duration, format_size
from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cpu_time", "ending", "memory_used"]

_WORD = 40
"""Characters of a signal's or a limit's name: an agent says them."""

_VERBS = {
    "Succeeded": "succeeded",
    "TimedOut": "timed out",
    "OutOfMemory": "ran out of memory",
    "Cancelled": "was cancelled",
    "Skipped": "was skipped",
}


def ending(
    outcome: str | None,
    exit_code: int | None,
    *,
    signal: str | None = None,
    limit: str | None = None,
    seconds: float | None = None,
) -> str:
    """``exited 2 after 4.1 s``, ``ran out of memory (limit 512Mi, exit code 137)``; ``seconds`` are left out if None.

    An outcome of None is that of a step whose sandbox was lost: «no result».
    """
    if outcome is None:
        return "no result"
    exited = False
    if outcome in _VERBS:
        verb = _VERBS[outcome]
    elif signal:
        verb = f"was killed by {one_line(signal, _WORD)}"
    else:
        verb, exited = f"exited {exit_code}", True
    facts = _limit(outcome, limit)
    if exit_code and not exited:
        facts.append(f"exit code {exit_code}")
    after = "" if seconds is None else f" after {format_duration(seconds)}"
    return verb + after + (f" ({', '.join(facts)})" if facts else "")


def _limit(outcome: str, limit: str | None) -> list[str]:
    """The limit that a step reached, as far as its verb does not say it."""
    if outcome == "OutOfMemory":
        limit = (limit or "").removeprefix("memory").strip(" :=")
    if not limit or (outcome == "TimedOut" and limit == "timeout"):
        return []
    return [f"limit {one_line(limit, _WORD)}"]


def cpu_time(usage: Mapping[str, Any] | None) -> str:
    """``cpu 3.9 s``; empty where it is not known."""
    return "" if usage is None else f"cpu {format_duration(usage['userTime'] + usage['systemTime'])}"


def memory_used(usage: Mapping[str, Any] | None, limit: str | None = None) -> str:
    """``peak 241Mi of 256Mi`` of all processes together, else ``largest 113Mi`` of one; empty where it is not known."""
    if usage is None:
        return ""
    peak, largest = usage["memoryPeak"], usage["maxRss"]
    if peak is None:
        return "" if largest is None else f"largest {format_size(largest)}"
    return f"peak {format_size(peak)}" + (f" of {one_line(limit, _WORD)}" if limit else "")
