"""Programs that outlive their step, each below a supervisor of its own."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time

from pytest_arl.agent import supervisor, tree
from pytest_arl.agent.usage_meter import CpuWatch, live_seconds, shown_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.command import CannotStart
    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.pipes import Pipes
    from pytest_arl.agent.supervisor import Supervisor

__all__ = ["Background", "Backgrounds"]

_RETRY_SECONDS = 0.005
_FIRST_LOOK_SECONDS = 0.05
_PASSES_SECONDS = 0.3
_PATIENCE_SECONDS = 3.0


class Background:
    """One background program, until nothing of it lives.

    Attributes:
        status: its wait status, None while it runs (its descendants may live on after it).
        reason: why the agent ended it (``TimedOut``, ``OutOfMemory``, ``Killed``), or None.
        limit: the limit that it was ended for, or None.
        used: what it used, with what it started and had ended before it did; None while it runs.
    """

    def __init__(self, loop: Loop, pipes: Pipes, gone: Callable[[bool], None], memory_kills: Callable[[], int]) -> None:
        """``gone`` is called once nothing of it is left, with whether that is known for sure. ``memory_kills()`` counts
        how often something in the sandbox was killed for its memory.
        """
        self._loop = loop
        self.pipes = pipes
        self.status: int | None = None
        self.reason: str | None = None
        self.limit: str | None = None
        self.used: bytes | None = None
        self.ended = 0.0
        self._gone = gone
        self._memory_kills = memory_kills
        self._kills_before = memory_kills()
        self._supervisor: Supervisor | None = None
        self._ended_waiters: list[Callable[[], None]] = []
        self._gone_waiters: list[Callable[[], None]] = []

    @property
    def supervisor(self) -> int:
        """The pid below which its tree lives, or 0 once that is gone."""
        return 0 if self._supervisor is None else self._supervisor.pid

    @property
    def alive(self) -> bool:
        """True if anything of it lives."""
        return self.supervisor > 0

    def start(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cwd: bytes,
        oom: Callable[[bytes], None],
        started: Callable[[CannotStart | None], None],
    ) -> None:
        """Start it, and call ``started`` with None, or with why it did not start."""
        self._supervisor = supervisor.Supervisor(
            self._loop, started=started, ended=self._settle, gone=self._supervisor_gone
        )
        self._supervisor.start(argv, env, cwd, self.pipes.stdio, oom)

    def bound(self, cpu_time: float) -> None:
        """End it once it has used so many seconds of processor time."""
        limit = shown_limit(cpu_time)
        watch = CpuWatch(self._loop, cpu_time, self._cpu_seconds, lambda: self.kill("TimedOut", limit))
        self.when_ended(watch.cancel)

    def _cpu_seconds(self) -> float:
        return live_seconds(self.supervisor) if self.supervisor and tree.can_see_processes() else 0.0

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call once the program has ended; at once if it has."""
        if self.status is not None:
            callback()
        else:
            self._ended_waiters.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Forget a waiter that was given to ``when_ended``."""
        if callback in self._ended_waiters:
            self._ended_waiters.remove(callback)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call once nothing of it lives, and its output is complete."""
        if self.status is not None and not self.alive:
            callback()
        else:
            self._gone_waiters.append(callback)

    def kill(self, reason: str, limit: str | None = None) -> None:
        """End the program and everything it started; the first reason stands."""
        if self.supervisor:
            if self.status is None and self.reason is None:
                self.reason, self.limit = reason, limit
            self._kill_since(time.monotonic())

    def presume(self, limit: str | None) -> None:
        """It is about to be killed with all there is, for that limit or for none of its own doing."""
        if self.reason is None:
            self.reason, self.limit = ("Killed", None) if limit is None else ("OutOfMemory", limit)

    def _kill_since(self, begin: float, *, at_rest: bool = False) -> None:
        """Kill what is below the supervisor until that has no child and ends: so it is known that all is gone."""
        own = self.supervisor
        if not own:
            return
        now = time.monotonic()
        if now - begin > _PATIENCE_SECONDS or not tree.can_see_processes() or (at_rest and tree.is_stopped(own)):
            tree.kill_one(own)
            return
        if now - begin < _PASSES_SECONDS:
            tree.kill_below(own)
        elif not at_rest:
            tree.at_rest(lambda: tree.kill_below(own), own)
            at_rest = True
        self._loop.call_at(now + _RETRY_SECONDS, lambda: self._kill_since(begin, at_rest=at_rest))

    def _settle(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self.used = None if self._supervisor is None else self._supervisor.sums.used()
            self.ended = time.monotonic()
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == int(_signal.SIGKILL)
            if killed and self.reason is None and self._memory_kills() > self._kills_before:
                self.reason, self.limit = "OutOfMemory", "memory"
            for output in self.pipes.outputs:
                output.catch_up()
            waiters, self._ended_waiters = self._ended_waiters, []
            for waiter in waiters:
                waiter()
            self._look()

    def _supervisor_gone(self) -> None:
        self._gone(self._supervisor is not None and self._supervisor.clean)
        self._look()

    def _look(self) -> None:
        """True if it has ended and nothing of it lives: no descendant can print or wait for input any more."""
        if self.status is None or self.alive:
            return
        self.pipes.drain()
        waiters, self._gone_waiters = self._gone_waiters, []
        for waiter in waiters:
            waiter()


class Backgrounds:
    """Every background program of the sandbox, and whether orphans of one may live that nobody knows.

    Attributes:
        strays: whether a supervisor was killed, so that its tree is no longer known: only an end to everything helps.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        in_step: Callable[[], bool],
        outgrown: Callable[[], tuple[str | None, float]],
        memory_kills: Callable[[], int],
    ) -> None:
        """``in_step()`` says whether a Command runs, whose end is an end to strays too; ``outgrown()`` names the limit
        that background programs have outgrown, where no step runs that is watched for that, and says in how many
        seconds it is to be called again; ``memory_kills()`` counts kills for memory.
        """
        self._loop = loop
        self._in_step = in_step
        self._outgrown = outgrown
        self._memory_kills = memory_kills
        self._watching = False
        self._all: list[Background] = []
        self.strays = False

    def new(self, pipes: Pipes) -> Background:
        """One that is not started yet."""
        process = Background(self._loop, pipes, self._gone, self._memory_kills)
        self._all = [*self.alive(), process]
        if not self._watching:
            self._watching = True
            self._loop.call_at(time.monotonic() + _FIRST_LOOK_SECONDS, self._watch)
        return process

    def kill_for(self, limit: str) -> None:
        """End all, for a limit of the sandbox."""
        for process in self.alive():
            process.kill("OutOfMemory" if limit == "memory" else "Killed", limit)

    def _watch(self) -> None:
        if not self.alive():
            self._watching = False
            return
        limit, pause = self._outgrown()
        if limit is not None:
            self.kill_for(limit)
        self._loop.call_at(time.monotonic() + pause, self._watch)

    def alive(self) -> list[Background]:
        """Background programs of which anything lives."""
        return [process for process in self._all if process.alive]

    def _gone(self, clean: bool) -> None:
        self.strays = self.strays or not clean
        if self.strays and not self.alive() and not self._in_step():
            tree.kill_all()
