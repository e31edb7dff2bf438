"""Progress of a task, from its agent's frames. Memory is bounded by what was asked for, whatever comes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from pytest_arl.agent import exact, frames
from pytest_arl.operator.introduction import refusal
from pytest_arl.operator.task_message import SENT_BYTES
from pytest_arl.results import Outcome
from pytest_arl.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.step_types import StepEndKey
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.introduction import Refusal

__all__ = ["LAST_MOMENT", "MOST_BYTES", "Garbled", "Progress", "StepEnd", "level"]

MOST_BYTES = 1024 * 1024
"""Most bytes of output that are held of all steps of a task; twice what any status can have."""

_OUTCOMES = tuple(each for each in get_args(Outcome) if each != "Skipped")
LAST_MOMENT = 253_402_300_799.0
"""Seconds since the epoch that have a date: the end of the year 9999."""

_LONGEST_SECONDS = 10 * 366 * 86400.0
_MOST_WORD = 128
"""Characters of a limit's or a signal's name."""


def level(sizes: Iterable[int], room: int) -> int:
    """The size to which the largest are cut so that all of them have room together."""
    ordered = sorted(sizes)
    left, count = room, len(ordered)
    for size in ordered:
        if size > left // count:
            return left // count
        left -= size
        count -= 1
    return ordered[-1] if ordered else 0


class Garbled(Exception):
    """The agent sent what no agent sends."""


@dataclass(slots=True)
class StepEnd:
    """The end of a step, by its agent.

    Attributes:
        outcome: any but ``Skipped``.
        code: the exit code, 0 to 255.
        sizes: bytes that were printed to stdout and to stderr.
        output: what came of them.
        seconds: how long it ran.
        at: when it began, in seconds since the epoch; None where it never did.
        signal: the name of what ended it.
        limit: the name of the limit that it reached.
        usage: what it used.
    """

    outcome: str
    code: int
    sizes: tuple[int, int]
    output: tuple[bytes, bytes]
    seconds: float = 0.0
    at: float | None = None
    signal: str | None = None
    limit: str | None = None
    usage: Usage | None = None

    @property
    def succeeded(self) -> bool:
        """True if the next one runs."""
        return self.outcome == "Succeeded"

    @classmethod
    def read(cls, value: Said[StepEndKey], printed: tuple[bytes, bytes]) -> StepEnd:
        """Read a STEP's value, with the output that came before it. ValueError for what no agent says."""
        stdout = exact.maybe(exact.data, value, "o", 2 * SENT_BYTES) or printed[0]
        stderr = exact.maybe(exact.data, value, "e", 2 * SENT_BYTES) or printed[1]
        out = exact.maybe(exact.integer, value, "out", 0, exact.LARGEST)
        err = exact.maybe(exact.integer, value, "err", 0, exact.LARGEST)
        found = cls(
            outcome=exact.word(value, "outcome", _OUTCOMES),
            code=exact.integer(value, "code", 0, 255),
            sizes=(len(stdout) if out is None else out, len(stderr) if err is None else err),
            output=(stdout, stderr),
            seconds=exact.maybe(exact.number, value, "s", 0.0, _LONGEST_SECONDS) or 0.0,
            at=exact.maybe(exact.number, value, "at", 0.0, LAST_MOMENT),
            signal=exact.maybe(exact.text, value, "signal", _MOST_WORD),
            limit=exact.maybe(exact.text, value, "limit", _MOST_WORD),
            usage=Usage.from_agent(value.get("u")),
        )
        if not all(word is None or word.isprintable() for word in (found.signal, found.limit)):
            raise ValueError("a signal and a limit are words")
        if found.succeeded != (found.code == 0):
            raise ValueError("a step succeeds with exit code 0, and only with that")
        return found


@dataclass(slots=True)
class Progress:
    """A task on its way.

    Attributes:
        steps: the spec's.
        ended: what is known of those that ended, in order.
        done: whether nothing more comes.
        refused: why the agent did not run it.
        most: bytes of output that may be held of all steps.
    """

    steps: list[Object]
    ended: list[StepEnd] = field(default_factory=list)
    done: bool = False
    refused: Refusal | None = None
    most: Callable[[], int] = lambda: MOST_BYTES
    _held: int = 0
    _kept: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])

    def take(self, kind: int, value: Any) -> None:
        """One frame. Garbled for what cannot be."""
        try:
            if kind == frames.STEP:
                self._end(value)
            elif kind == frames.DONE:
                self.done = True
            elif kind == frames.ERROR:
                self.refused = refusal(value)
                self.done = True
            elif frames.STDOUT <= kind <= frames.STDERR_TAIL:
                self._printed(kind, value)
            else:
                raise Garbled(f"a frame of type {kind} in a task")
        except (LookupError, TypeError, ValueError, struct.error) as error:
            raise Garbled(f"{type(error).__name__}: {error}") from None

    def _printed(self, kind: int, value: bytes) -> None:
        (index,) = frames.STEP_INDEX.unpack_from(value)
        if index != len(self.ended):
            raise Garbled(f"output of step {index} where step {len(self.ended)} runs")
        kept = self._kept[(kind - frames.STDOUT) % 2]
        room = min(2 * SENT_BYTES, self.most()) - len(kept)
        kept += memoryview(value)[frames.STEP_INDEX.size :][: max(0, room)]

    def _end(self, value: Any) -> None:
        index = len(self.ended)
        if not isinstance(value, dict) or index >= len(self.steps):
            raise Garbled(f"a result where step {index} of {len(self.steps)} runs")
        if exact.integer(value, "i", 0, exact.LARGEST) != index:
            raise Garbled(f"the result of step {value['i']} where step {index} runs")
        stdout, stderr = self._kept
        end = StepEnd.read(value, (bytes(stdout), bytes(stderr)))
        self._kept = [bytearray(), bytearray()]
        self.ended.append(end)
        self._held += sum(map(len, end.output))
        if self._held > self.most():
            self._shorten()

    def _shorten(self) -> None:
        """Hold half as much: of the longest outputs, head and tail."""
        most = level((len(each) for end in self.ended for each in end.output), self.most() // 2)
        for end in self.ended:
            stdout, stderr = (_ends(each, most) for each in end.output)
            end.output = stdout, stderr
        self._held = sum(len(each) for end in self.ended for each in end.output)


def _ends(data: bytes, most: int) -> bytes:
    return data if len(data) <= most else data[: most // 2] + data[len(data) - (most - most // 2) :]
