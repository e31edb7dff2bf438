"""All of a step's stream that its agent keeps, a part at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_arl.agent import frames
from pytest_arl.agent_client import messages
from pytest_arl.agent_client.exchange import ANSWER_SECONDS
from pytest_arl.agent_client.task_run import STREAMS
from pytest_arl.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.agent.message_types import Fetch
    from pytest_arl.agent_client.exchange import Exchange
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import StreamName

__all__ = ["kept_output"]

_PART = 4 * 1024 * 1024
_MOST_EMPTY = 1024
"""Parts in a row of which nothing is kept: 4 GiB, as much as is kept at a time."""
_MOST_SHORT = 64
"""Parts of which some bytes are kept and some lost: one at each end of what is lost together."""


def kept_output(agent: Exchange, task: str, step: int, stream: StreamName) -> Iterator[bytes]:
    """The stream, in pieces. InfrastructureError at its end where some of it is not kept, SandboxLost where the agent
    contradicts itself.
    """
    size: int | None = None
    at = received = empty = short = lost = 0
    while size is None or (at < size and received < size - lost):
        # A part at a time, and none under way while the caller looks at one: he may take as long as he likes.
        request = messages.fetch(task, step, STREAMS.index(stream), start=at, most=_PART)
        pieces, size_by_now, lost_by_now = agent.exchange(lambda exchange, request=request: _part(exchange, request))  # type: ignore[misc]  # a bound loop variable
        if size is not None and (size_by_now < size or lost_by_now < lost):
            agent.lost("its agent contradicted its earlier answer about that output")
        # What a process in the background prints meanwhile is not waited for.
        size, lost = size_by_now if size is None else size, lost_by_now
        yield from pieces
        length = sum(map(len, pieces))
        at += _PART
        received += length
        empty = 0 if pieces else empty + 1
        short += 0 < length < _PART
        few = empty > _MOST_EMPTY or short > _MOST_SHORT
        if few or (at - received > lost and at < size):
            agent.lost("its agent sent less of an output than it announced")
    if lost:
        raise InfrastructureError(
            f"{lost} of the {size} bytes of {stream} are no longer kept: "
            "a sandbox keeps 4 GiB of output, or less if its pool's `kept` is lower or the disk is full"
        )


def _part(exchange: Stream, request: Fetch) -> tuple[list[bytes], int, int]:
    """The pieces of one part, and the sizes that come with its end."""
    pieces: list[bytes] = []
    size = 0
    exchange.send(frames.FETCH, request)
    while True:
        kind, value = exchange.receive(time.monotonic() + ANSWER_SECONDS)
        if kind == frames.END:
            try:
                return pieces, *messages.output_end(value)
            except TypeError as error:
                raise exchange.unexpected(error) from None
        if kind != frames.DATA:
            raise exchange.unexpected(kind)
        size += len(value)
        if size > request["most"]:
            raise exchange.unexpected(ValueError("more of an output than was asked for"))
        if value:
            pieces.append(value)
