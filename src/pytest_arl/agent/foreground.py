"""The Command that runs now, and the killing of all it leaves."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time

from pytest_arl.agent import supervisor, tree
from pytest_arl.agent.usage_meter import CpuWatch, shown_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    from pytest_arl.agent.command import CannotStart
    from pytest_arl.agent.loop import Timer
    from pytest_arl.agent.parts import AgentParts
    from pytest_arl.agent.pipes import Pipes
    from pytest_arl.agent.step_types import StepEnd
    from pytest_arl.agent.supervisor import Supervisor

__all__ = ["CANCELLED_CODE", "TIMED_OUT_CODE", "Foreground", "ending"]

TIMED_OUT_CODE = 124
"""Exit code of timeout(1) of the GNU coreutils."""

CANCELLED_CODE = 128 + int(_signal.SIGKILL)

_KILL_RETRY_SECONDS = 0.005
_PASSES_SECONDS = 0.3  # 24 passes were enough against chains of fork and exit; a pass takes about 2 ms
_COLLECTING_SECONDS = 3.0
"""Time for a supervisor to wait for killed processes, while none of them goes."""
_UNKILLABLE_SECONDS = 5.0
"""Time after which no killed process goes any more; a slow machine may take longer for hundreds of processes."""
_LONGEST_KILLING = 60.0
_COUNT_SECONDS = 0.2
_EX_OSERR = 71


class Going:
    """A watch over processes that were killed: the kernel takes its time for each."""

    def __init__(self) -> None:
        self._fewest = -1
        self._since = self._looked = 0.0

    def stuck_for(self, now: float) -> float:
        """Seconds since there were fewer processes than ever before, or since the first call."""
        if now - self._looked >= _COUNT_SECONDS:
            self._looked = now
            count = len(tree.numbers())
            if count < self._fewest or self._fewest < 0:
                self._fewest, self._since = count, now
        return now - self._since


def ending(status: int, reason: str | None) -> StepEnd:
    """A wait status, and why the agent ended the program if it did, as a result's outcome, exit code and signal."""
    signal = None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        code = 128 + number
        signal = _signal_name(number)
    else:
        code = os.WEXITSTATUS(status)
    if reason is not None:
        outcome = reason
        code = TIMED_OUT_CODE if reason == "TimedOut" else code or CANCELLED_CODE
    else:
        outcome = "Killed" if signal else "Failed" if code else "Succeeded"
    result: StepEnd = {"outcome": outcome, "code": code}
    if signal is not None:
        result["signal"] = signal
    return result


