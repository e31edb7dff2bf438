"""The session's methods that block their caller; ``session.SandboxSession`` adds their async twins."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import InfrastructureError, SandboxLost, UsageError
from pytest_arl.host_files.named_links import named
from pytest_arl.results import StepResult, TaskResult, origin
from pytest_arl.session import validation
from pytest_arl.session.fair_queue import Place
from pytest_arl.session.lifecycle import Lifecycle
from pytest_arl.session.open_sandbox import OpenSandbox
from pytest_arl.session.process import Process
from pytest_arl.steps import Command, Step, check_content, check_mode, check_path, parse_steps
from pytest_arl.text.units import format_duration
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_arl.backends.base import BackendSandbox, OnOutput, StreamName
    from pytest_arl.session.fair_queue import Cancellation

__all__ = ["BlockingSession"]

_logger = logging.getLogger("pytest_arl")


class BlockingSession(Lifecycle):
    """What can be done with a sandbox. See :class:`pytest_arl.SandboxSession`."""

    # --- tasks --------------------------------------------------------------------------------

    def execute(
        self,
        steps: Iterable[Step | Mapping[str, Any]],
        *,
        timeout: float | str | None = None,
        retries: int = 0,
        on_output: OnOutput | None = None,
    ) -> TaskResult:
        """Run steps in order, up to the first that does not succeed. Never raises for a step's failure.

        Args:
            steps: dicts, or :class:`~pytest_arl.Command` and :class:`~pytest_arl.FilePatch`.
            timeout: seconds for the whole task; None is the session's, ``float("inf")`` no limit.
            retries: how often to try again where the infrastructure failed before the task started.
            on_output: called as ``on_output(step_name, stream, data)`` while a step runs. What it raises cancels
                the task, and is raised here.
        """
        __tracebackhide__ = True
        return self._execute(parse_steps(steps), timeout, retries, on_output, None)

    def run(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,
        cpu_time: float | str | None = None,
    ) -> StepResult:
        """Run one program, word by word: ``run("make", "test")``."""
        __tracebackhide__ = True
        step = validation.command(
            "run", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=False
        )
        return self._run(step, timeout, None)

    def start(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,
        cpu_time: float | str | None = None,
    ) -> Process:
        """Start a program in the background of the sandbox. StepFailed where it cannot be started."""
        __tracebackhide__ = True
        step = validation.command(
            "start", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=True
        )
        return self._start(step, None)

    def process(self, step: StepResult | str) -> Process:
        """The handle of a Command with ``background: true`` that ``execute`` has started, by its result or its name."""
        __tracebackhide__ = True
        task_id, index, result = self._tasks.locate(self._public, step)
        of = None if result is None else origin(result)
        if result is None or of is None or not isinstance(of.step, Command) or not of.step.background:
            shown = step if isinstance(step, str) else step.name
            raise UsageError(f"{shown!r} is no background step whose result is still held: give its StepResult")
        held = self._held()
        return Process(held.sandbox.process(task_id, index), result, of.step, held, self._limit_of_tasks())

    def output(self, step: StepResult | str, stream: StreamName) -> Iterator[bytes]:
        """All of a step's stream, also what its result cut, while the sandbox lives.

        Args:
            step: a result, or the name of the latest step of that name.
            stream: ``stdout`` or ``stderr``.
        """
        __tracebackhide__ = True
        if stream not in ("stdout", "stderr"):
            raise UsageError(f"output: there is no stream {stream!r}; {hint(str(stream), ('stdout', 'stderr'))}")
        task_id, index, result = self._tasks.locate(self._public, step)
        if result is None:
            return self._held().sandbox.output(task_id, index, stream)
        kept = result.stdout_bytes if stream == "stdout" else result.stderr_bytes
        size = result.stdout_size if stream == "stdout" else result.stderr_size
        if size <= len(kept):
            return iter((kept,) if kept else ())
        blocks = self._held().sandbox.output(task_id, index, stream)
        of = origin(result)
        grows = of is not None and isinstance(of.step, Command) and of.step.background
        return blocks if grows else _at_most(blocks, size, self.name)

    # --- files --------------------------------------------------------------------------------

    def write(self, path: str | os.PathLike[str], content: str | bytes, mode: int | None = None) -> None:
        """Write a file: exactly ``content``, at once or not at all; missing folders are made."""
        __tracebackhide__ = True
        target, data, bits = check_path(path, "write"), check_content(content, "write"), check_mode(mode, "write")
        self._touched().write(target, data, bits)

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """A file's content. FileNotFoundError and other OSErrors mean what they say."""
        __tracebackhide__ = True
        source = check_path(path, "read")
        return self._held().sandbox.read(source)

    def read_text(self, path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
        """A file's content as text."""
        __tracebackhide__ = True
        return self.read(path).decode(encoding, errors)

    def upload(
        self, local: str | os.PathLike[str], remote: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """Copy a file or folder in; ``remote`` is its new path. Links in a folder are copied as links.

        Args:
            local: a file or folder of this machine. UsageError for a link.
            remote: where to; with a slash at its end, the folder to put it in.
            follow_symlinks: copy what ``local`` leads to, if it is a link.
        """
        __tracebackhide__ = True
        source, target = Path(check_path(local, "upload")), check_path(remote, "upload")
        if target.endswith("/"):
            target += source.name
        self._touched().upload(named("upload", source, follow=follow_symlinks), target)

    def download(
        self, remote: str | os.PathLike[str], local: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """Copy a file or folder out; ``local`` is its new path. A folder is merged into one that is there.

        Args:
            remote: a file or folder of the sandbox.
            local: where to. UsageError for a link to a folder.
            follow_symlinks: use the folder that ``local`` leads to, if it is a link.
        """
        __tracebackhide__ = True
        source, target = check_path(remote, "download"), Path(check_path(local, "download"))
        if target.is_dir():  # a file takes the place of any other link
            target = named("download", target, follow=follow_symlinks)
        self._held().sandbox.download(source, target)

    # --- checkpoints --------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Remember files and living processes as they are; ``reset`` returns here. Acquiring made the first one."""
        __tracebackhide__ = True
        self._in_turn(OpenSandbox.remember)

    def push_checkpoint(self) -> None:
        """Remember as ``checkpoint`` does, and keep the checkpoint before: ``pop_checkpoint`` brings it back."""
        __tracebackhide__ = True
        self._in_turn(OpenSandbox.remember_too)

    def pop_checkpoint(self) -> None:
        """Give up what the last ``push_checkpoint`` remembered: ``reset`` returns to the checkpoint before it."""
        __tracebackhide__ = True
        self._in_turn(OpenSandbox.forget)

    def reset(self) -> None:
        """Return to the last checkpoint. What was started since has ended."""
        __tracebackhide__ = True
        self._in_turn(self._renew)

    def _renew(self, held: OpenSandbox) -> None:
        __tracebackhide__ = True
        began, before = perf_counter(), self.name
        held.renew()
        self._tasks.forget()
        now = f", now {self.name}" if self.name != before else ""
        _logger.info("%s: reset in %s%s", before, format_duration(perf_counter() - began), now)

    def _touched(self) -> BackendSandbox:
        """The sandbox, about to be changed."""
        __tracebackhide__ = True
        held = self._held()
        held.uses += 1
        return held.sandbox

    def _in_turn(self, action: Callable[[OpenSandbox], None]) -> None:
        __tracebackhide__ = True
        ticket = Place()
        try:
            self._held()
            self._turns.enter(ticket)
            action(self._held())
        finally:
            self._turns.leave(ticket)

    def _run(self, step: Command, timeout: float | str | None, cancellation: Cancellation | None) -> StepResult:
        __tracebackhide__ = True
        # The step has the limit that the call gave; the session's own must not end it earlier.
        bound = None if timeout is None else float("inf")
        return self._execute((step,), bound, 0, None, cancellation).steps[0]

    def _start(self, step: Command, cancellation: Cancellation | None) -> Process:
        __tracebackhide__ = True
        result = self._execute((step,), None, 0, None, cancellation)
        started = result.steps[0].check()
        held = self._held()
        return Process(held.sandbox.process(result.id, 0), started, step, held, self._limit_of_tasks())

    def _limit_of_tasks(self) -> Callable[[], float | None]:
        """The session's timeout, for what must not keep the session itself alive."""
        reference = weakref.ref(self)
        return lambda: None if (session := reference()) is None else session.timeout

    def _execute(
        self,
        steps: tuple[Step, ...],
        timeout: float | str | None,
        retries: int,
        on_output: OnOutput | None,
        cancellation: Cancellation | None,
    ) -> TaskResult:
        __tracebackhide__ = True
        limit = self.timeout if timeout is None else validation.limit(timeout, "execute: timeout")
        validation.retries(retries)
        validation.callback(on_output)
        ticket = Place()
        try:
            self._held()
            self._turns.enter(ticket, cancellation=cancellation)
            self._revive(retries)
            return self._tasks.run(self._public, self._held(), steps, limit, on_output, cancellation)
        finally:
            self._turns.leave(ticket)

    def _revive(self, retries: int) -> None:
        """Put a fresh sandbox in the place of one that has ended, where nothing that was in it would be missing.

        Only here can the session know that the task has not started: what is lost later may have run.
        """
        __tracebackhide__ = True
        for left in reversed(range(retries)):
            held = self._held()
            if held.sandbox.alive() or not held.untouched:
                return
            _logger.info("%s: its sandbox ended before the task started; trying a fresh one", self.name)
            try:
                self._renew(held)
            except InfrastructureError:
                if not left:
                    raise


def _at_most(blocks: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    """An output whose size its result has told. What is longer is not the step's; SandboxLost then."""
    for block in blocks:
        size -= len(block)
        if size < 0:
            raise SandboxLost(f"sandbox {name}: its agent has more of an output than its step wrote")
        yield block
