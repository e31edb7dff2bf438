"""Work that takes milliseconds, a piece in each turn of the loop, whoever wants it done.

A pool's template may be as large as slim.MOST_TEMPLATE: to make pods of it, or JSON of these, is some milliseconds, and
as many as there are pools and sandboxes may want it at one moment. What else the loop does comes between two of them.
"""

from __future__ import annotations

import asyncio

__all__ = ["Turns"]


class Turns:
    """Gives out turns, first come first served."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def mine(self) -> None:
        """Wait for a turn of the loop in which nobody else has one."""
        async with self._one:
            await asyncio.sleep(0)
