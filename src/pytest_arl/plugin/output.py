"""``--arl-output DIR``: one line of JSON for each step, and everything it printed as files.

Under xdist every worker writes into the same folder: a line is one ``write`` to a file opened for
appending, so lines of two workers never mix, and files have the sandbox's name, which no two share.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

from pytest_arl.plugin.record import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_arl.backends.base import StreamName
    from pytest_arl.plugin.record import StepRecord
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session import SandboxSession

__all__ = ["OutputFolder"]

_STEPS = "steps.jsonl"
_FILES = "output"
_STREAMS: tuple[StreamName, ...] = ("stdout", "stderr")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class OutputFolder:
    """Where a run's steps and their outputs go."""

    def __init__(self, folder: Path, worker: str | None) -> None:
        self._folder = folder
        self._worker = worker
        self._number = 0

    def start(self) -> None:
        """Begin anew: what an earlier run left is replaced. For the one process that starts the run."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if (self._folder / _STEPS).is_file():
            shutil.rmtree(self._folder / _FILES, ignore_errors=True)
        (self._folder / _STEPS).write_bytes(b"")

    def write(
        self,
        session: SandboxSession,
        result: TaskResult | None,
        steps: list[StepRecord],
        *,
        test: str,
    ) -> None:
        """Keep a task's steps; each record gets the paths of its outputs. Raises OSError."""
        results = () if result is None else result.steps
        self._number += 1
        stem = f"{_safe(session.name)}/{self._number:04d}"
        for index, (record, kept) in enumerate(zip(steps, results, strict=False), 1):
            for stream in _STREAMS:
                if record[f"{stream}Size"]:
                    name = f"{_FILES}/{stem}-{index:02d}-{_safe(record['name'])}.{stream}"
                    self._write_file(self._folder / name, _content(session, kept, stream))
                    record[f"{stream}Path"] = name
        self._append(steps, test)

    def _write_file(self, path: Path, content: Iterator[bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(content)

    def _append(self, steps: list[StepRecord], test: str) -> None:
        lines = [
            json.dumps({"schema": SCHEMA, "test": test, "worker": self._worker, **_facts(step)}) + "\n"
            for step in steps
        ]
        file = os.open(self._folder / _STEPS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for line in lines:
                os.write(file, line.encode())
        finally:
            os.close(file)


def _facts(step: StepRecord) -> StepRecord:
    return {key: value for key, value in step.items() if key not in {"stdout", "stderr"}}


def _content(session: SandboxSession, step: StepResult, stream: StreamName) -> Iterator[bytes]:
    """Everything of a stream: from the sandbox where the result cut it, as long as the sandbox has it."""
    kept = step.stdout_bytes if stream == "stdout" else step.stderr_bytes
    size = step.stdout_size if stream == "stdout" else step.stderr_size
    if size <= len(kept):
        yield kept
        return
    sent = 0
    try:
        for block in session.output(step, stream):
            sent += len(block)
            yield block
    except Exception:  # noqa: BLE001 - the sandbox may be gone; what the result kept is then all there is
        if not sent:
            yield kept


def _safe(name: str) -> str:
    """A name as part of a path: it may be anything a test wrote."""
    return _UNSAFE.sub("_", name).strip(".")[:80] or "_"
