"""Moments as Kubernetes and JSON have them: RFC 3339."""

from __future__ import annotations

import time

__all__ = ["now", "parse_timestamp", "timestamp"]


def timestamp(seconds: float) -> str:
    """A moment in seconds since the epoch, in UTC, with microseconds: a MicroTime."""
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{micros:06d}Z"


def now() -> str:
    """This moment."""
    return timestamp(time.time())


def parse_timestamp(text: object) -> float | None:
    """Seconds since the epoch; None for what is no text of a moment, or of a year that no clock shows."""
    from datetime import datetime  # noqa: PLC0415 - takes a millisecond, and what only writes has no use for it

    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except (ValueError, OverflowError, OSError):
        return None
