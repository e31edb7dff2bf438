"""The handle of a background process behind a channel."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.backends.task_run import STREAMS, Collected, step_result

if TYPE_CHECKING:
    from pytest_arl.backends.base import StreamName
    from pytest_arl.backends.channeled import ChanneledSandbox
    from pytest_arl.channel import Stream
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["AgentProcess"]

_ANSWER_SECONDS = 10.0
_STDIN_PIECE = 64 * 1024


class AgentProcess:
    """One background process. See :class:`pytest_arl.backends.base.BackgroundProcess`."""

    def __init__(self, sandbox: ChanneledSandbox, task_id: str, index: int, step: Step) -> None:
        self._sandbox = sandbox
        self._which = {"task": task_id, "step": index}
        self._step = step
        self._writing = threading.Lock()
        self._written = 0

    def wait(self, timeout: float | None) -> StepResult | None:
        """The result once the process has ended; None when ``timeout`` seconds pass first."""
        deadline = None if timeout is None else time.monotonic() + timeout + _ANSWER_SECONDS
        value, streams = self._ask_with_output("wait", deadline, timeout=timeout)
        if not value["ended"]:
            return None
        return step_result(self._step, value, streams, self._sandbox.label(value.get("limit")))

    def kill(self) -> None:
        """Kill the process and everything it started."""
        self._ask("kill")

    def write(self, data: bytes) -> None:
        """Append to the process's stdin; returns once its pipe has taken all of it."""
        view = memoryview(data)
        with self._writing:
            for start in range(0, len(view), _STDIN_PIECE):
                piece = view[start : start + _STDIN_PIECE]
                # Where a connection breaks, what was taken is not known. By where it begins, the agent knows.
                at, self._written = self._written, self._written + len(piece)
                if not self._ask("write", data=piece, at=at)["taken"]:
                    raise BrokenPipeError(f"nobody reads the stdin of step {self._step.name!r} any more")

    def close_stdin(self) -> None:
        """Let the process read end-of-file."""
        self._ask("close")

    def output(self, stream: StreamName) -> bytes:
        """What the process printed so far, bounded like a result's."""
        _, streams = self._ask_with_output("output", time.monotonic() + _ANSWER_SECONDS)
        return streams[STREAMS.index(stream)]

    def _ask(self, action: str, **more: object) -> Any:
        def ask(stream: Stream) -> Any:
            stream.send(frames.PROCESS, {**self._which, "do": action, **more})
            return stream.reply()

        return self._sandbox.exchange(ask)

    def _ask_with_output(self, action: str, deadline: float | None, **more: object) -> tuple[Any, tuple[bytes, bytes]]:
        limit = self._sandbox.output_limit

        def ask(stream: Stream) -> tuple[Any, tuple[bytes, bytes]]:
            collected = Collected(limit)
            stream.send(frames.PROCESS, {**self._which, "do": action, "limit": limit, **more})
            while True:
                kind, value = stream.receive(deadline)
                if kind == frames.REPLY:
                    return value, collected.streams()
                if not frames.STDOUT <= kind <= frames.STDERR_TAIL:
                    raise stream.unexpected(kind)
                collected.take(kind, value[frames.STEP_INDEX.size :])

        return self._sandbox.exchange(ask)
