"""Errors of a channel: lost, late, or a refusal of the agent's."""

from __future__ import annotations

from pytest_arl.text.untrusted import one_line

__all__ = ["AgentError", "ChannelLost", "ChannelTimeout", "quoted"]

_LONGEST_TEXT = 2000


class ChannelLost(Exception):
    """The agent is gone, or does not keep to the protocol. Nothing more can be asked of it."""


class ChannelTimeout(TimeoutError):
    """No answer came before a deadline. Its own class, so that it is not taken for a caller's TimeoutError."""


class AgentError(Exception):
    """The agent refused a request, or the request is one that cannot be sent.

    Attributes:
        text: why.
        errno: the number of the OSError behind it, or 0.
        path: the file concerned, or empty.
    """

    def __init__(self, text: str, errno: int, path: bytes) -> None:
        super().__init__(text)
        self.text = text
        self.errno = errno
        self.path = path


def quoted(text: str) -> str:
    """An agent's words, for a message: they may be anybody's."""
    return one_line(text, _LONGEST_TEXT)
