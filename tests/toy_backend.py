"""A backend that a third party could have written: commands by subprocess in a temporary folder, isolated from nothing.

It proves that the hook is all one needs, and is the fast, honest sandbox under the session's own tests. Use it in a
conftest.py by ``from tests.toy_backend import pytest_arl_backend``, or register this module with ``pytest_arl.hooks``.
"""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import PoolNotFound, SandboxLost, UsageError
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_arl.backends.base import AcquireRequest, Checkpoint, OnOutput, OnStep, StreamName, TaskRequest
    from pytest_arl.settings import Settings
    from pytest_arl.steps import Command, FilePatch, Step

OUTPUT_LIMIT = 4096
POOLS = ("default", "toys")

_numbers = itertools.count(1)


def pytest_arl_backend(name: str, settings: Settings) -> ToyBackend | None:
    return ToyBackend() if name == "toy" else None


def pytest_arl_backend_names() -> Sequence[str]:
    return ("toy",)


class ToyBackend:
    name = "toy"

    def __init__(self) -> None:
        self.open: list[ToySandbox] = []
        self.requests: list[AcquireRequest] = []

    def acquire(self, request: AcquireRequest) -> ToySandbox:
        if request.pool_ref not in POOLS:
            raise PoolNotFound(
                f"there is no pool {request.pool_ref!r}; pools: {', '.join(POOLS)}; they come from a toy"
            )
        self.requests.append(request)
        sandbox = ToySandbox(self, request.pool_ref)
        self.open.append(sandbox)
        return sandbox

    def pools(self) -> tuple[str, ...]:
        return POOLS

    def close(self) -> None:
        for sandbox in list(self.open):
            sandbox.close()


