"""A second event loop, in a thread, for work that must be in time while the operator is busy.

The Lease is renewed there and the kubelet is answered there. A turn of the operator's own loop that takes seconds, for
something that somebody has put into the cluster, then delays what waits for that loop and does not end the process: one
that ended would begin with the same again. A loop that is stuck ends it all the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Any, Self

__all__ = ["LONGEST_TURN", "Beside", "Pulse"]

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

LONGEST_TURN = 60.0
"""Seconds of one turn of the operator's loop; what takes longer does not end by itself."""

_BEAT = 0.5


class Beside:
    """An event loop in a thread of its own, while the block runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arl-beside", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def call(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Do that there, and wait for it here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(job, self._loop))

    def start(self, job: Coroutine[Any, Any, None]) -> Future[None]:
        """Do that there, for as long as the process lives or until it is cancelled."""
        return asyncio.run_coroutine_threadsafe(job, self._loop)

    @asynccontextmanager
    async def within(self, manager: AbstractAsyncContextManager[Result]) -> AsyncIterator[Result]:
        """Enter and leave an asynchronous context manager there."""
        value = await self.call(_enter(manager))
        try:
            yield value
        finally:
            await self.call(_leave(manager))


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _enter(manager: AbstractAsyncContextManager[Result]) -> Result:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[object]) -> None:
    await manager.__aexit__(None, None, None)


class Pulse:
    """The sign of life of a loop, and what hears it from another one."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since that loop last had a turn."""
        return time.monotonic() - self._last

    async def beat(self) -> None:
        """Give the sign, for ever, in the loop that is watched."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(_BEAT)

    async def watch(self, longest: float = LONGEST_TURN) -> None:
        """End the process where that loop is stuck, for ever, in another loop."""
        while True:
            await asyncio.sleep(min(1.0, longest / 4))
            if self.age > longest:
                _LOG.critical(
                    "one turn of the operator's loop took more than %.0f s: the operator ends, as it seems stuck",
                    longest,
                )
                os._exit(4)
