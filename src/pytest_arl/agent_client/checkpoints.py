"""Checkpoints of a sandbox: archives of its folders kept here, and what its agent remembers."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.exchange import ANSWER_SECONDS
from pytest_arl.agent_client.file_transfer import Archive

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.message_types import Reset, ResetAnswerKey
    from pytest_arl.agent_client.budget import Budget
    from pytest_arl.agent_client.exchange import Exchange
    from pytest_arl.agent_client.stream import Stream

__all__ = ["AgentCheckpoint", "archived", "ask", "told"]


class AgentCheckpoint:
    """Files of the writable folders, and the background processes that lived: pairs of task and step.

    Attributes:
        agent: the sandbox that remembers it; another one in its place has none of its processes.
    """

    _numbers = itertools.count(1)

    def __init__(
        self, archives: list[Archive], alive: list[list[Any]], forget: Callable[[AgentCheckpoint], None]
    ) -> None:
        self.archives = archives
        self.alive = alive
        self.agent: Exchange | None = None
        self._forget: Callable[[AgentCheckpoint], None] | None = forget
        self.number = next(self._numbers)

    def close(self) -> None:
        """Free the archives. Idempotent."""
        for archive in self.archives:
            archive.close()
        self.archives = []
        forget, self._forget = self._forget, None
        if forget is not None:
            forget(self)


def archived(agent: Exchange, root: bytes, budget: Budget) -> Archive | None:
    """All that is in a folder; None where the sandbox has no such folder."""

    def fill(stream: Stream) -> Archive:
        archive = Archive(root, budget)
        try:
            archive.fill(stream)
        except BaseException:
            archive.close()
            raise
        return archive

    try:
        return agent.exchange(fill)
    except FileNotFoundError:
        return None


def told(agent: Exchange, request: Reset) -> None:
    """Have the agent do something for a checkpoint."""
    agent.exchange(lambda stream: _answer(stream, request))


def ask(agent: Exchange, request: Reset, answer: ResetAnswerKey) -> list[Any]:
    """The list that the agent gives under ``answer``."""

    def listed(stream: Stream) -> list[Any]:
        value = _answer(stream, request)
        try:
            return messages.reset_answer(value, answer)
        except TypeError as error:
            raise stream.unexpected(error) from None

    return agent.exchange(listed)


def _answer(stream: Stream, request: Reset) -> Any:
    stream.send(frames.RESET, request)
    return stream.reply(time.monotonic() + ANSWER_SECONDS)
