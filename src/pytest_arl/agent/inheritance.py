"""Limits, priority and processors: every step inherits the agent's, and a step of the same user may change these.

Neither prlimit(2) nor the calls about priority and processors ask whether a process is dumpable, so a step may set all
of it, of PID 1 too. Later steps would inherit the change, and fail or take longer for no fault of their own. So it is
looked at before the next one starts.
"""

from __future__ import annotations

import os
import resource

from pytest_arl.agent import system

__all__ = ["Inheritance", "Taken"]

_LIMITS = [(name, getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
_MOST_BYTES = 8192
_MOST_PROCESSORS = 8192


class Taken(Exception):
    """Something was taken from the agent that it cannot have back."""


class Inheritance:
    """The limits, priority and processors that the agent had before any step ran.

    Looked at once a task is over, when nobody waits for it, and where something has run since then, before a step.
    """

    def __init__(self) -> None:
        try:
            # One call for all sixteen limits. The kernel checks the right to read it when it is opened, and not again.
            self._fd = os.open("/proc/self/limits", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        self._limits = {kind: resource.getrlimit(kind) for _, kind in _LIMITS}
        self._seen = self._look()
        self._processors = os.sched_getaffinity(0)
        self._priority = self._standing()
        self._clean = True

    def check(self) -> None:
        """Check before a step. Raises Taken where the step would inherit less than the first one did."""
        if not self._clean:
            self.restore()
        self._clean = False

    def settle(self) -> None:
        """Restore when nothing of the sandbox lives, until the next step. Raises Taken as ``check`` does."""
        self.restore()
        self._clean = True

    def restore(self) -> None:
        """Put back what was changed."""
        if self._look() != self._seen:
            self._restore_limits()
        if self._standing() != self._priority:
            self._restore_priority()
        if os.sched_getaffinity(0) != self._processors:
            self._restore_processors()
        system.reset_disk_priority()

    def _look(self) -> object:
        if self._fd < 0:
            return [resource.getrlimit(kind) for _, kind in _LIMITS]
        return os.pread(self._fd, _MOST_BYTES, 0)

    @staticmethod
    def _standing() -> tuple[int, int]:
        """Nice value and scheduling policy."""
        return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)

    def _restore_limits(self) -> None:
        for name, kind in _LIMITS:
            own = self._limits[kind]
            if resource.getrlimit(kind) == own:
                continue
            try:
                resource.setrlimit(kind, own)
            except (OSError, ValueError):
                raise Taken("a step has lowered the agent's own " + name + ", which cannot be raised again") from None

    def _restore_priority(self) -> None:
        nice, policy = self._priority
        try:
            os.sched_setscheduler(0, policy, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError:
            raise Taken("a step has lowered the agent's own priority, which cannot be raised again") from None

    def _restore_processors(self) -> None:
        """All that the container may use, which the kubelet may have changed meanwhile."""
        os.sched_setaffinity(0, range(_MOST_PROCESSORS))
        self._processors = os.sched_getaffinity(0)
