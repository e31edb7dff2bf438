"""Programs that outlive their step.

Each runs below a *supervisor*, a fork of the agent that inherits the orphans of its tree (a subreaper): so it stays
known which processes belong to it, however they fork, while everything else is killed between steps. The supervisor
is not dumpable, like the agent it was forked from.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time
from _struct import pack, unpack_from

from pytest_arl.agent import system, tree
from pytest_arl.agent.command import CannotStart, spawn
from pytest_arl.agent.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.command import Pipes
    from pytest_arl.agent.loop import Loop

__all__ = ["Background"]

_RETRY_SECONDS = 0.005
_MOST_DESCRIPTORS = 4096


class Background:
    """One background program.

    Attributes:
        status: its wait status, None while it runs (its descendants may live on after it).
        reason: why the agent ended it (``TimedOut``, ``Killed``), or None.
        supervisor: the pid below which its tree lives, or 0 once that is gone.
    """

    def __init__(self, loop: Loop, pipes: Pipes) -> None:
        self._loop = loop
        self.pipes = pipes
        self.supervisor = 0
        self.status: int | None = None
        self.reason: str | None = None
        self.ended = 0.0
        self._report = -1
        self._buffer = b""
        self._started: Callable[[CannotStart | None], None] | None = None
        self._waiters: list[Callable[[], None]] = []

    @property
    def alive(self) -> bool:
        """Whether anything of it lives."""
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
        self._started = started
        self._report, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = os.fork()
        if pid == 0:
            try:
                _supervise(report, argv, env, cwd, self.pipes.stdio, oom)
            finally:
                os._exit(1)
        os.close(report)
        self.supervisor = pid
        self._loop.child(pid, self._supervisor_ended)
        self._loop.add(self._report, READ, self._hear)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call once the program has ended; at once if it has."""
        if self.status is not None:
            callback()
        else:
            self._waiters.append(callback)

    def kill(self, reason: str) -> None:
        """End the program and everything it started."""
        if self.supervisor:
            if self.status is None:
                self.reason = self.reason or reason
            if tree.can_see_processes():
                self._kill_again()
            else:
                tree.kill_one(self.supervisor)

    def _kill_again(self) -> None:
        if self.supervisor:
            if tree.kill_below(self.supervisor):
                tree.kill_one(self.supervisor)
            else:
                self._loop.call_at(time.monotonic() + _RETRY_SECONDS, self._kill_again)

    def _hear(self, _events: int) -> None:
        data = os.read(self._report, 4096)
        self._buffer += data
        if not data:
            self._loop.remove(self._report)
            os.close(self._report)
            self._settle(int(_signal.SIGKILL))  # a supervisor that was killed has said nothing
            return
        while self._buffer:
            (size,) = unpack_from("=I", self._buffer)
            said, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            if said[:1] == b"X":
                self._settle(unpack_from("=i", said, 1)[0])
            elif said[:1] == b"S":
                self._tell_started(None)
            else:
                self._tell_started(CannotStart(unpack_from("=i", said, 1)[0], said[5:].decode()))

    def _tell_started(self, problem: CannotStart | None) -> None:
        started, self._started = self._started, None
        if started is not None:
            started(problem)

    def _settle(self, status: int) -> None:
        if self._started is not None:
            self._tell_started(CannotStart(126, "the sandbox's limit of processes or memory left no room for it"))
        if self.status is None:
            self.status = status
            self.ended = time.monotonic()
            for output in self.pipes.outputs:
                output.catch_up()
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter()

    def _supervisor_ended(self, _status: int) -> None:
        self.supervisor = 0


def _supervise(
    report: int,
    argv: list[bytes],
    env: dict[bytes, bytes],
    cwd: bytes,
    stdio: tuple[int, int, int],
    oom: Callable[[bytes], None],
) -> None:
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    system.subreaper()
    os.setsid()

    def say(what: bytes) -> None:
        os.write(report, pack("=I", len(what)) + what)

    try:
        main = spawn(argv, env, cwd, stdio, oom)
    except CannotStart as problem:
        say(b"E" + pack("=i", problem.code) + problem.reason.encode()[:2048])
        return
    say(b"S")
    os.closerange(0, report)
    os.closerange(report + 1, _MOST_DESCRIPTORS)
    try:
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == main:
                say(b"X" + pack("=i", status))
    except ChildProcessError:
        os._exit(0)