def _signal_name(number: int) -> str:
    for name in dir(_signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and getattr(_signal, name) == number:
            return name
    return "SIG" + str(number)


class Foreground:
    """One running Command.

    Alone in the sandbox it is a child of the agent: PID 1 inherits every orphan, one call kills all there is, and
    all is gone when the kernel says that PID 1 has no child. Beside background processes a supervisor takes the
    agent's part, for the Command's processes only.

    Attributes:
        status: the program's wait status, None while it runs.
        reason: why the agent ended it, or None.
        pipes: its streams.
        limit: the limit that it was ended for, or None.
        ended_at: when (monotonic seconds).
    """

    def __init__(
        self,
        parts: AgentParts,
        pipes: Pipes,
        deadline: float | None,
        done: Callable[[], None],
        cpu_time: float | None = None,
    ) -> None:
        """``done`` is called once, when the Command is over and nothing of it lives. ``cpu_time``: seconds of processor
        time that it may use.
        """
        self._parts = parts
        self._loop = parts.loop
        self.pipes = pipes
        self._done = done
        parts.in_step = True
        self.status: int | None = None
        self.reason: str | None = None
        self.limit: str | None = None
        self.ended_at = 0.0
        self._supervisor: Supervisor | None = None
        self._killing_since = 0.0
        self._killed_at_rest = False
        self._going = Going()
        self._retry: Timer | None = None
        self._late = None if deadline is None else self._loop.call_at(deadline, self._too_late)
        self._sampler = self._loop.call_at(pipes.started + parts.limits.next_look(), self._sample)
        self._loop.reaped = self._look
        self._loop.reaping = parts.limits.ended
        self._loop.orphaned = parts.meter.sums.add
        self._cpu_time = cpu_time
        self._cpu_watch = None
        if cpu_time is not None:
            self._cpu_watch = CpuWatch(self._loop, cpu_time, self._cpu_seconds, self._out_of_time)

    def child(self, pid: int) -> None:
        """The Command runs as the agent's own child."""

        def ended(status: int, used: struct_rusage) -> None:
            self._parts.meter.sums.add(used)
            self._main_ended(status)

        self._loop.child(pid, ended)

    def supervise(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cwd: bytes,
        cannot_start: Callable[[CannotStart], None],
    ) -> None:
        """Start the Command below a supervisor. ``cannot_start`` is called instead of ``done`` if it cannot."""

        def started(problem: CannotStart | None) -> None:
            if problem is not None:
                if self.reason is None:
                    self._done = lambda: cannot_start(problem)
                ended(0)

        def ended(status: int) -> None:
            self._main_ended(status)
            self._look()

        def gone() -> None:
            self._parts.meter.sums.merge(own.sums)  # to what orphans of it used, where it was killed

        self._supervisor = own = supervisor.Supervisor(self._loop, started=started, ended=ended, gone=gone)
        own.start(argv, env, cwd, self.pipes.stdio, self._parts.oom)

    def end(self, reason: str, limit: str | None = None) -> None:
        """Kill it with its tree; the first reason stands."""
        if self.reason is None and self.status is None:
            self.reason, self.limit = reason, limit
            self._kill()

    def judge(self, seconds: float) -> None:
        """Say what a Command that is over, and so long used the processors, was ended for: it may have passed the limit
        since the last look.
        """
        if self._cpu_time is None or seconds <= self._cpu_time or self.reason is not None:
            return
        if not self._parts.limits.memory_killed():
            self.reason, self.limit = "TimedOut", shown_limit(self._cpu_time)

    def _too_late(self) -> None:
        self.end("TimedOut", "timeout")

    def _cpu_seconds(self) -> float:
        return self._parts.meter.seconds(self._supervisor.pid if self._supervisor is not None else 0)

    def _out_of_time(self) -> None:
        self._parts.meter.least = self._cpu_time or 0.0  # whatever is counted in the end
        self.end("TimedOut", shown_limit(self._cpu_time or 0.0))

    def _sample(self) -> None:
        for output in self.pipes.outputs:
            output.offer()
        self._parts.meter.count()
        limit = self._parts.limits.sample()
        if limit is not None:
            self.end("OutOfMemory" if limit == "memory" else "Killed", limit)
            if limit == "memory":
                self._parts.backgrounds.kill_for(limit)  # whose memory it is cannot be told
        elif self.status is None:
            self._sampler = self._loop.call_at(time.monotonic() + self._parts.limits.next_look(), self._sample)

    def _main_ended(self, status: int) -> None:
        self.status = status
        self.ended_at = time.monotonic()

    def _look(self) -> None:
        """Something ended: is the step over, and nothing of it left?"""
        if self._loop.childless:
            self._parts.backgrounds.strays = False
        if self.status is None:
            return
        own = self._supervisor
        alone = own is not None and not own.pid and own.clean and not self._parts.backgrounds.strays
        if self._loop.childless or alone:
            self._dismiss()
            self._done()
        else:
            self._kill()

    def _kill(self) -> None:
        """Kill all there is of the step, now and again until it is gone."""
        now = time.monotonic()
        self._killing_since = self._killing_since or now
        stuck = self._going.stuck_for(now)
        if not self._kill_sparing_others(now - self._killing_since, stuck):
            for process in self._parts.backgrounds.alive():
                process.presume("memory" if self._parts.limits.memory_killed() else None)
            tree.kill_all()
        if stuck > _UNKILLABLE_SECONDS or now - self._killing_since > _LONGEST_KILLING:
            # Something cannot be killed, so nothing here can be trusted; the kernel takes the namespace down.
            os._exit(_EX_OSERR)
        if self._retry is None or self._retry.callback is None:
            self._retry = self._loop.call_at(now + _KILL_RETRY_SECONDS, self._again)

    def _kill_sparing_others(self, took: float, stuck: float) -> bool:
        """Kill what does not belong to a background process; false where that cannot be told in time. ``took``: since
        the first of these calls; ``stuck``: since something that was killed went.
        """
        backgrounds, own = self._parts.backgrounds, self._supervisor
        keep = {process.supervisor for process in backgrounds.alive()}
        if not keep or own is None or backgrounds.strays or not (own.pid or own.clean) or not tree.can_see_processes():
            return False
        if took < _PASSES_SECONDS:
            tree.kill_outside(keep, own.pid)
        elif not self._killed_at_rest:
            self._killed_at_rest = True
            tree.at_rest(lambda: tree.kill_outside(keep, own.pid), own.pid)
        elif stuck < _COLLECTING_SECONDS and not (own.pid and tree.is_stopped(own.pid)):
            # A supervisor that was stopped before it started its program starts it now, and waits for its exec.
            tree.kill_outside(keep, own.pid)
        else:
            return False
        return True

    def _again(self) -> None:
        self._retry = None
        self._loop.reap()
        if self.status is None and self.reason is not None:
            self._kill()

    def _dismiss(self) -> None:
        for timer in (self._late, self._sampler, self._retry, self._cpu_watch):
            if timer is not None:
                timer.cancel()
        self._loop.reaped = self._loop.reaping = lambda: None
        self._loop.orphaned = lambda _used: None
        self._parts.in_step = False
