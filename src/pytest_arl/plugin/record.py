"""The steps of a test as plain JSON: made once, read by every report.

The record travels on pytest's report objects, so under xdist it crosses a process border and may hold
JSON types only. It is bounded, because reports of a run are all kept in memory: full outputs are files
(``--arl-output``). Values of environment variables never enter it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_arl.text.untrusted import bounded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = [
    "MAX_COMMAND",
    "MAX_STREAM",
    "MAX_TEST",
    "SCHEMA",
    "StepRecord",
    "TestRecord",
    "failing_step",
    "step_record",
    "without_output",
]

SCHEMA = 1
"""Version of the record's shape. New keys do not change it; a changed meaning does."""

MAX_STREAM = 64 * 1024
"""Bytes, as JSON, of one stream of a step."""

MAX_COMMAND = 8 * 1024
"""Bytes, as JSON, of a step's command. Whole programs are passed by ``python3 -c``; their start tells which it was."""

MAX_TEST = 1024 * 1024
"""Bytes, as JSON, of all that a test ran."""

StepRecord = dict[str, Any]


class TestRecord:
    """The steps of one attempt of one test so far. Not thread-safe: the recorder locks.

    When it grows over :data:`MAX_TEST`, the oldest outputs go first, then the oldest steps, so that
    what led to a failure stays.
    """

    __test__ = False

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.steps: list[StepRecord] = []
        self.sandboxes: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self.omitted = 0
        self.shown = 0
        self.reported = 0
        self._sizes: list[int] = []
        self._total = 0
        self._measured = 0
        self._first_with_output = 0

    def add(self, records: Iterable[StepRecord]) -> None:
        """Append steps, numbering them within the test."""
        for record in records:
            record["number"] = self.omitted + len(self.steps) + 1
            self.steps.append(record)
            self._sizes.append(_largest(record))
            self._total += self._sizes[-1]
            if self._total > MAX_TEST:
                self._measure()
                self._shrink()

    def since(self, index: int) -> list[StepRecord]:
        """Steps from that number (counted from 0, left-out ones included) on."""
        return self.steps[max(0, index - self.omitted) :]

    @property
    def count(self) -> int:
        """The number of steps that the test ran, left-out ones included."""
        return self.omitted + len(self.steps)

    def _measure(self) -> None:
        """Put real sizes in the place of estimates, which are quick and large."""
        for index in range(self._measured, len(self.steps)):
            self._sizes[index] = len(json.dumps(self.steps[index]))
        self._measured = len(self.steps)
        self._total = sum(self._sizes)

    def _shrink(self) -> None:
        while self._total > MAX_TEST and self._first_with_output < len(self.steps) - 1:
            index = self._first_with_output
            slim = without_output(self.steps[index])
            size = len(json.dumps(slim))
            self._total -= self._sizes[index] - size
            self.steps[index], self._sizes[index] = slim, size
            self._first_with_output += 1
        while self._total > MAX_TEST and len(self.steps) > 1:
            self._total -= self._sizes.pop(0)
            self.steps.pop(0)
            self.omitted += 1
            self._measured -= 1
            self._first_with_output = max(0, self._first_with_output - 1)


def _largest(record: StepRecord) -> int:
    """At least the bytes that a step takes as JSON: a character takes six at most, all else less than 1.5 KiB."""
    parts = [part for value in record.values() for part in (value if isinstance(value, list) else (value,))]
    texts = [part for part in parts if isinstance(part, str)]
    return 1536 + 6 * sum(map(len, texts)) + 4 * len(texts)


def failing_step(steps: list[StepRecord], blamed: str | None = None) -> StepRecord:
    """The step an error names, else the last that did not succeed, else the last that ran."""
    ran = [step for step in steps if step["outcome"] != "Skipped"] or steps
    for step in reversed(ran):
        if step["name"] == blamed:
            return step
    for step in reversed(ran):
        if step["outcome"] is None:  # the sandbox was lost: under the first of the task that has no result
            return next(first for first in ran if first["task"] == step["task"] and first["outcome"] is None)
        if step["outcome"] != "Succeeded":
            return step
    return ran[-1]


def without_output(record: StepRecord) -> StepRecord:
    """A copy that says how much was printed, and not what."""
    return {**record, "stdout": "", "stderr": "", "outputOmitted": bool(record["stdoutSize"] or record["stderrSize"])}


def step_record(step: Step, result: StepResult | None, **where: str) -> StepRecord:
    """One step as JSON. ``result`` is None where the infrastructure failed before there was one."""
    record: StepRecord = {key: _plain(value) for key, value in where.items()}
    record |= {"name": _plain(step.name), "type": step.type, **step.to_record(MAX_COMMAND)}
    if result is None:
        return {**record, "outcome": None, **_EMPTY}
    return {
        **record,
        "outcome": str(result.outcome),
        "exitCode": result.exit_code,
        "signal": result.signal,
        "limit": None if result.limit is None else str(result.limit),
        "startedAt": result.started_at,
        "duration": result.duration,
        "usage": None if result.usage is None else result.usage.to_json(),
        "stdout": bounded(result.stdout_bytes, MAX_STREAM),
        "stderr": bounded(result.stderr_bytes, MAX_STREAM),
        "stdoutSize": result.stdout_size,
        "stderrSize": result.stderr_size,
    }


_EMPTY: StepRecord = {
    "exitCode": None,
    "signal": None,
    "limit": None,
    "startedAt": None,
    "duration": None,
    "usage": None,
    "stdout": "",
    "stderr": "",
    "stdoutSize": 0,
    "stderrSize": 0,
}


def _plain(text: str) -> str:
    """Text that any encoder takes: bytes that were not UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
