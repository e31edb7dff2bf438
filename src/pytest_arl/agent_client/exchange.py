"""A sandbox, as those see it who ask its agent for something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pytest_arl.agent_client.stream import Stream

__all__ = ["ANSWER_SECONDS", "Exchange"]

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""For an answer that needs no program to end: a machine under load must not look like a dead agent."""


class Exchange(Protocol):
    """Questions to the agent of one sandbox.

    Attributes:
        output_limit: bytes of each stream that a result keeps.
    """

    output_limit: int

    def exchange(self, action: Callable[[Stream], T], *, lasting: bool = False) -> T:
        """The result of ``action`` for a stream of its own. To do it twice must be as good as once: it may be done anew
        on another connection where the first one broke, any number of times where it is a ``lasting`` one, which waits
        for a program.
        """

    def lost(self, reason: str) -> NoReturn:
        """Raise what a sandbox that is gone is to its caller."""

    def label(self, limit: str | None) -> str | None:
        """A limit with the pool's value: ``memory 512Mi``."""
