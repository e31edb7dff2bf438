"""Resources that all sandboxes of this process share: a handle on this process, the run's cgroups, and the janitor.

There is one of each for a process, however many backends it makes: made with the first sandbox, given back when the
last backend is closed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.agent_package.bundle import bundle
from pytest_arl.backends.local.cgroups import RunCgroups, sweep
from pytest_arl.backends.local.hierarchies import NoCgroups, serve
from pytest_arl.backends.local.janitor import Janitor
from pytest_arl.backends.local.propagation import Propagation
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from pytest_arl.backends.local.hierarchies import Hierarchies
    from pytest_arl.backends.local.probe import Host

__all__ = ["ProcessResources", "janitor_pid", "release", "take"]

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class ProcessResources:
    """Resources for the start of a sandbox, beside its plan.

    Attributes:
        owner: a pidfd of this process.
        agent: the agent's code, in a memory file that nobody can change.
        privileged: whether each sandbox gets a uid.
        cgroups: where their limits are, or None.
        janitor: who watches their memory, where there are cgroups.
        propagation: who sets them apart from mounts that are made later.
    """

    owner: int
    agent: int
    privileged: bool
    cgroups: RunCgroups | None
    janitor: Janitor | None
    propagation: Propagation


class _Shared:
    """The one of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stack = ExitStack()
        self._owner = self._agent = -1
        self._cgroups: RunCgroups | None = None
        self.janitor: Janitor | None = None
        self._propagation: Propagation | None = None

    def take(self, host: Host) -> ProcessResources:
        with self._lock:
            if self._owner < 0:
                self._owner = os.pidfd_open(os.getpid())
                self._stack.callback(os.close, self._owner)
                self._agent = _sealed(bundle())
                self._stack.callback(os.close, self._agent)
            if host.hierarchies is not None and self._cgroups is None:
                self._start(host.hierarchies)
            if self._propagation is None:
                self._propagation = Propagation(privileged=host.privileged)
                self._stack.callback(self._propagation.close)
            self._users += 1
            cgroups, janitor = (self._cgroups, self.janitor) if host.cgroups else (None, None)
            return ProcessResources(self._owner, self._agent, host.privileged, cgroups, janitor, self._propagation)

    def _start(self, hierarchies: Hierarchies) -> None:
        try:
            hierarchies = serve(hierarchies)
            cgroups = RunCgroups(hierarchies)
        except (NoCgroups, OSError) as error:
            raise BackendUnavailable(f"cgroups for sandboxes cannot be made: {error}") from None
        # Before any sandbox: from here on something would be left behind.
        self.janitor = Janitor(cgroups)
        self._stack.callback(self.janitor.close)
        self._stack.callback(cgroups.close)
        self._cgroups = cgroups
        threading.Thread(target=sweep, args=(hierarchies,), name="arl-sweep", daemon=True).start()

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                stack = self._stack
                self._reset()
                stack.close()

    def _reset(self) -> None:
        self._stack = ExitStack()
        self._owner = self._agent = -1
        self._cgroups = self.janitor = self._propagation = None

    def forget(self) -> None:
        """Close the copies of the descriptors, in a forked child: the rest is the parent's."""
        if self._cgroups is not None:
            self._cgroups.forget()
        if self.janitor is not None:
            self.janitor.forget()
        if self._propagation is not None:
            self._propagation.forget()
        for descriptor in (self._owner, self._agent):
            if descriptor >= 0:
                os.close(descriptor)
        self._stack.pop_all()
        self._lock = threading.Lock()
        self._users = 0
        self._reset()


def _sealed(data: bytes) -> int:
    """A memory file of these bytes: shared by all sandboxes, none of which can change it."""
    descriptor = os.memfd_create("arl-agent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_shared = _Shared()
os.register_at_fork(after_in_child=_shared.forget)


def take(host: Host) -> ProcessResources:
    """Open them for one backend, which calls :func:`release` when it is closed. Raises BackendUnavailable."""
    return _shared.take(host)


def release() -> None:
    """A backend is closed."""
    _shared.release()


def janitor_pid() -> int | None:
    """The janitor's process, where there is one."""
    return _shared.janitor.pid if _shared.janitor is not None else None
