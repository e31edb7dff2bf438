"""Waiting: one place for descriptors, timers and ended children. Nothing else in the agent blocks."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import select
import time

from pytest_arl.agent import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

__all__ = ["READ", "WRITE", "Loop", "Timer"]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_MOST_AT_ONCE = 1000
_SIGNALS_BYTES = 4096  # signals of one kind wait as one
_LONGEST_SECONDS = 3600.0  # epoll counts milliseconds in 32 bits; whoever waits longer waits again


class Timer:
    """A call that is due at a moment of the monotonic clock, unless cancelled before."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget it. A timer that ran or was cancelled before is no error."""
        self.callback = None


class Loop:
    """An epoll loop. Handlers get the events of their descriptor; an exception in one ends the agent.

    A handler may be called though nothing is ready: where its descriptor took the number of one that was closed in the
    same round. So all descriptors here are non-blocking, and a handler that finds nothing returns.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._children: dict[int, Callable[[int, struct_rusage], None]] = {}
        self.after: Callable[[], None] = lambda: None
        """Called once after each round, to send what the round produced."""
        self._afterwards: list[Callable[[], None]] = []
        self.reaped: Callable[[], None] = lambda: None
        """Called after children were collected, orphans too."""
        self.reaping: Callable[[], None] = lambda: None
        """Called before they are: what they leave is not lost yet."""
        self.orphaned: Callable[[struct_rusage], None] = lambda _used: None
        """Called with what an orphan used that was collected."""
        self.childless = True
        """True if no child was left at the last look: PID 1 inherits every orphan, so nothing else then lives in
        its namespace.
        """
        self._watch_children()

    def add(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(events)`` when ``fd`` is ready."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Wait for other events of the same descriptor; 0 waits for errors only."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop waiting. Before the descriptor is closed."""
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once, at or soon after ``when`` (seconds of time.monotonic())."""
        timer = Timer(when, callback)
        self._timers.append(timer)
        return timer

    def call_afterwards(self, callback: Callable[[], None]) -> None:
        """Call once what this round produced has been sent: for what nobody waits for."""
        self._afterwards.append(callback)

    def child(self, pid: int, ended: Callable[[int, struct_rusage], None]) -> None:
        """Call ``ended(wait_status, used)`` once that child is reaped. What it used has the children in it that it has
        waited for itself.
        """
        self._children[pid] = ended
        self.childless = False

    def run(self) -> None:
        """Serve for ever."""
        handlers = self._handlers
        poll = self._epoll.poll
        while True:
            for fd, events in poll(self._timeout()):
                handler = handlers.get(fd)  # gone where an earlier event of the round removed it
                if handler is not None:
                    handler(events)
            if self._timers:
                self._run_due()
            self.after()
            if self._afterwards:
                afterwards, self._afterwards = self._afterwards, []
                for callback in afterwards:
                    callback()

    def reap(self) -> None:
        """Collect every child that has ended, ours and orphans, and tell who waits for them."""
        ended = []
        self.childless = False
        self.reaping()
        try:
            for _ in range(_MOST_AT_ONCE):
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                callback = self._children.pop(pid, None)
                if callback is not None:
                    ended.append((callback, status, used))
                else:
                    self.orphaned(used)
            else:
                self.call_at(0.0, self.reap)  # they come as fast as they are collected: timers have their turn
        except ChildProcessError:
            self.childless = True
        for callback, status, used in ended:
            callback(status, used)
        self.reaped()

    def _timeout(self) -> float:
        if not self._timers:
            return -1
        left = min(timer.when for timer in self._timers) - time.monotonic()
        return max(0.0, min(left, _LONGEST_SECONDS))

    def _run_due(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer.when <= now]
        self._timers = [timer for timer in self._timers if timer.when > now and timer.callback is not None]
        for timer in due:
            if timer.callback is not None:  # not cancelled, by one before it either
                timer.callback()

    def _watch_children(self) -> None:
        ended = system.signal_fd(_signal.SIGCHLD)

        def wake(_events: int) -> None:
            os.read(ended, _SIGNALS_BYTES)
            self.reap()

        self.add(ended, READ, wake)
