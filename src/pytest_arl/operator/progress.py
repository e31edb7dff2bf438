"""How far a task is, from what its agent sends. Memory is bounded by what was asked for, whatever comes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.operator.wire import SENT_BYTES

if TYPE_CHECKING:
    from pytest_arl.operator.objects import Object

__all__ = ["Garbled", "Progress", "StepEnd"]

_STREAMS = (frames.STDOUT, frames.STDERR)


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
        """Whether the next one runs."""
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
        int(value["code"]), int(value["out"]), int(value["err"]), str(value["outcome"])
        stdout, stderr = self._kept
        output = bytes(value.get("o") or b"") or bytes(stdout), bytes(value.get("e") or b"") or bytes(stderr)
        self._kept = [bytearray(), bytearray()]
        words = {key: each for key, each in value.items() if key not in ("o", "e")}
        self.ended.append(StepEnd(words, output))
