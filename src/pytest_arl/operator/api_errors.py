"""Errors of the API server."""

from __future__ import annotations

from pytest_arl.cluster.objects import LONGEST_REASON, MOST_MESSAGE
from pytest_arl.text.untrusted import readable

__all__ = ["CONTENDED", "GARBLED", "AnswerTooLong", "ApiError"]

# etcd's own limit for a request, and that of the API server's connection to it; both come as status 500.
_TOO_LARGE = ("request is too large", "trying to send message larger than max")


class ApiError(Exception):
    """The API server's own refusal.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        reason: ``NotFound``, ``AlreadyExists``, ``Conflict``, ...
        message: at most MOST_MESSAGE characters, safe to print: it may quote as much of an object as that has.
        too_large: the object would be larger than what is stored: the same again is refused again.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason[:LONGEST_REASON]
        self.message = readable(message, MOST_MESSAGE)
        self.too_large = status == 413 or (status == 500 and any(words in message for words in _TOO_LARGE))
        super().__init__(self.message)


CONTENDED = "Contended"
"""Reason of an ApiError: somebody else writes to an object all the time."""

GARBLED = "Garbled"
"""An answer that is none: the same would come again."""


class AnswerTooLong(ApiError):
    """An answer is longer than what is read of one."""

    def __init__(self, most: int) -> None:
        super().__init__(0, "AnswerTooLong", f"an answer exceeds the limit of {most} bytes")
