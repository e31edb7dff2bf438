"""Work beside the rounds, which only decide: each piece with a name, a pause after it failed, and an end.

A job about one object never holds up a job about another: each waits for the API server by itself. One that fails is
not started again for a while, which doubles with each failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

__all__ = ["Jobs"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 600.0
_MOST_FAILURES = 10_000
"""Names of jobs that failed; the oldest is forgotten, which means that it is tried again."""


class Jobs:
    """Jobs that run, and names of those that are left alone for now."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()
        self._named: set[Hashable] = set()
        self._failures: dict[Hashable, tuple[float, float]] = {}

    def start(self, job: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run something beside; its failure is logged."""
        task = asyncio.ensure_future(job)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a job failed", exc_info=task.exception())

    def once(self, named: Hashable, job: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        """Run it unless one of that name runs or has just failed; whether it was started.

        A job that returns is forgotten; one that raises, ApiError among others, has failed.
        """
        _, until = self._failures.get(named, (0.0, 0.0))
        if named in self._named or time.monotonic() < until:
            return False
        self._named.add(named)
        _ = self.start(self._run(named, job))
        return True

    async def _run(self, named: Hashable, job: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is that job's
            self._fail(named, error)
        else:
            self._failures.pop(named, None)
        finally:
            self._named.discard(named)

    def failed(self, named: Hashable, error: Exception) -> None:
        """Leave something alone for a while that failed when it was looked at."""
        if not self.resting(named):  # else it was told: events may come by the thousand
            self._fail(named, error)

    def busy(self, named: Hashable) -> bool:
        """True while it runs, or is left alone because it failed."""
        return named in self._named or self.resting(named)

    def resting(self, named: Hashable) -> bool:
        """True while something that failed is left alone."""
        return time.monotonic() < self._failures.get(named, (0.0, 0.0))[1]

    def _fail(self, named: Hashable, error: Exception) -> None:
        before, _ = self._failures.pop(named, (0.0, 0.0))
        pause = min(2 * before, _LONGEST_PAUSE) if before else _FIRST_PAUSE
        self._failures[named] = pause, time.monotonic() + pause
        if len(self._failures) > _MOST_FAILURES:
            del self._failures[next(iter(self._failures))]
        _LOG.warning(
            "left alone for %.0f s: %s",
            pause,
            type(error).__name__,
            exc_info=error,
            extra={"data": {"job": repr(named)}},
        )
