"""The one thread that starts processes.

A thread that joins a sandbox's cgroup for the moment of a start must not be a caller's, whose other work would be
bounded with it; and a parent-death signal that a program in between may ask for is about the *thread* that started
it. So all are started by a thread that lives as long as the process and does nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import threading
import weakref
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

__all__ = ["Inherited", "SpawnedProcess", "carry_out", "close_in_forks", "hear_of_children", "kill", "see_off", "spawn"]

_UMASK = 0o022
_ROOM = 8
"""Numbers left free for those that Popen opens itself: /dev/null and the two ends of a pipe."""


_starting: weakref.WeakSet[ExitStack] = weakref.WeakSet()


def close_in_forks(descriptors: ExitStack) -> None:
    """Have each child that Python forks close its copies, which else keep a half-done start waiting after our death.

    For those that are there for the moments of a start only; once the stack is closed here, nothing is done there.
    """
    _starting.add(descriptors)


def _close_in_fork() -> None:
    for descriptors in list(_starting):
        descriptors.close()


os.register_at_fork(after_in_child=_close_in_fork)


def hear_of_children() -> None:
    """Have SIGCHLD do its work where whoever started this process ignored it (a shell's ``trap '' CHLD``).

    The kernel then forgets how a child ended, and all that it starts inherits that: bubblewrap 0.11.0 waits for ever.
    Raises BackendUnavailable in a thread that may not change it.
    """
    __tracebackhide__ = True
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except ValueError:
            raise BackendUnavailable(
                "this process ignores SIGCHLD, so sandboxes cannot be monitored: start it without that, or call "
                "signal.signal(signal.SIGCHLD, signal.SIG_DFL) in its main thread first"
            ) from None


class Inherited:
    """Descriptors for a process about to be started, under numbers that make its start quick; closed at its end.

    CPython closes the child's others by close_range(2), from each number that is kept to the next. Where two kept ones
    are neighbours there is nothing in between, the empty range is refused with EINVAL, and CPython walks through
    /proc/self/fd instead: 2 us for each descriptor of this process, which has six for each living sandbox (seen with
    strace, CPython 3.11; with 3,000 descriptors a start takes 0.2 or 6 ms). So no two of these are neighbours.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._stack.callback(self._close_all)
        close_in_forks(self._stack)
        self._least = 0
        self._open: list[int] = []
        self.numbers: list[int] = []

    def share(self, descriptor: int) -> int:
        """The number it has in the child; the caller keeps its own. Raises OSError where there are too many."""
        try:
            number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, self._least or descriptor + _ROOM)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from None  # the number wanted is beyond the limit
        self._open.append(number)
        self._least = number + 2
        self.numbers.append(number)
        return number

    def give(self, descriptor: int) -> int:
        """The same for one that only the child needs."""
        try:
            return self.share(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close what is for the child. Idempotent."""
        self._stack.close()

    def _close_all(self) -> None:
        while self._open:
            os.close(self._open.pop())


class SpawnedProcess(Protocol):
    """A started child: what is used of :class:`subprocess.Popen`."""

    pid: int
    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""

    def kill(self) -> None:
        """Send SIGKILL."""


class _Order:
    """One process asked for; ``done`` is set when ``process`` or ``error`` is there."""

    def __init__(self, start: Callable[[], SpawnedProcess]) -> None:
        self.start = start
        self.done = threading.Event()
        self.cancelled = False
        self.process: SpawnedProcess | None = None
        self.error: BaseException | None = None

    def carry_out(self) -> None:
        if self.cancelled:
            self.done.set()
            return
        try:
            self.process = self.start()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            self.error = error
        finally:
            self.done.set()

    def end(self) -> None:
        """End what was started: no caller waits for it."""
        if self.process is not None:
            _end(self.process)


def _end(process: SpawnedProcess) -> None:
    kill(process)
    process.wait()


class _Spawner:
    """A daemon thread and its queue; made on first use, and anew in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: SimpleQueue[_Order] | None = None

    def submit(self, order: _Order) -> None:
        with self._lock:
            if self._orders is None:
                self._orders = SimpleQueue()
                threading.Thread(target=self._serve, args=(self._orders,), name="arl-spawner", daemon=True).start()
            self._orders.put(order)

    @staticmethod
    def _serve(orders: SimpleQueue[_Order]) -> None:
        while True:
            orders.get().carry_out()

    def forget(self) -> None:
        """Begin anew in a forked child: the thread is gone there, and the lock's holder may be."""
        self.__init__()  # type: ignore[misc]  # the same fresh state as at import


_spawner = _Spawner()
os.register_at_fork(after_in_child=_spawner.forget)


def spawn(
    argv: Sequence[str],
    *,
    descriptors: Sequence[int],
    stderr: int,
    inside: AbstractContextManager[object] | None = None,
    env: Mapping[str, str] | None = None,
) -> SpawnedProcess:
    """Start a process in a session of its own, with these descriptors and no others, and ``env`` for an environment.

    ``inside`` is entered by the thread that starts it, and left once it is started. Raises OSError as Popen does. The
    caller owns the process.
    """

    def start() -> SpawnedProcess:
        with ExitStack() as stack:
            with inside or nullcontext():
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=descriptors,
                    close_fds=True,
                    env=env or {},
                    cwd="/",
                    start_new_session=True,
                    umask=_UMASK,
                )
                stack.callback(_end, process)
            stack.pop_all()
        return process

    return carry_out(start)


def carry_out(start: Callable[[], SpawnedProcess]) -> SpawnedProcess:
    """Have a process started by the one thread that does so."""
    order = _Order(start)
    _spawner.submit(order)
    try:
        order.done.wait()
    except BaseException:
        # Interrupted: the caller is about to close the descriptors, whose numbers then mean something else.
        order.cancelled = True
        order.done.wait()
        order.end()
        raise
    if order.error is not None:
        raise order.error
    assert order.process is not None
    return order.process


def see_off(process: SpawnedProcess, seconds: float = 5.0) -> None:
    """Wait for a process that was told to end, and kill it where it has not after so many seconds."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill(process: SpawnedProcess) -> None:
    """Kill a bubblewrap that is still starting, and the process it may have forked already.

    That one waits for a word of bubblewrap and would not notice its death, so it has to die first.
    """
    pid = process.pid
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    process.kill()
