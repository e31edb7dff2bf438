"""A process in the background of a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.errors import SandboxClosed, UsageError
from pytest_arl.results import bind_step
from pytest_arl.session.async_bridge import in_thread
from pytest_arl.session.fair_queue import Cancellation
from pytest_arl.text.units import format_duration, parse_duration
from pytest_arl.text.untrusted import command_line
from pytest_arl.text.wording import type_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from pytest_arl.backends.base import BackendSandbox, BackgroundProcess, StreamName
    from pytest_arl.results import StepResult
    from pytest_arl.session.open_sandbox import OpenSandbox
    from pytest_arl.steps import Command

__all__ = ["Process"]

__tracebackhide__ = True

_SLICE = 0.2
"""Seconds between two looks at whether a waiting await was cancelled."""


class Process:
    """The value of ``start()``: a running Command. It ends with its sandbox, or with a ``with`` block of its own.

    All methods may be called from any thread, also while the sandbox runs a task.
    """

    def __init__(
        self,
        handle: BackgroundProcess,
        started: StepResult,
        command: Command,
        holding: OpenSandbox,
        limit: Callable[[], float | None],
    ) -> None:
        """``limit()`` is the timeout of the session's tasks."""
        self._handle = handle
        self._started = started
        self._step = command
        self._holding = holding
        self._limit = limit
        self._sandbox: BackendSandbox = holding.sandbox
        self._result: StepResult | None = None

    @property
    def name(self) -> str:
        """The step's name."""
        return self._step.name

    @property
    def command(self) -> tuple[str, ...]:
        """The command that runs."""
        return self._step.command

    def wait(self, timeout: float | str | None = None) -> StepResult:
        """The result, once the process has ended. TimeoutError when ``timeout`` seconds pass first; None waits on."""
        seconds = None if timeout is None else _seconds(timeout)
        result = self._ask(seconds)
        if result is None:
            raise self._still_runs(seconds)
        return result

    def poll(self) -> StepResult | None:
        """The result, or None while the process runs."""
        return self._ask(0)

    def kill(self) -> None:
        """Kill the process and everything it started. One that has ended already is no error."""
        if self._result is None:
            self._touched().kill()

    def write(self, data: str | bytes, timeout: float | str | None = None) -> None:
        """Append to its stdin. BrokenPipeError where nobody reads it any more, TimeoutError where the process has not
        taken all of it after ``timeout`` seconds; None is the session's timeout, as for a task.
        """
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(f"write() takes bytes or a string, not {type_name(data)}")
        seconds = self._limit() if timeout is None else _seconds(timeout)
        self._touched().write(bytes(data), None if seconds == float("inf") else seconds)

    def close_stdin(self) -> None:
        """Let it read end-of-file."""
        self._touched().close_stdin()

    @property
    def stdout_bytes(self) -> bytes:
        """Its stdout so far, bounded like a result's."""
        return self._output("stdout")

    @property
    def stderr_bytes(self) -> bytes:
        """Its stderr so far, bounded like a result's."""
        return self._output("stderr")

    @property
    def stdout(self) -> str:
        """Its stdout so far, as text."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Its stderr so far, as text."""
        return self.stderr_bytes.decode("utf-8", "replace")

    async def await_exit(self, timeout: float | str | None = None) -> StepResult:  # noqa: ASYNC109 - as wait() has it
        """``wait`` for async code. Cancelling it leaves the process running."""
        cancellation = Cancellation()
        seconds = None if timeout is None else _seconds(timeout)
        result = await in_thread(lambda: self._ask_in_slices(seconds, cancellation), cancellation)
        if result is None:
            raise self._still_runs(seconds)
        return result

    async def apoll(self) -> StepResult | None:
        """``poll`` for async code."""
        return await in_thread(self.poll)

    async def akill(self) -> None:
        """``kill`` for async code."""
        await in_thread(self.kill)

    async def awrite(self, data: str | bytes, timeout: float | str | None = None) -> None:  # noqa: ASYNC109 - as write()
        """``write`` for async code."""
        await in_thread(lambda: self.write(data, timeout))

    async def aclose_stdin(self) -> None:
        """``close_stdin`` for async code."""
        await in_thread(self.close_stdin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._holding.sandbox is self._sandbox and self._sandbox.alive():
            self.kill()

    def __repr__(self) -> str:
        state = "running or not asked yet" if self._result is None else self._result.outcome
        return f"<Process {self.name!r} ({command_line(self.command)}), {state}>"

    def _live(self) -> BackgroundProcess:
        if self._holding.sandbox is not self._sandbox or self._holding.closed:
            raise SandboxClosed(
                f"the process {self.name!r} ended with its sandbox, which was deleted or reset; start it again"
            )
        return self._handle

    def _touched(self) -> BackgroundProcess:
        """The process, about to be told something that may have it change what is in the sandbox."""
        handle = self._live()
        self._holding.uses += 1
        return handle

    def _ask(self, seconds: float | None) -> StepResult | None:
        if self._result is None:
            result = self._live().wait(seconds)
            if result is not None:
                self._result = bind_step(result, self._started)
        return self._result

    def _ask_in_slices(self, seconds: float | None, cancellation: Cancellation) -> StepResult | None:
        left = seconds
        while not cancellation.requested:
            piece = _SLICE if left is None else min(_SLICE, left)
            result = self._ask(piece)
            left = None if left is None else left - piece
            if result is not None or left == 0:
                return result
        return None

    def _output(self, stream: StreamName) -> bytes:
        if self._result is not None:
            return self._result.stdout_bytes if stream == "stdout" else self._result.stderr_bytes
        return self._live().output(stream)

    def _still_runs(self, seconds: float | None) -> TimeoutError:
        waited = "" if seconds is None else f" after {format_duration(seconds)}"
        return TimeoutError(f"the process {self.name!r} ({command_line(self.command)}) still runs{waited}")


def _seconds(timeout: object) -> float:
    try:
        return parse_duration(timeout)
    except UsageError as error:
        raise UsageError(f"timeout {error}") from None
