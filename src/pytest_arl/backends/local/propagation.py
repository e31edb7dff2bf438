"""Has no mount that is made on this machine later appear in a sandbox.

bubblewrap makes the mounts of a sandbox *slaves* of this machine's, and most distributions share all of theirs: what is
mounted here below a source afterwards would be mounted in the sandbox too, and could be written to though the source is
read-only. bubblewrap has no option against it. So before the first step the sandbox's mount namespace is entered and
all of it made private: by a thread where pytest is root, else by a process of its own, for the kernel lets no process
with threads enter a user namespace.
"""

from __future__ import annotations

import _thread
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.propagation_program import make_private
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ending", "Propagation"]

_PROGRAM = Path(__file__).with_name("propagation_program.py")
_SECONDS = 30.0
"""Time for Python to start and a few system calls, on a machine that is busy."""
_SIGNS = (b" master:", b" shared:")
"""Signs in a line of mountinfo(5), whose paths have no space: a mount that others are made in, too."""


class Propagation:
    """Ends it for one sandbox after another; owns the process that does so for an ordinary user."""

    def __init__(self, *, privileged: bool) -> None:
        """``privileged``: sandboxes have no user namespace."""
        self._privileged = privileged
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: spawner.SpawnedProcess | None = None

    def end(self, pid: int, child: int) -> Ending:
        """Prepare the sandbox whose first process has that pid out here; ``child`` is its pidfd.

        Its agent runs, so all of its mounts are made, and no step may before :meth:`Ending.wait`. Raises
        BackendUnavailable, and ChannelLost where the sandbox has ended: why, others know.
        """
        try:
            return self._enter(pid, child) if _receives(pid) else Ending(pid)
        except OSError as error:
            if _has_ended(child):
                raise ChannelLost("the sandbox ended while it started") from None
            raise _failure(error) from None

    def _enter(self, pid: int, child: int) -> Ending:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _require_alive(child)  # else the pid may have been another's
            if not self._privileged:
                return Ending(pid, *self._ask(namespace))
            _in_a_thread(namespace)
            return Ending(pid, _nothing)
        finally:
            os.close(namespace)

    def _ask(self, namespace: int) -> tuple[Callable[[], None], socket.socket]:
        """Ask the process. The function waits for its answer, which comes by that socket."""
        answers, answering = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with answering, self._lock:
            if self._control is None:
                self._start()
            assert self._control is not None
            control = self._control
            with suppress(OSError):  # it is gone: then no answer comes either
                socket.send_fds(control, [b"?"], [namespace, answering.fileno()])

        def hear() -> None:
            with answers:
                answers.settimeout(_SECONDS)
                answer = answers.recv(16)
            if not answer:
                with self._lock:
                    if self._control is control:
                        self._give_back()  # the next sandbox has another
                raise OSError(0, "the process that does it is gone")
            if answer != b"0":
                raise OSError(int(answer), os.strerror(int(answer)))

        return hear, answers

    def _start(self) -> None:
        control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owner = os.pidfd_open(os.getpid())
        interpreter = getattr(sys, "_base_executable", None) or sys.executable
        argv = [interpreter, "-I", "-S", "-B", str(_PROGRAM), str(inner.fileno()), str(owner)]
        try:
            process = spawner.spawn(argv, descriptors=(inner.fileno(), owner), stderr=subprocess.DEVNULL)
        except BaseException:
            control.close()
            raise
        finally:
            inner.close()
            os.close(owner)
        control.settimeout(_SECONDS)  # for its queue to have room
        self._control, self._process = control, process

    def _give_back(self) -> None:
        if self._control is None or self._process is None:
            return
        self._control.close()
        spawner.see_off(self._process)
        self._control = self._process = None

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._lock:
            self._give_back()

    def forget(self) -> None:
        """Close the copy, in a forked child, and leave the process to the parent."""
        self._lock = threading.Lock()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.returncode = 0  # not our child: nothing to wait for, nothing to warn of
        self._control = self._process = None


class Ending:
    """One sandbox's, under way while its agent becomes what it is to be."""

    def __init__(self, pid: int, hear: Callable[[], None] | None = None, answers: socket.socket | None = None) -> None:
        """``hear`` waits until it is done, by ``answers``; None where nothing was to be done."""
        self._pid = pid
        self._hear = hear
        self._answers = answers

    def close(self) -> None:
        """Wait for nothing any more. Idempotent."""
        if self._answers is not None:
            self._answers.close()

    def wait(self) -> None:
        """Raise BackendUnavailable where it is not done."""
        hear, self._hear = self._hear, None
        if hear is None:
            return
        try:
            hear()
            if _receives(self._pid):
                raise _failure(OSError(0, "they still follow them"))
        except OSError as error:
            raise _failure(error) from None


def _failure(error: OSError) -> BackendUnavailable:
    return BackendUnavailable(
        f"a sandbox's mounts cannot be isolated from later mounts of this machine: {error.strerror or error}. If a "
        "security profile forbids that to Python, run `unshare --user --map-current-user --mount pytest ...`"
    )


def _nothing() -> None:
    """There is no answer to wait for."""


def _receives(pid: int) -> bool:
    """True if a mount that a process sees has others made in it by mounts elsewhere."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:  # noqa: PTH123 - twice for each sandbox
        table = file.read()
    return any(sign in table for sign in _SIGNS)


def _require_alive(child: int) -> None:
    if _has_ended(child):
        raise OSError(0, "it has ended")


def _has_ended(child: int) -> bool:
    poll = select.poll()
    poll.register(child, select.POLLIN)
    return bool(poll.poll(0))


def _in_a_thread(namespace: int) -> None:
    """The thread ends there: it has a root and a working directory of its own by then, and no other has changed.

    None of :mod:`threading`'s, in which a debugger or a coverage tool could look for files.
    """
    done = _thread.allocate_lock()
    done.acquire()
    problem: list[OSError] = []

    def enter() -> None:
        try:
            make_private(namespace, of_user=False)
        except OSError as error:
            problem.append(error)
        finally:
            done.release()

    _thread.start_new_thread(enter, ())
    done.acquire()
    if problem:
        raise problem[0]
