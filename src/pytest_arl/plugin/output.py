"""``--arl-output DIR``: one line of JSON for each step, and everything it printed as files.

Under xdist every worker writes into the same folder: a line is one ``write`` to a file opened for
appending, so lines of two workers never mix, and files have the sandbox's name.

The folder and ``steps.jsonl`` are opened before the first sandbox, everything else is made below that folder as a new
file: nothing that a repository or a sandbox puts there leads elsewhere.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError
from pytest_arl.host_files import open_below
from pytest_arl.host_files.own import check_own, open_own
from pytest_arl.plugin.record import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from pytest_arl.backends.base import StreamName
    from pytest_arl.host_files import Folder
    from pytest_arl.plugin.record import StepRecord
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session import SandboxSession

__all__ = ["Identity", "OutputFolder"]

_STEPS = b"steps.jsonl"
_FILES = b"output"
_TRIES = 100
_STREAMS: tuple[StreamName, ...] = ("stdout", "stderr")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


Identity = tuple[int, ...]
"""Device and inode of the folder and of its ``steps.jsonl``, by which another process knows them again."""


class OutputFolder:
    """The folder of a run's steps and their outputs."""

    def __init__(self, folder: Folder, steps: int, worker: str | None) -> None:
        """``steps`` is the descriptor of ``steps.jsonl``."""
        self._folder = folder
        self._steps = steps
        self._worker = worker
        self._number = 0

    @classmethod
    def start(cls, path: Path, worker: str | None) -> Self:
        """Begin anew: what an earlier run left is replaced. A worker on a machine of its own adds to what is there.

        Raises OSError, and UsageError for what is not ours, or would lead elsewhere.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(open_own(path))
            there = folder.look(_STEPS)
            for name in (_STEPS, _FILES):
                check_own(folder.look(name), folder, name)
            if there is not None:
                if not stat.S_ISREG(there.st_mode):
                    raise UsageError(f"{folder.path(_STEPS)} is not a file: remove it, or name another folder")
                if worker is None:
                    folder.remove(_FILES)
                    folder.remove(_STEPS)
            flags = os.O_WRONLY | os.O_APPEND
            kept = there is not None and worker is not None
            steps = open_below(folder.fd, _STEPS, flags) if kept else folder.create(_STEPS, flags=flags)
            stack.pop_all()
        return cls(folder, steps, worker)

    @classmethod
    def join(cls, path: Path, worker: str, identity: Identity) -> Self:
        """The folder that another process has begun. Raises OSError, and UsageError where it is another one now."""
        with ExitStack() as stack:
            folder = stack.enter_context(open_own(path, make=False))
            steps = open_below(folder.fd, _STEPS, os.O_WRONLY | os.O_APPEND)
            stack.callback(os.close, steps)
            output = cls(folder, steps, worker)
            if output.identity != identity:
                raise UsageError(f"{path} was replaced since the run began, so nothing is written there")
            stack.pop_all()
        return output

    @property
    def identity(self) -> Identity:
        """Device and inode numbers by which another process recognises the folder."""
        states = os.fstat(self._folder.fd), os.fstat(self._steps)
        return tuple(number for state in states for number in (state.st_dev, state.st_ino))

    def close(self) -> None:
        """Let go of the folder. Idempotent."""
        self._folder.close()
        if self._steps >= 0:
            os.close(self._steps)
            self._steps = -1

    def write(
        self,
        session: SandboxSession,
        result: TaskResult | None,
        steps: list[StepRecord],
        *,
        test: str,
    ) -> bool:
        """Keep a task's steps; each record gets the paths of its outputs. Raises OSError.

        False where the sandbox has printed more than its pool lets be kept of it: a file is cut as the result is, or
        missing.
        """
        results = () if result is None else result.steps
        self._number += 1
        whole = True
        for index, (record, kept) in enumerate(zip(steps, results, strict=False), 1):
            for stream in _STREAMS:
                if not record[f"{stream}Size"]:
                    continue
                stem = f"{self._number:04d}-{index:02d}-{_safe(record['name'])}"
                content, complete = _content(session, kept, stream)
                if content is not None:
                    record[f"{stream}Path"] = self._write_file(_safe(session.name), stem, stream, content)
                whole = whole and complete
        self._append(steps, test)
        return whole

    def _write_file(self, sandbox: str, stem: str, stream: StreamName, content: Iterator[bytes]) -> str:
        """Keep a stream in a new file; gives its path in the folder."""
        with self._folder.make_or_open(_FILES) as files, files.make_or_open(sandbox.encode()) as folder:
            name, descriptor = _new_file(folder, stem, stream)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(content)
        return f"{_FILES.decode()}/{sandbox}/{name}"

    def _append(self, steps: list[StepRecord], test: str) -> None:
        lines = [
            json.dumps({"schema": SCHEMA, "test": test, "worker": self._worker, **_facts(step)}) + "\n"
            for step in steps
        ]
        for line in lines:
            os.write(self._steps, line.encode())


def _new_file(folder: Folder, stem: str, stream: StreamName) -> tuple[str, int]:
    """A name that nothing has yet, and a descriptor for writing: two sandboxes may have been given one name."""
    for number in range(_TRIES):
        name = f"{stem}.{stream}" if not number else f"{stem}~{number}.{stream}"
        with suppress(FileExistsError):
            return name, folder.create(name.encode())
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), folder.path(stem.encode()))


def _facts(step: StepRecord) -> StepRecord:
    return {key: value for key, value in step.items() if key not in {"stdout", "stderr"}}


def _content(session: SandboxSession, step: StepResult, stream: StreamName) -> tuple[Iterator[bytes] | None, bool]:
    """The part of a stream to keep, and True if that is all of it: else the part that the result has, or nothing."""
    kept = step.stdout_bytes if stream == "stdout" else step.stderr_bytes
    size = step.stdout_size if stream == "stdout" else step.stderr_size
    if size > len(kept) and session.keep(size):
        return _whole(session, step, stream, kept, size), True
    if session.keep(len(kept)):
        return iter((kept,)), size <= len(kept)
    return None, False


def _whole(session: SandboxSession, step: StepResult, stream: StreamName, kept: bytes, size: int) -> Iterator[bytes]:
    """Everything of a stream, ``size`` bytes at the most, from the sandbox as long as that has it."""
    sent = 0
    try:
        for block in session.output(step, stream):
            yield block[: size - sent]
            sent += len(block)
            if sent >= size:
                return
    except Exception:  # noqa: BLE001 - the sandbox may be gone; what the result kept is then all there is
        if not sent:
            yield kept


def _safe(name: str) -> str:
    """A name as part of a path: it may be anything a test wrote."""
    return _UNSAFE.sub("_", name).strip(".")[:80] or "_"
