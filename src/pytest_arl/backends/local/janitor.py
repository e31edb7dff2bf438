"""Starts and ends the janitor: the process that watches the sandboxes' memory, and cleans up after a pytest that was
killed.

A test that holds the interpreter's lock stops every thread of pytest, so pytest itself cannot watch. And nothing inside
a process can act on SIGKILL: where sandboxes have cgroups, which are folders that outlive everybody, a tiny second
process waits for this one's death and removes them. Without cgroups there is neither, and no janitor.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local import spawner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.backends.local.cgroups import RunCgroups

__all__ = ["Janitor"]

_PROGRAM = Path(__file__).with_name("janitor_program.py")
_SEND_SECONDS = 10.0


class Janitor:
    """The janitor of one :class:`RunCgroups`. One that dies is replaced when the next sandbox is made."""

    def __init__(self, run: RunCgroups) -> None:
        """Start it, in a session of its own; it takes the run's locks along. Raises OSError."""
        self._run = run
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        with ExitStack() as mine, ExitStack() as its:
            control, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            mine.callback(control.close)
            its.callback(inner.close)
            control.settimeout(_SEND_SECONDS)
            said = os.memfd_create("arl-janitor-stderr")
            mine.callback(os.close, said)
            owner = os.pidfd_open(os.getpid())
            its.callback(os.close, owner)
            interpreter = getattr(sys, "_base_executable", None) or sys.executable
            argv = [interpreter, "-I", "-S", "-B", str(_PROGRAM), str(inner.fileno()), str(owner)]
            argv += map(str, self._run.folders)
            process = spawner.spawn(argv, descriptors=(inner.fileno(), owner, *self._run.locks), stderr=said)
            mine.callback(process.wait)
            mine.callback(process.kill)
            process_descriptor = os.pidfd_open(process.pid)
            mine.callback(os.close, process_descriptor)
            mine.pop_all()
        self._control, self._said = control, said
        self._process, self._descriptor = process, process_descriptor

    @property
    def pid(self) -> int:
        """The janitor's process."""
        return self._process.pid

    def descriptor(self) -> int:
        """A pidfd of the janitor, of a new one where it has died. Raises OSError where none can be started."""
        with self._lock:
            if self._ended():
                self._give_back()
                self._start()
            return self._descriptor

    def watch(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Have a sandbox watched. Raises OSError, where the janitor is gone or does not listen."""
        with self._lock:
            socket.send_fds(self._control, [message], descriptors)

    def epitaph(self) -> str:
        """The end of a janitor that is gone, in words; empty while it lives."""
        with self._lock:
            if not self._ended():
                return ""
            lines = os.pread(self._said, 4096, 0).decode(errors="replace").strip().splitlines()
            return f"the process that watched its memory (pid {self.pid}) is gone{f': {lines[-1]}' if lines else ''}"

    def close(self) -> None:
        """Tell it that this run is done, and wait for its end. Call once, after the run's cgroups are removed."""
        self._give_back()

    def forget(self) -> None:
        """Close the copies, in a forked child, and leave the process to the parent."""
        self._control.close()
        for descriptor in (self._said, self._descriptor):
            with suppress(OSError):
                os.close(descriptor)
        self._process.returncode = 0  # not our child: nothing to wait for, nothing to warn of

    def _ended(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def _give_back(self) -> None:
        self._control.close()
        spawner.see_off(self._process)
        os.close(self._descriptor)
        os.close(self._said)
