"""The part of the operator's loop that one namespace's objects may take.

Tenants make objects of up to 1.5 MB, of any shape. Each is read in one turn of the loop, in which nothing else happens.
So a namespace waits for a multiple of each turn that took long, one after another.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

__all__ = ["LONG_SECONDS", "LoopShare"]

LONG_SECONDS = 0.03
"""A shorter turn costs nothing: a page of 1 MB of objects as the client makes them takes half of it."""

_PAUSES = 4
"""Pauses for each second of such turns: they get a fifth of the loop at the most."""

_LONGEST_PAUSE = 5.0


class LoopShare:
    """Pauses, of each namespace one at a time."""

    def __init__(self) -> None:
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def rest(self, namespace: str | None, seconds: float) -> None:
        """Pause for a turn that took so long; None is what is about no namespace in particular, and pauses never."""
        if namespace is not None and seconds > LONG_SECONDS:
            async with self._turns[namespace]:
                await asyncio.sleep(min(_PAUSES * seconds, _LONGEST_PAUSE))
