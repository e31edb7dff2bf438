"""Output that comes more than once, told once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.backends.base import OnOutput, StreamName

__all__ = ["Unseen"]


class Unseen:
    """A caller's ``on_output`` that is told each byte once, also where a connection is opened anew."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._told: Counter[tuple[str, str]] = Counter()
        self._came: Counter[tuple[str, str]] = Counter()

    def again(self) -> None:
        """All output comes once more from its beginning."""
        self._came.clear()

    def __call__(self, step: str, stream: StreamName, data: bytes) -> None:
        """Tell the caller what it has not been told."""
        key = (step, stream)
        unseen = data[max(0, self._told[key] - self._came[key]) :]
        self._came[key] += len(data)
        if unseen:
            self._told[key] += len(unseen)
            self._on_output(step, stream, unseen)
