"""The recorder: listens to every session of this process and books its steps on the running test.

A session may be made anywhere (a fixture, a test's body, a thread the test started), so the recorder
does not ask who made it: the test that is running when a task ends is the one that ran it.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.plugin.output import OutputFolder
    from pytest_arl.plugin.record import StepRecord, TestRecord
    from pytest_arl.results import TaskResult
    from pytest_arl.session import SandboxSession

__all__ = ["RECORD", "Recorder", "Totals"]

RECORD: pytest.StashKey[TestRecord] = pytest.StashKey()
"""The steps of an item's latest attempt. Absent where it ran nothing."""

_ATTEMPT: pytest.StashKey[int] = pytest.StashKey()

Totals = dict[str, Any]
"""JSON: ``sandboxes``, ``steps``, ``open``; ``isolation``, the sorted tiers that were used; ``problems``, lines for
the end of the run; and ``unavailable``, why there was no sandbox at all.
"""


_LONGEST_ERROR = 2000
"""Characters."""


class Recorder:
    """The listener of one run of pytest in this process. Its methods come from any thread."""

    def __init__(self, config: pytest.Config) -> None:
        workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.worker = None if workerinput is None else str(workerinput["workerid"])
        """``gw0`` in a worker of pytest-xdist, None in the process that the user started."""
        self.output: OutputFolder | None = None
        self.phase = "setup"
        self.problems: list[str] = []
        self.unavailable: dict[str, None] = {}
        self._item: pytest.Item | None = None
        self._lock = threading.Lock()
        self._sandboxes = 0
        self._steps = 0
        self._isolation: set[str] = set()
        self._cut: set[str] = set()
        # Weak: a session that a test forgets to close is closed when it is collected, not at the end of the run.
        self._open: weakref.WeakValueDictionary[int, SandboxSession] = weakref.WeakValueDictionary()

    # the running test

    @property
    def item(self) -> pytest.Item | None:
        """The test that runs, from the start of its setup to the end of its teardown."""
        return self._item

    def begin(self, item: pytest.Item) -> None:
        """An attempt of a test starts. The record of an earlier one went with its last report."""
        item.stash[_ATTEMPT] = item.stash.get(_ATTEMPT, 0) + 1
        self._item = item
        self.phase = "setup"

    def end(self) -> None:
        """The test's teardown is over."""
        self._item = None

    def record(self) -> TestRecord | None:
        """The running test's record, made where it is missing; None between tests."""
        from pytest_arl.plugin.record import TestRecord

        item = self._item
        if item is None:
            return None
        record = item.stash.get(RECORD, None)
        if record is None:
            record = item.stash[RECORD] = TestRecord(item.stash.get(_ATTEMPT, 1))
        return record

    # what sessions say

    def sandbox_ready(self, session: SandboxSession, seconds: float, isolation: str) -> None:
        """A sandbox was acquired."""
        with self._lock:
            self._sandboxes += 1
            self._isolation.add(isolation)
            self._open[id(session)] = session
            if (record := self.record()) is not None:
                where = {"pool": session.pool_ref, "isolation": isolation, "seconds": seconds}
                record.sandboxes[session.name] = where

    def sandbox_closed(self, session: SandboxSession) -> None:
        """A sandbox was given back."""
        with self._lock:
            self._open.pop(id(session), None)

    def task_finished(
        self, session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
    ) -> None:
        """A task ended, or was interrupted."""
        from pytest_arl.errors import InfrastructureError

        steps = self._records(session, task, result)
        self._write(session, result, steps)
        with self._lock:
            self._steps += sum(step["outcome"] not in {None, "Skipped"} for step in steps)
            if (record := self.record()) is None:
                return
            record.sandboxes.setdefault(session.name, {"pool": session.pool_ref})
            record.add(steps)
            if isinstance(error, InfrastructureError):
                record.errors.append(f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])

    def _write(self, session: SandboxSession, result: TaskResult | None, steps: list[StepRecord]) -> None:
        if self.output is None:
            return
        try:
            whole = self.output.write(session, result, steps, test=self._item.nodeid if self._item else "")
        except OSError as error:
            # A full disk must not change what the tests say; the summary tells that files are missing.
            self.output = None
            self.problem(f"--arl-output: nothing more was written: {error}")
            return
        if not whole and session.name not in self._cut:
            self._cut.add(session.name)
            self.problem(
                f"--arl-output: sandbox {session.name} printed more than its pool keeps, so files are cut or "
                f"missing: raise `kept` of pool {session.pool_ref!r}"
            )

    def problem(self, text: str) -> None:
        """Something to say at the end of the run, wherever it happened."""
        self.problems.append(text if self.worker is None else f"{self.worker}: {text}")

    def _records(self, session: SandboxSession, task: TaskRequest, result: TaskResult | None) -> list[StepRecord]:
        from pytest_arl.plugin.record import step_record

        results = {} if result is None else {step.name: step for step in result.steps}
        where = {"sandbox": session.name, "pool": session.pool_ref, "task": task.id, "phase": self.phase}
        memory = session.limits.get("memory")
        records = [step_record(step, results.get(step.name), **where) for step in task.steps]
        ended = time.time()
        for record in records:
            record["endedAt"] = ended
            record["memoryLimit"] = memory
            if result is not None:
                record["acquiredIn"], record["warm"] = result.acquired_in, result.warm
        return records

    # sums

    @property
    def heard(self) -> bool:
        """True if there was any sandbox."""
        return self._sandboxes > 0

    def totals(self) -> Totals:
        """Counts of this process so far, as JSON."""
        with self._lock:
            return {
                "sandboxes": self._sandboxes,
                "steps": self._steps,
                "open": len(self._open),
                "isolation": sorted(self._isolation),
                "problems": list(self.problems),
                "unavailable": list(self.unavailable),
            }

    def still_open(self) -> list[SandboxSession]:
        """Sessions that nobody closed yet."""
        with self._lock:
            return list(self._open.values())
