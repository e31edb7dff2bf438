"""A program below a *supervisor*: how the agent knows, beside other programs, that nothing of one is left.

A supervisor is a fork of the agent that inherits the orphans of its tree (a subreaper), however they fork, and ends
when the kernel says that it has no child: then nothing of the tree lives. A look at /proc cannot tell, for a process
that forks and exits all the time is never where one looks. The supervisor is not dumpable, like the agent it was
forked from. It also takes the wait for the exec upon itself, which whoever runs beside it can draw out (by stopping
it).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time
from _struct import pack, unpack_from

from pytest_arl.agent import system, tree
from pytest_arl.agent.command import CannotStart, spawn
from pytest_arl.agent.loop import READ
from pytest_arl.agent.usage_meter import Sums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    from pytest_arl.agent.loop import Loop, Timer

__all__ = ["Supervisor"]

_START_SECONDS = 10.0
_TRIES = 20
_TRY_SECONDS = 0.001
_ENDED = "=iddqqqqqq"
"""A program's wait status, and what it and what ended before it have used."""
_OOM_SCORE = b"500"
"""More than the agent's: whatever runs below a supervisor is killed for memory before it."""


class Supervisor:
    """One supervisor and its program.

    Attributes:
        pid: below which the tree lives, or 0 once that is gone.
        clean: whether it ended by itself, and so after all of its tree. One that was killed has left orphans.
        sums: what its tree used: by the program's end what had ended then, and all of it once the supervisor is gone.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        started: Callable[[CannotStart | None], None],
        ended: Callable[[int], None],
        gone: Callable[[], None],
    ) -> None:
        """``started`` is called with None, or with why it did not start; then ``ended`` with the program's wait
        status, and ``gone`` when the supervisor itself is.
        """
        self._loop = loop
        self._started: Callable[[CannotStart | None], None] | None = started
        self._ended: Callable[[int], None] | None = ended
        self._gone = gone
        self.pid = 0
        self.clean = False
        self.sums = Sums()
        self._report = -1
        self._buffer = b""
        self._late: Timer | None = None

    def start(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cwd: bytes,
        stdio: tuple[int, int, int],
        oom: Callable[[bytes], None],
    ) -> None:
        """Start the program, which dies for memory before its supervisor does, and that before the agent."""
        report = -1
        oom(_OOM_SCORE)
        try:
            self._report, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pid = os.fork()
        except OSError as error:
            oom(b"0")
            for fd in (self._report, report):
                if fd >= 0:
                    os.close(fd)
            problem = CannotStart(126, os.strerror(error.errno or 0))
            self._loop.call_at(time.monotonic(), lambda: self._tell_started(problem))
            return
        if pid == 0:
            try:
                _supervise(report, argv, env, cwd, stdio)
            finally:
                os._exit(1)
        oom(b"0")
        os.close(report)
        self.pid = pid
        self._late = self._loop.call_at(time.monotonic() + _START_SECONDS, self._give_up)
        self._loop.child(pid, self._supervisor_ended)
        self._loop.add(self._report, READ, self._hear)

    def _hear(self, _events: int) -> None:
        try:
            data = os.read(self._report, 4096)
        except BlockingIOError:
            return
        self._buffer += data
        if not data:
            self._loop.remove(self._report)
            os.close(self._report)
            problem = "the sandbox's limit of processes or memory left no room for it, or it was killed"
            self._tell_started(CannotStart(126, problem))
            self._tell_ended(int(_signal.SIGKILL))  # a supervisor that was killed has said nothing
            return
        while self._buffer:
            (size,) = unpack_from("=I", self._buffer)
            said, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            if said[:1] == b"X":
                status, *figures = unpack_from(_ENDED, said, 1)
                if self.pid:  # else what all of it used is known already
                    self.sums.take(figures)
                self._tell_ended(status)
            elif said[:1] == b"S":
                self._tell_started(None)
            else:
                self._tell_started(CannotStart(unpack_from("=i", said, 1)[0], said[5:].decode("utf-8", "replace")))

    def _give_up(self) -> None:
        if self._started is not None:
            tree.kill_one(self.pid)
            self._tell_started(CannotStart(126, f"it was not started within {_START_SECONDS:.0f} s"))

    def _tell_started(self, problem: CannotStart | None) -> None:
        started, self._started = self._started, None
        if self._late is not None:
            self._late.cancel()
        if started is not None:
            if problem is not None:
                self._ended = None
            started(problem)

    def _tell_ended(self, status: int) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(status)

    def _supervisor_ended(self, status: int, used: struct_rusage) -> None:
        self.pid = 0
        self.sums = Sums()
        self.sums.add(used)
        self.clean = status == 0
        self._gone()


def _supervise(
    report: int, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, stdio: tuple[int, int, int]
) -> None:
    system.subreaper()
    os.setsid()

    def say(what: bytes) -> None:
        os.write(report, pack("=I", len(what)) + what)

    try:
        # The descriptor of the score is that of the agent's.
        main = spawn(argv, env, cwd, stdio, lambda _score: None)
    except CannotStart as problem:
        say(b"E" + pack("=i", problem.code) + problem.reason.encode()[:2048])
        os._exit(0)
    _die_first(main)
    os.closerange(0, report)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    say(b"S")  # from here on the program alone holds its ends of its pipes
    sums = Sums()
    try:
        while True:
            pid, status, used = os.wait4(-1, 0)
            sums.add(used)
            if pid == main:
                say(b"X" + pack(_ENDED, status, *sums.figures()))
    except ChildProcessError:
        os._exit(0)


def _die_first(pid: int) -> None:
    if not tree.can_see_processes():
        return
    for _ in range(_TRIES):
        try:
            with open("/proc/%d/oom_score_adj" % pid, "wb", 0) as file:  # noqa: UP031 - as in tree
                file.write(b"1000")
        except PermissionError:
            # The kernel lets the spawner go on a moment before the file is its user's; or nobody may read the program.
            time.sleep(_TRY_SECONDS)
        except OSError:
            return  # it has ended
        else:
            return
