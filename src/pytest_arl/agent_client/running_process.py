"""The handle of a background process behind a channel."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel import ChannelTimeout
from pytest_arl.agent_client.task_run import STREAMS, Collected, step_result
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.channel import Stream
    from pytest_arl.agent_client.sandbox import AgentSandbox
    from pytest_arl.backends.base import StreamName
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["AgentProcess"]

T = TypeVar("T")

_ANSWER_SECONDS = 60.0  # for what needs no program to end: a machine under load must not look like a dead agent
_STDIN_PIECE = 64 * 1024
_MORE_BYTES = 1024 * 1024
"""Beside what is asked for of both streams: the heads of frames."""


class AgentProcess:
    """One background process. See :class:`pytest_arl.backends.base.BackgroundProcess`."""

    def __init__(self, sandbox: AgentSandbox, task_id: str, index: int, step: Step) -> None:
        self._sandbox = sandbox
        self._which = {"task": task_id, "step": index}
        self._step = step
        self._writing = threading.Lock()
        self._written = 0

    def wait(self, timeout: float | None) -> StepResult | None:
        """The result once the process has ended; None when ``timeout`` seconds pass first."""
        deadline = None if timeout is None else time.monotonic() + timeout + _ANSWER_SECONDS

        def result(stream: Stream, value: Any, streams: tuple[bytes, bytes]) -> StepResult | None:
            try:
                if not value["ended"]:
                    return None
                return step_result(self._step, value, streams, self._sandbox.label(value.get("limit")))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise stream.unexpected(error) from None

        return self._ask_with_output(result, "wait", deadline, timeout=timeout)

    def kill(self) -> None:
        """Kill the process and everything it started."""
        self._must_answer("kill")

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Append to the process's stdin; returns once its pipe has taken all of it.

        TimeoutError after ``timeout`` seconds: then the process gets what was sent by then, if it reads after all.
        """
        view = memoryview(data)
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._writing.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise self._too_late(timeout, 0, len(view))
        try:
            for start in range(0, len(view), _STDIN_PIECE):
                piece = view[start : start + _STDIN_PIECE]
                # Where a connection breaks, what was taken is not known. By where it begins, the agent knows.
                at, self._written = self._written, self._written + len(piece)
                taken = self._ask("write", deadline, data=piece, at=at)
                if taken is None:
                    raise self._too_late(timeout, start, len(view))
                if not taken["taken"]:
                    raise BrokenPipeError(f"nobody reads the stdin of step {self._step.name!r} any more")
        finally:
            self._writing.release()

    def _too_late(self, timeout: float | None, taken: int, size: int) -> TimeoutError:
        within = format_duration(timeout or 0.0)
        return TimeoutError(
            f"step {self._step.name!r} did not read its stdin within {within}: it took {taken} of {size} bytes; "
            "let it read them, or give write() a longer timeout"
        )

    def close_stdin(self) -> None:
        """Let the process read end-of-file."""
        self._must_answer("close")

    def output(self, stream: StreamName) -> bytes:
        """What the process printed so far, bounded like a result's."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        streams = self._ask_with_output(lambda _stream, _value, streams: streams, "output", deadline)
        return streams[STREAMS.index(stream)]

    def _must_answer(self, action: str) -> None:
        def ask(stream: Stream) -> None:
            stream.send(frames.PROCESS, {**self._which, "do": action})
            stream.reply(time.monotonic() + _ANSWER_SECONDS)

        self._sandbox.exchange(ask)

    def _ask(self, action: str, deadline: float | None, **more: object) -> Any:
        """The answer, or None where there was none by the deadline: it is the process that draws it out."""

        def ask(stream: Stream) -> Any:
            stream.send(frames.PROCESS, {**self._which, "do": action, **more})
            try:
                value = stream.reply(deadline)
            except ChannelTimeout:
                return None
            if not isinstance(value, dict) or not isinstance(value.get("taken"), bool):
                raise stream.unexpected(TypeError("the answer to a write"))
            return value

        return self._sandbox.exchange(ask, lasting=True)

    def _ask_with_output(
        self,
        result: Callable[[Stream, Any, tuple[bytes, bytes]], T],
        action: str,
        deadline: float | None,
        **more: object,
    ) -> T:
        limit = self._sandbox.output_limit

        def ask(stream: Stream) -> T:
            collected, left = Collected(limit), 2 * limit + _MORE_BYTES
            stream.send(frames.PROCESS, {**self._which, "do": action, "limit": limit, **more})
            while True:
                kind, value = stream.receive(deadline)
                if kind == frames.REPLY:
                    return result(stream, value, collected.streams())
                if not frames.STDOUT <= kind <= frames.STDERR_TAIL:
                    raise stream.unexpected(kind)
                left -= len(value) + frames.HEADER.size
                if left < 0:
                    raise stream.unexpected(ValueError("more of an output than was asked for"))
                collected.take(kind, value[frames.STEP_INDEX.size :])

        return self._sandbox.exchange(ask, lasting=action == "wait")
