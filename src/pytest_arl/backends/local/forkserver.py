"""A process in a cgroup of ours that starts others right inside their cgroups.

An ordinary user may move a process only between cgroups below one that belongs to the user, and a session's does not.
So what starts the sandboxes has to be where they are to be: a small server, which systemd places in a scope of its own
(:mod:`pytest_arl.backends.local.scopes`), while pytest itself stays where the user started it. What it starts are
children of pytest as if pytest had forked them.

There is one server for a process, from the first sandbox to the process's end, and none in version 1.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_arl.backends.local import spawner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["MOST_DESCRIPTORS", "Child", "ForkServer", "NoForkServer"]

_PROGRAM = Path(__file__).with_name("forkserver_program.py")
_START_SECONDS = 10.0
"""Time for Python to start, on a machine that is busy."""
_ANSWER_SECONDS = 60.0
"""Time for a fork and an exec, which take 1 ms."""
_END_SECONDS = 5.0
MOST_DESCRIPTORS = 253
"""Most descriptors in one message: SCM_MAX_FD, of Linux."""


class NoForkServer(Exception):
    """It could not be started; the text says why."""


class Child:
    """A started process: as much of :class:`subprocess.Popen` as is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the number of the signal. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        with suppress(ProcessLookupError):  # reaped meanwhile by another thread
            ended = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                left = None if end is None else max(0.0, end - time.monotonic()) * 1000
                if self.returncode is None and not poll.poll(left):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            finally:
                os.close(ended)
        return self._reap()

    def _reap(self) -> int:
        with self._lock:
            if self.returncode is None:
                try:
                    self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                except ChildProcessError:  # someone waits for all children: its status is lost, as with Popen
                    self.returncode = 0
            return self.returncode

    def kill(self) -> None:
        """Send SIGKILL, unless it has been waited for."""
        with self._lock:
            if self.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """A running server."""

    def __init__(self, process: spawner.SpawnedProcess, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._alive = True
        _servers.append(self)

    @classmethod
    def start(
        cls,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        seconds: float = _START_SECONDS,
        begun: Callable[[int], bool] = lambda _: True,
    ) -> Self:
        """Start one. Raises NoForkServer.

        Args:
            prefix: a command that executes the rest of its arguments, in the same process.
            env: that command's environment.
            seconds: for the prefix to get there.
            begun: whether it got there, given the pid: if so the rest may take its time.
        """
        with ExitStack() as stack:
            stderr = os.memfd_create("arl-forkserver-stderr")
            stack.callback(os.close, stderr)
            control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(inner.close)
            owner = os.pidfd_open(os.getpid())
            stack.callback(os.close, owner)
            interpreter = getattr(sys, "_base_executable", None) or sys.executable
            argv = [*prefix, interpreter, "-I", "-S", "-B", str(_PROGRAM), str(inner.fileno()), str(owner)]
            try:
                process = spawner.spawn(argv, descriptors=(inner.fileno(), owner), stderr=stderr, env=env)
            except OSError as error:
                control.close()
                raise NoForkServer(f"{argv[0]}: {error.strerror}") from None
            inner.close()
            server = cls(process, control)
            undo = stack.enter_context(ExitStack())
            undo.callback(server.close)
            undo.callback(process.kill)
            if not _greeted(control, seconds) and not (begun(process.pid) and _greeted(control, _START_SECONDS)):
                raise NoForkServer(_last_line(stderr) or f"no answer within {seconds:.0f} s")
            undo.pop_all()
        return server

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True if it can be asked."""
        if not self._alive:
            return False
        poll = select.poll()
        poll.register(self._control, 0)  # the end alone: another thread may be about to read an answer
        return not poll.poll(0)

    def spawn(self, argv: Sequence[str], descriptors: Sequence[int], stderr: int, cgroup: int) -> Child:
        """Start a process in a cgroup, given by a descriptor of its folder, as :func:`spawner.spawn` does elsewhere.

        For the spawner's thread. Raises OSError.
        """
        given = [cgroup, stderr, *descriptors]
        command = b"".join(b"\0" + os.fsencode(word) for word in argv)
        for sent in range(0, len(given), MOST_DESCRIPTORS):
            part = given[sent : sent + MOST_DESCRIPTORS]
            # The first two have no numbers: the cgroup is not for the program, standard error's is known.
            words = [sent, *(part if sent else part[2:])]
            last = command if sent + len(part) == len(given) else b""
            pid, code = self._asked(b" ".join(b"%d" % word for word in words) + last, part)
            if code:
                break
        if code:
            if pid:
                Child(pid).wait()
            raise OSError(code, os.strerror(code), argv[0])
        return Child(pid)

    def _asked(self, packet: bytes, descriptors: Sequence[int]) -> tuple[int, int]:
        """The server's answer to a part of a request: a pid and an error number, both 0 where there is more to come."""
        socket.send_fds(self._control, [packet], descriptors)
        try:
            answer = self._control.recv(64)
        except OSError as error:
            self._alive = False  # an answer that comes late would be taken for the next one's
            raise OSError(error.errno or errno.ETIMEDOUT, f"the fork server does not answer ({error})") from None
        if not answer:
            self._alive = False
            raise OSError(errno.EPIPE, "the fork server, which starts sandboxes in their cgroups, was ended")
        pid, code = map(int, answer.split())
        return pid, code

    def close(self) -> None:
        """End it. Idempotent."""
        with suppress(ValueError):
            _servers.remove(self)
        self._alive = False
        self._control.close()
        spawner.see_off(self._process, _END_SECONDS)

    def forget(self) -> None:
        """Leave the server to the parent, in a forked child."""
        self._alive = False
        self._control.close()
        self._process.returncode = 0  # not our child: nothing to wait for, nothing to warn of


def _greeted(control: socket.socket, seconds: float) -> bool:
    control.settimeout(seconds)
    try:
        return control.recv(16) == b"ready"
    except OSError:
        return False
    finally:
        control.settimeout(_ANSWER_SECONDS)


def _last_line(descriptor: int) -> str:
    lines = os.pread(descriptor, 4000, 0).decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


_servers: list[ForkServer] = []


def _forget_all() -> None:
    for server in _servers:
        server.forget()
    _servers.clear()


def _close_all() -> None:
    for server in _servers:
        server.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
