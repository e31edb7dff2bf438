"""One task on its way through a channel: what is sent, what comes back, when it is no longer believed in."""

from __future__ import annotations

import struct
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.results import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import OnOutput, OnStep, StreamName, TaskRequest

__all__ = ["GRACE_SECONDS", "STREAMS", "Collected", "TaskRun"]

GRACE_SECONDS = 5.0
"""Time for the agent to report a timeout of its own; then it counts as dead."""
LONGEST_GRACE = 60.0
"""Past its deadline, for an agent that says that it works on or that waits for a processor: a slow machine may need
many seconds to end hundreds of processes, and a step that ran out of time there is not a sandbox that was lost.
"""

STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
_CANCEL_SECONDS = 2.0
_MOST_UNDER_WAY = 8 * 1024 * 1024  # bytes that the agent and the socket may hold


class Collected:
    """The received part of one step's output: the head, and the end where the middle was left out.

    Written once into what becomes the result, as 16 MiB may be held many times over otherwise.
    """

    def __init__(self, limit: int) -> None:
        self._room = [[limit // 2, limit - limit // 2] for _ in STREAMS]  # for head and tail, of each stream
        self._kept = tuple(BytesIO() for _ in STREAMS)

    def take(self, kind: int, data: memoryview) -> StreamName:
        """Keep a frame of output; which stream it is of."""
        which = (kind - frames.STDOUT) % 2
        room = self._room[which]
        is_tail = kind >= frames.STDOUT_TAIL
        room[is_tail] -= self._kept[which].write(data[: room[is_tail]])
        return STREAMS[which]

    def streams(self) -> tuple[bytes, bytes]:
        """The kept parts of stdout and of stderr."""
        stdout, stderr = (kept.getvalue() for kept in self._kept)
        return stdout, stderr


class TaskRun:
    """One task on its way: its results as they come, the host's own deadline, cancelling."""

    def __init__(
        self,
        task: TaskRequest,
        on_output: OnOutput | None,
        results: list[StepResult],
        *,
        limit: int,
        label: Callable[[str | None], str | None],
        on_step: OnStep | None = None,
        until: float | None = None,
    ) -> None:
        """``until``: its end in any case (monotonic seconds), where it is followed over several connections."""
        self._task = task
        self._on_step = on_step
        self._limit = limit
        self._label = label
        self._on_output = on_output
        self._results = results
        self._collected: dict[int, Collected] = {}
        self._began = self._step_began = time.monotonic()
        self._cancel_until: float | None = None
        self._late_bytes = 0
        self._most_late = 2 * limit + _MOST_UNDER_WAY
        self._until = until

    def collect(self, stream: Stream) -> None:
        """Take frames until the task is done: its last result says so already, whether or not a frame follows."""
        while not self._complete():
            kind, value = self._receive(stream)
            if kind == frames.DONE:
                return
            try:
                if kind == frames.STEP:
                    name, pieces = self._ended(value)
                elif frames.STDOUT <= kind <= frames.STDERR_TAIL:
                    name, pieces = self._printed(kind, value)
                else:
                    raise stream.unexpected(kind)
            except (LookupError, TypeError, ValueError, struct.error) as error:
                raise stream.unexpected(error) from None
            if self._on_output is not None:
                for which, data in pieces:
                    self._on_output(name, which, data)
            if kind == frames.STEP and self._on_step is not None:
                self._on_step(self._results[-1])

    def _receive(self, stream: Stream) -> tuple[int, Any]:
        """The next frame. ChannelTimeout where the agent is past its deadline and does not say that it works on."""
        extended = 0.0
        while True:
            deadline = self._deadline()
            try:
                return stream.receive(None if deadline is None else max(deadline, extended))
            except ChannelTimeout:
                now = time.monotonic()
                if deadline is None or self._cancel_until is not None or now > deadline + LONGEST_GRACE:
                    raise
                # An agent that is done says so, and what it was done with came before that.
                if not (stream.is_worked_on(now + GRACE_SECONDS) or stream.pending()):
                    raise
                extended = now + GRACE_SECONDS

    def cancel(self, stream: Stream) -> bool:
        """The caller was interrupted: end the step in the sandbox, wait a little for what is known of it; whether
        the agent answered.
        """
        self._on_output = None
        self._cancel_until = time.monotonic() + _CANCEL_SECONDS
        try:
            stream.send(frames.CANCEL, messages.cancel(self._task.id))
            self.collect(stream)
        except (ChannelLost, AgentError, ChannelTimeout):
            self.keep_partial()
            return False
        return True

    def keep_partial(self) -> None:
        """Keep what came of the step that ran when the sandbox was lost."""
        index = len(self._results)
        collected = self._collected.get(index)
        if collected is None or index >= len(self._task.steps):
            return
        step = self._task.steps[index]
        stdout, stderr = collected.streams()
        self._results.append(
            StepResult(
                name=step.name,
                type=step.type,
                outcome="Cancelled",
                exit_code=137,
                stdout_bytes=stdout,
                stderr_bytes=stderr,
                started_at=time.time() - (time.monotonic() - self._step_began),
                duration=time.monotonic() - self._step_began,
            )
        )

    def _complete(self) -> bool:
        """True if no step is left that would be run."""
        results = self._results
        return bool(results) and (len(results) == len(self._task.steps) or not results[-1].ok)

    def _deadline(self) -> float | None:
        """The time when the host gives up an agent that misses its own deadlines (monotonic seconds)."""
        if self._cancel_until is not None:
            return self._cancel_until
        ends = [] if self._task.timeout is None else [self._began + self._task.timeout]
        if self._until is not None:
            ends.append(self._until)
        index = len(self._results)
        if index < len(self._task.steps):
            longest = self._task.steps[index].longest
            if longest:  # one that takes no time has none that is looked at
                ends.append(self._step_began + longest)
        return min(ends) + GRACE_SECONDS if ends else None

    def _printed(self, kind: int, value: bytes) -> tuple[str, list[tuple[StreamName, bytes]]]:
        """Keep a frame of output; the step's name, and what a caller who watches is to see."""
        (index,) = frames.STEP_INDEX.unpack_from(value)
        if index != len(self._results):
            raise IndexError(f"output of step {index} where step {len(self._results)} runs")
        deadline = self._deadline()
        if deadline is not None and time.monotonic() > deadline:
            # What waited in the stream may be late; an agent that goes on for ever no longer keeps deadlines.
            self._late_bytes += len(value)
            if self._late_bytes > self._most_late:
                raise ChannelTimeout
        collected = self._collected.get(index)
        if collected is None:
            collected = self._collected[index] = Collected(self._limit)
        data = memoryview(value)[frames.STEP_INDEX.size :]
        which = collected.take(kind, data)
        seen = self._on_output is None or kind >= frames.STDOUT_TAIL
        return self._task.steps[index].name, [] if seen else [(which, bytes(data))]

    def _ended(self, value: object) -> tuple[str, list[tuple[StreamName, bytes]]]:
        """Keep a step's result; its name, and what a caller who watches has not seen of it."""
        index = len(self._results)
        number = messages.step_number(value)
        if number != index:
            raise IndexError(f"the result of step {number} where step {index} runs")
        step = self._task.steps[index]
        collected = self._collected.pop(index, None)
        unseen: list[tuple[StreamName, bytes]] = []
        if collected is None:
            streams = messages.inline_output(value, self._limit)
            unseen = [(which, data) for which, data in zip(STREAMS, streams, strict=True) if data]
        else:
            streams = collected.streams()
        self._results.append(messages.step_result(step, value, streams, self._label))
        self._step_began = time.monotonic()
        return step.name, unseen
