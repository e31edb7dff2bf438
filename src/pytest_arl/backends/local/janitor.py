"""Starts and ends the janitor: the process that cleans up after a pytest that was killed.

Nothing inside a process can act on SIGKILL. Where sandboxes have cgroups, which are folders that outlive
everybody, a tiny second process waits for this one's death and removes them. Without cgroups there is
nothing to remove, and no janitor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_arl.backends.local import spawner

if TYPE_CHECKING:
    from pytest_arl.backends.local.cgroups import RunCgroups

__all__ = ["Janitor"]

_PROGRAM = Path(__file__).with_name("janitor_program.py")


class Janitor:
    """The running janitor of one :class:`RunCgroups`."""

    def __init__(self, process: spawner.Process, control: int) -> None:
        self._process = process
        self._control = control

    @property
    def pid(self) -> int:
        """The janitor's process."""
        return self._process.pid

    @classmethod
    def start(cls, run: RunCgroups) -> Self:
        """Start one in a session of its own; it takes the run's locks along."""
        with ExitStack() as stack:
            control, writer = os.pipe()
            stack.callback(os.close, control)
            owner = os.pidfd_open(os.getpid())
            stack.callback(os.close, owner)
            interpreter = getattr(sys, "_base_executable", None) or sys.executable
            argv = [interpreter, "-I", "-S", "-B", str(_PROGRAM), str(control), str(owner), *map(str, run.folders)]
            try:
                process = spawner.spawn(argv, descriptors=(control, owner, *run.locks), stderr=subprocess.DEVNULL)
            except BaseException:
                os.close(writer)
                raise
        return cls(process, writer)

    def close(self) -> None:
        """Tell it that this run is done, and wait for its end. Call once, after the run's cgroups are removed."""
        os.close(self._control)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child: close its copy of the pipe and leave the process to the parent."""
        with suppress(OSError):
            os.close(self._control)
        self._process.returncode = 0  # not our child: nothing to wait for, nothing to warn of
