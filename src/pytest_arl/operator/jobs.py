"""Work beside the rounds, which only decide: each piece with a name, a pause after it failed, and an end.

A job about one object never holds up a job about another: each waits for the API server by itself. One that fails is
not started again for a while, which doubles with each failure. Where one tenant may ask for thousands of the same kind,
they go in a lane: a few run at a time, and the others wait there as names.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    Job = Callable[[], Coroutine[Any, Any, Any]]

__all__ = ["MOST_IN_A_LANE", "Jobs"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 600.0
_MOST_FAILURES = 10_000
"""Names of jobs that failed; the oldest is forgotten, which means that it is tried again."""

MOST_IN_A_LANE = 4
"""Jobs of a lane that run at a time: a third of the requests that a namespace may have under way (see async_api.py)."""
_LONGEST_IN_A_LANE = 30.0
"""Pause of one that failed there; a client waits for what it is about."""


@dataclass
class _Lane:
    """Jobs of one kind: all of them, those that run, and those that have not been begun."""

    size: int = 0
    running: int = 0
    waiting: deque[tuple[Hashable, Job]] = field(default_factory=deque)


class Jobs:
    """Jobs that run, and names of those that are left alone for now."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()
        self._named: set[Hashable] = set()
        self._failures: dict[Hashable, tuple[float, float]] = {}
        self._lanes: dict[Hashable, _Lane] = {}

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

    def once(self, named: Hashable, job: Job) -> bool:
        """Run it unless one of that name runs or has just failed; whether it was started.

        A job that returns is forgotten; one that raises, ApiError among others, has failed.
        """
        _, until = self._failures.get(named, (0.0, 0.0))
        if named in self._named or time.monotonic() < until:
            return False
        self._named.add(named)
        _ = self.start(self._run(named, job))
        return True

    async def _run(self, named: Hashable, job: Job) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is that job's
            self._fail(named, error)
        else:
            self._failures.pop(named, None)
        finally:
            self._named.discard(named)

    def in_turn(self, lane: Hashable, named: Hashable, job: Job, *, newest_first: bool = False) -> bool:
        """Run it after those that wait in the lane already, or before them; whether it was put there.

        It is busy until it has returned: where it fails it makes room for the others, and comes again after a pause.
        """
        if self.busy(named):
            return False
        self._named.add(named)
        self._lanes.setdefault(lane, _Lane()).size += 1
        self._queue(lane, named, job, newest_first=newest_first)
        return True

    def size(self, lane: Hashable) -> int:
        """Jobs of a lane that have not returned yet."""
        its = self._lanes.get(lane)
        return 0 if its is None else its.size

    def _queue(self, lane: Hashable, named: Hashable, job: Job, *, newest_first: bool = False) -> None:
        waiting = self._lanes[lane].waiting
        (waiting.appendleft if newest_first else waiting.append)((named, job))
        self._go_on(lane)

    def _go_on(self, lane: Hashable) -> None:
        its = self._lanes[lane]
        while its.waiting and its.running < MOST_IN_A_LANE:
            its.running += 1
            _ = self.start(self._take_turn(lane, *its.waiting.popleft()))
        if not its.size:
            del self._lanes[lane]

    async def _take_turn(self, lane: Hashable, named: Hashable, job: Job) -> None:
        its = self._lanes[lane]
        try:
            await job()
        except asyncio.CancelledError:  # the operator ends
            its.waiting.clear()
            raise
        except Exception as error:  # noqa: BLE001 - as for the others
            pause = min(self._fail(named, error), _LONGEST_IN_A_LANE)
            asyncio.get_running_loop().call_later(pause, self._queue, lane, named, job)
        else:
            self._failures.pop(named, None)
            self._named.discard(named)
            its.size -= 1
        finally:
            its.running -= 1
            self._go_on(lane)

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

    def _fail(self, named: Hashable, error: Exception) -> float:
        """Note a failure; seconds for which it is left alone."""
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
        return pause
