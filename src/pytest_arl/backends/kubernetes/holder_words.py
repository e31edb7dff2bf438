"""Requests about Tasks that the holder of a sandbox makes of its agent, beside the Task objects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.kubernetes.manifests import Payload

__all__ = ["Spend", "supply"]

_SUPPLY_SECONDS = 120.0
_SPEND_SECONDS = 10.0


def supply(payload: Payload) -> Callable[[Stream], None]:
    """Give it the steps that no Task object can carry, for the Task that will name them by their digest."""

    def send(stream: Stream) -> None:
        stream.send(frames.SUPPLY, messages.supply(payload.steps))
        stream.reply(time.monotonic() + _SUPPLY_SECONDS)

    return send


class Spend:
    """Has it run nothing for a proof any more. InfrastructureError where it refuses.

    Attributes:
        ran: whether a Task with that proof was run before.
        runs: whether it still runs.
    """

    def __init__(self, proof: str) -> None:
        self._proof = proof
        self.ran = self.runs = False

    def __call__(self, stream: Stream) -> None:
        """Ask, over the holder's channel."""
        stream.send(frames.SPEND, messages.spend(self._proof))
        try:
            said = stream.reply(time.monotonic() + _SPEND_SECONDS)
        except AgentError as error:
            raise InfrastructureError(error.text) from None
        self.ran, self.runs = messages.spent(said)
