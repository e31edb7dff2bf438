"""The handle of a background process behind a channel."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import ChannelTimeout
from pytest_arl.agent_client.exchange import ANSWER_SECONDS
from pytest_arl.agent_client.task_run import STREAMS, Collected
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pytest_arl.agent.message_types import ProcessRequest
    from pytest_arl.agent_client.exchange import Exchange
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import StreamName
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["AgentProcess"]

T = TypeVar("T")

_STDIN_PIECE = 64 * 1024
_MORE_BYTES = 1024 * 1024
"""Room beside the requested output of both streams, for the heads of frames."""


class AgentProcess:
    """One background process. See :class:`pytest_arl.backends.base.BackgroundProcess`."""

    def __init__(self, sandbox: Exchange, task_id: str, index: int, step: Step) -> None:
        self._sandbox = sandbox
        self._task_id = task_id
        self._index = index
        self._step = step
        self._writing = threading.Lock()
        self._written = 0

    def wait(self, timeout: float | None) -> StepResult | None:
        """The result once the process has ended; None when ``timeout`` seconds pass first."""
        deadline = None if timeout is None else time.monotonic() + timeout + ANSWER_SECONDS

        def result(stream: Stream, value: Any, streams: tuple[bytes, bytes]) -> StepResult | None:
            try:
                if not messages.is_ended(value):
                    return None
                return messages.step_result(self._step, value, streams, self._sandbox.label)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise stream.unexpected(error) from None

        request = self._request("wait")
        request["timeout"] = timeout
        return self._ask_with_output(result, request, deadline)

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
                taken = self._send_piece(piece, at, deadline)
                if taken is None:
                    raise self._too_late(timeout, start, len(view))
                if not taken:
                    raise BrokenPipeError(f"no process reads the stdin of step {self._step.name!r} any more")
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
        """Output of the process so far, bounded like a result's."""
        deadline = time.monotonic() + ANSWER_SECONDS
        streams = self._ask_with_output(lambda _stream, _value, found: found, self._request("output"), deadline)
        return streams[STREAMS.index(stream)]

    def _request(self, do: Literal["wait", "kill", "write", "close", "output"]) -> ProcessRequest:
        return messages.process_request(self._task_id, self._index, do)

    def _must_answer(self, action: Literal["kill", "close"]) -> None:
        def ask(stream: Stream) -> None:
            stream.send(frames.PROCESS, self._request(action))
            stream.reply(time.monotonic() + ANSWER_SECONDS)

        self._sandbox.exchange(ask)

    def _send_piece(self, piece: memoryview, at: int, deadline: float | None) -> bool | None:
        """Write a piece that begins there; whether anybody reads it, or None where there was no answer by the deadline:
        it is the process that draws it out.
        """
        request = self._request("write")
        request["data"], request["at"] = piece, at

        def ask(stream: Stream) -> bool | None:
            stream.send(frames.PROCESS, request)
            try:
                value = stream.reply(deadline)
            except ChannelTimeout:
                return None
            try:
                return messages.taken(value)
            except TypeError as error:
                raise stream.unexpected(error) from None

        return self._sandbox.exchange(ask, lasting=True)

    def _ask_with_output(
        self,
        result: Callable[[Stream, Any, tuple[bytes, bytes]], T],
        request: ProcessRequest,
        deadline: float | None,
    ) -> T:
        limit = request["limit"] = self._sandbox.output_limit

        def ask(stream: Stream) -> T:
            collected, left = Collected(limit), 2 * limit + _MORE_BYTES
            stream.send(frames.PROCESS, request)
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

        return self._sandbox.exchange(ask, lasting=request["do"] == "wait")
