"""How far a task is, from what its agent sends. Memory is bounded by what was asked for, whatever comes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.operator.wire import SENT_BYTES
from pytest_arl.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.operator.objects import Object

__all__ = ["Garbled", "Progress", "StepEnd", "level"]

_MOST_BYTES = 1024 * 1024
"""Of output that is held of all steps of a task; twice what any status can have."""


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
    """How a step ended.

    Attributes:
        value: the agent's own words, without output.
        output: what came of stdout and of stderr.
    """

    value: dict[str, Any]
    output: tuple[bytes, bytes]

    @property
    def succeeded(self) -> bool:
        """True if the next one runs."""
        return bool(self.value["outcome"] == "Succeeded")


@dataclass(slots=True)
class Progress:
    """A task on its way.

    Attributes:
        steps: the spec's.
        ended: what is known of those that ended, in order.
        done: whether nothing more comes.
        refused: why the agent did not run it.
    """

    steps: list[Object]
    ended: list[StepEnd] = field(default_factory=list)
    done: bool = False
    refused: str | None = None
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
                self.refused = str(value["text"])
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
        room = 2 * SENT_BYTES - len(kept)
        kept += memoryview(value)[frames.STEP_INDEX.size :][: max(0, room)]

    def _end(self, value: dict[str, Any]) -> None:
        index = len(self.ended)
        if value["i"] != index or index >= len(self.steps):
            raise Garbled(f"the result of step {value['i']} where step {index} runs")
        Usage.from_agent(value.get("u"))
        stdout, stderr = self._kept
        output = bytes(value.get("o") or b"") or bytes(stdout), bytes(value.get("e") or b"") or bytes(stderr)
        value = {"out": len(output[0]), "err": len(output[1]), **value}
        int(value["code"]), int(value["out"]), int(value["err"]), str(value["outcome"])
        self._kept = [bytearray(), bytearray()]
        words = {key: each for key, each in value.items() if key not in ("o", "e")}
        self.ended.append(StepEnd(words, output))
        self._held += len(output[0]) + len(output[1])
        if self._held > _MOST_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        """Hold half as much: of the longest outputs, head and tail."""
        most = level((len(each) for end in self.ended for each in end.output), _MOST_BYTES // 2)
        for end in self.ended:
            stdout, stderr = (_ends(each, most) for each in end.output)
            end.output = stdout, stderr
        self._held = sum(len(each) for end in self.ended for each in end.output)


def _ends(data: bytes, most: int) -> bytes:
    return data if len(data) <= most else data[: most // 2] + data[len(data) - (most - most // 2) :]