class _Running:
    """A process whose two streams are read by a thread each, so that it can never block on them."""

    def __init__(self, step: Command, folder: Path, news: queue.SimpleQueue[tuple[StreamName, bytes]] | None) -> None:
        self.step = step
        self.began = time.time()
        self.reason: str | None = None
        self.buffers: dict[StreamName, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._news = news
        self.process = subprocess.Popen(
            step.command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **step.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._threads = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.buffers]
        for thread in self._threads:
            thread.start()
        if not step.background:
            with suppress(BrokenPipeError):  # it need not read all of it
                self.feed(step.stdin or b"")
            with suppress(BrokenPipeError):
                self.end_of_input()

    def _read(self, name: StreamName) -> None:
        stream: Any = getattr(self.process, name)
        while data := os.read(stream.fileno(), 65536):
            self.buffers[name] += data
            if self._news is not None:
                self._news.put((name, data))
        stream.close()

    def feed(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end_of_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def busy(self) -> bool:
        return self.process.poll() is None or any(thread.is_alive() for thread in self._threads)

    def kill(self, reason: str) -> None:
        if self.process.poll() is None:
            self.reason = self.reason or reason
            os.killpg(self.process.pid, signal.SIGKILL)

    def result(self) -> StepResult:
        code = self.process.wait()
        for thread in self._threads:
            thread.join()
        outcome: Any = self.reason or ("Killed" if code < 0 else "Failed" if code else "Succeeded")
        cut = {name: bytes(data[: OUTPUT_LIMIT // 2] + data[max(len(data) - OUTPUT_LIMIT // 2, OUTPUT_LIMIT // 2) :])
               for name, data in self.buffers.items()}  # fmt: skip
        return StepResult(
            name=self.step.name,
            type="Command",
            outcome=outcome,
            exit_code=124 if outcome == "TimedOut" else 128 - code if code < 0 else code,
            signal=signal.Signals(-code).name if code < 0 else None,
            stdout_bytes=cut["stdout"],
            stderr_bytes=cut["stderr"],
            stdout_size=len(self.buffers["stdout"]),
            stderr_size=len(self.buffers["stderr"]),
            started_at=self.began,
            duration=time.time() - self.began,
        )


class ToyProcess:
    """A background process, as the protocol wants it."""

    def __init__(self, running: _Running) -> None:
        self._running = running

    def wait(self, timeout: float | None) -> StepResult | None:
        try:
            self._running.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self._running.result()

    def kill(self) -> None:
        self._running.kill("Killed")

    def write(self, data: bytes, timeout: float | None = None) -> None:
        self._running.feed(data)

    def close_stdin(self) -> None:
        self._running.end_of_input()

    def output(self, stream: StreamName) -> bytes:
        return bytes(self._running.buffers[stream])


class ToyCheckpoint:
    def __init__(self, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="toy-checkpoint-"))
        shutil.copytree(folder, self.folder, dirs_exist_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class ToySandbox:
    isolation = "none"
    output_limit = OUTPUT_LIMIT

    def __init__(self, backend: ToyBackend, pool_ref: str) -> None:
        self.name = f"toy-{next(_numbers)}"
        self.pool_ref = pool_ref
        self.partial: list[StepResult] = []
        self.dead = False
        self.closed = False
        self.executed: list[str] = []
        self.checkpoints: list[ToyCheckpoint] = []
        self._backend = backend
        self._folder = Path(tempfile.mkdtemp(prefix="toy-"))
        self._running: tuple[str, _Running] | None = None
        self._cancelled: set[str] = set()
        self._kept: dict[tuple[str, int], _Running] = {}

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        self.executed.append(task.id)
        results: list[StepResult] = []
        self.partial = results
        deadline = None if task.timeout is None else time.monotonic() + task.timeout
        try:
            for index, step in enumerate(task.steps):
                self._require()
                failed = bool(results) and not results[-1].ok
                results.append(
                    StepResult.skipped(step) if failed else self._step(task, index, step, on_output, deadline)
                )
                if on_step is not None and not failed:
                    on_step(results[-1])
                self._require()
        finally:
            self._running = None
        return results

    def _require(self) -> None:
        if self.dead or self.closed:
            raise SandboxLost(f"{self.name} is gone")

    def _step(
        self, task: TaskRequest, index: int, step: Step, on_output: OnOutput | None, deadline: float | None
    ) -> StepResult:
        if step.type == "FilePatch":
            return self._patch(step)
        if step.type != "Command":
            raise UsageError(f"step {step.name!r}: this backend has no {step.type}")
        news: queue.SimpleQueue[tuple[StreamName, bytes]] = queue.SimpleQueue()
        folder = self._path(step.work_dir or ".")
        try:
            running = _Running(step, folder, news)
        except OSError as error:
            return StepResult(
                name=step.name, type="Command", outcome="Failed", exit_code=127, stderr_bytes=f"{error}\n".encode()
            )
        self._kept[task.id, index] = running
        if step.background:
            return StepResult(
                name=step.name, type="Command", outcome="Succeeded", exit_code=0, started_at=running.began
            )
        self._running = (task.id, running)
        limits = [limit for limit in (deadline, step.timeout and time.monotonic() + step.timeout) if limit]
        try:
            self._watch(task.id, running, news, on_output, min(limits, default=None))
            return running.result()
        finally:
            running.kill("Cancelled")

    def _watch(
        self,
        task_id: str,
        running: _Running,
        news: queue.SimpleQueue[tuple[StreamName, bytes]],
        on_output: OnOutput | None,
        deadline: float | None,
    ) -> None:
        while running.busy or not news.empty():
            if deadline is not None and time.monotonic() > deadline:
                running.kill("TimedOut")
            if task_id in self._cancelled:
                running.kill("Cancelled")
            if self.dead or self.closed:
                running.kill("Killed")
            try:
                stream, data = news.get(timeout=0.005)
            except queue.Empty:
                continue
            if on_output is not None:
                on_output(running.step.name, stream, data)

    def _patch(self, step: FilePatch) -> StepResult:
        try:
            self.write(step.path, step.content, step.mode)
        except OSError as error:
            return StepResult(
                name=step.name, type="FilePatch", outcome="Failed", exit_code=1, stderr_bytes=f"{error}\n".encode()
            )
        said = f"File created: {step.path}\n".encode()
        return StepResult(name=step.name, type="FilePatch", outcome="Succeeded", exit_code=0, stdout_bytes=said)

    def cancel(self, task_id: str) -> None:
        if self._running is not None and self._running[0] == task_id:
            self._cancelled.add(task_id)

    def process(self, task_id: str, step: int) -> ToyProcess:
        return ToyProcess(self._kept[task_id, step])

    def output(self, task_id: str, step: int, stream: StreamName) -> Iterator[bytes]:
        if (task_id, step) not in self._kept:
            raise UsageError("that output is no longer kept")
        return iter([bytes(self._kept[task_id, step].buffers[stream])])

    def _path(self, path: str) -> Path:
        inside = path.removeprefix("/workspace").lstrip("/") if path.startswith("/workspace") else path
        return self._folder / inside

    def read(self, path: str) -> bytes:
        self._require()
        return self._path(path).read_bytes()

    def write(self, path: str, content: bytes, mode: int | None) -> None:
        self._require()
        target = self._path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if mode is not None:
            target.chmod(mode)

    def upload(self, local: Path, remote: str) -> None:
        self._require()
        _copy(local, self._path(remote))

    def download(self, remote: str, local: Path) -> None:
        self._require()
        _copy(self._path(remote), local)

    def checkpoint(self) -> ToyCheckpoint:
        self._require()
        self.checkpoints.append(ToyCheckpoint(self._folder))
        return self.checkpoints[-1]

    def restore(self, checkpoint: Checkpoint) -> ToySandbox:
        assert isinstance(checkpoint, ToyCheckpoint)
        fresh = ToySandbox(self._backend, self.pool_ref)
        shutil.copytree(checkpoint.folder, fresh._folder, dirs_exist_ok=True)
        self._backend.open.append(fresh)
        self.close()
        return fresh

    def die(self) -> None:
        """End as an evicted pod does: without being asked."""
        self.dead = True
        for running in self._kept.values():
            running.kill("Killed")

    def alive(self) -> bool:
        return not self.dead and not self.closed

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for running in self._kept.values():
            running.kill("Killed")
            running.process.wait()
            if running.process.stdin is not None:
                running.process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self in self._backend.open:
            self._backend.open.remove(self)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
