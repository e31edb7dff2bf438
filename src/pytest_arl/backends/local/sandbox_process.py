"""One sandbox's processes, as this side sees them: started, bounded, ended.

A :class:`SandboxProcess` owns everything of a sandbox that is outside of it (bubblewrap's process, descriptors, the
cgroup, the uid) and gives all of it back in :meth:`SandboxProcess.close`, once, from any thread.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from pytest_arl.agent import tree
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.identity import new_name
from pytest_arl.backends.local.inherited_limits import detach
from pytest_arl.backends.local.launch import Launch
from pytest_arl.backends.local.namespaces import INNER_ID
from pytest_arl.backends.local.plan import HOME, TMP, WORKSPACE, Plan
from pytest_arl.backends.local.probe import examine
from pytest_arl.backends.local.uids import UidLease
from pytest_arl.backends.local.watch_setup import WatchSetup
from pytest_arl.errors import BackendUnavailable, SandboxTimeout
from pytest_arl.text.units import format_quantity

if TYPE_CHECKING:
    from pytest_arl.backends.local.cgroups import Cgroup, RunCgroups
    from pytest_arl.backends.local.process_resources import ProcessResources
    from pytest_arl.backends.local.propagation import Ending

__all__ = ["SandboxProcess"]

_END_SECONDS = 5.0
"""Time for a killed sandbox to be gone. Freeing a full workspace and 6,500 processes took less than one."""
_cpus = itertools.count()


class SandboxProcess:
    """A started sandbox, whose agent waits for its config on :attr:`connection`.

    Attributes:
        name: the sandbox's, which is its hostname too.
    """

    def __init__(self, plan: Plan, resources: ProcessResources, deadline: float, hidden: tuple[str, ...] = ()) -> None:
        """Start one, in which nothing is to be seen of the files that are ``hidden``.

        Raises BackendUnavailable, SandboxTimeout (at ``deadline``, in monotonic seconds).
        """
        self._plan = plan
        self.name = new_name(plan.pool.name)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._child = -1
        self._pid = -1
        self._watch: WatchSetup | None = None
        self._apart: Ending | None = None
        try:
            self._start(resources, deadline, hidden)
        except OSError as error:
            self._stack.close()
            reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
            cure = ""
            if error.errno in (errno.EMFILE, errno.ENFILE):
                cure = f" (it needs {len(plan.held)} for what its pool mounts): raise `ulimit -n`"
            raise BackendUnavailable(
                f"a sandbox of pool {plan.pool.name!r} cannot be started: {reason}{cure}"
            ) from None
        except BaseException:
            self._stack.close()
            raise

    def _start(self, resources: ProcessResources, deadline: float, hidden: tuple[str, ...]) -> None:
        plan, keep = self._plan, self._stack
        self._propagation = resources.propagation
        lease = self._lease = UidLease.take() if resources.privileged else None
        if lease is not None:
            keep.callback(lease.close)
        self._cgroup = self._make_cgroup(resources.cgroups)
        if self._cgroup is not None and resources.janitor is not None:
            self._watch = WatchSetup(resources.janitor, self._cgroup, plan.limits, keep)
        self._stderr = os.memfd_create("arl-bwrap-stderr")
        keep.callback(os.close, self._stderr)
        with closing(spawner.Inherited()) as inherited:
            self.connection, inner = socket.socketpair()
            keep.callback(self.connection.close)
            connection = inherited.give(inner.detach())
            owner = inherited.share(resources.owner)
            agent = inherited.share(resources.agent)
            self.config = self._configure(lease, inherited)
            start = Launch(inherited, keep, plan.sources)
            self._process = start.bubblewrap(
                plan.bwrap,
                plan.arguments_without(hidden),
                [*plan.command, str(agent), str(connection), str(owner)],
                self.name,
                lease.uid if lease is not None else INNER_ID,
                self._stderr,
                self._cgroup,
            )
            keep.callback(self._end)
        child = start.child_pid(deadline)
        if child is None:
            raise self._failure(deadline)
        self._place(child)
        start.go()

    def _make_cgroup(self, run: RunCgroups | None) -> Cgroup | None:
        if run is None:
            return None
        try:
            cgroup = run.create(self._plan.limits)
        except OSError as error:
            raise BackendUnavailable(f"a cgroup for a sandbox cannot be made: {error}") from None
        self._stack.callback(cgroup.remove)
        return cgroup

    def _configure(self, lease: UidLease | None, inherited: spawner.Inherited) -> AgentConfig:
        plan, cgroup = self._plan, self._cgroup
        return AgentConfig(
            uid=lease.uid if lease else None,
            gid=lease.uid if lease else None,
            workspace=WORKSPACE,
            home=HOME,
            tmp=TMP,
            env=plan.env,
            rlimits=plan.rlimits,
            spool_fd=inherited.give(_unnamed_file()),
            spool_bytes=plan.pool.most_printed,
            oom_fd=inherited.share(cgroup.oom_descriptor) if cgroup else None,
            pids_fd=inherited.share(cgroup.pids_descriptor) if cgroup else None,
            cpu_fd=inherited.share(cgroup.cpu_descriptor) if cgroup and cgroup.cpu_descriptor is not None else None,
            lock_fd=inherited.share(lease.descriptor) if lease else None,
            memory=plan.memory,
            processes=plan.pool.processes,
            watch=self._watch.config(inherited, plan.counted) if self._watch else None,
            cpu_time=plan.pool.cpu_time,
        )

    def _place(self, child: int) -> None:
        """Bound PID 1 of the sandbox while it still waits: it has no children yet, so nothing escapes."""
        try:
            self._child, self._pid = os.pidfd_open(child), child
            detach(child, self._plan.rlimits, privileged=self._lease is not None)
            if self._cgroup is not None and not self._cgroup.joins:
                self._cgroup.add(child)
            if self._plan.limits.cpus is not None and (self._cgroup is None or not self._cgroup.limits_cpus):
                os.sched_setaffinity(child, _share_of_cpus(self._plan.limits.cpus))
        except OSError as error:
            raise BackendUnavailable(f"the limits of the sandbox cannot be set: {error}{_said(self._stderr)}") from None

    def _failure(self, deadline: float) -> Exception:
        if time.monotonic() >= deadline:
            return SandboxTimeout(
                f"bubblewrap did not start a sandbox of pool {self._plan.pool.name!r} in time{_said(self._stderr)}"
            )
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return BackendUnavailable(self.explain())

    def watch(self) -> None:
        """Bound its memory and its view from now on: its agent runs, and has started nothing yet.

        Raises BackendUnavailable.
        """
        self._apart = self._propagation.end(self._pid, self._child)
        self._stack.callback(self._apart.close)
        if self._watch is not None:
            self._watch.start(self._pid, self._child, self._process.pid, self._plan.counted)

    def settle(self) -> None:
        """Wait for what :meth:`watch` has begun: its agent is ready. Raises BackendUnavailable."""
        if self._apart is not None:
            self._apart.wait()

    def explain(self, reason: str = "") -> str:
        """The reason why there is no sandbox, from the words of bubblewrap or the agent."""
        why = reason or f"bubblewrap failed{_said(self._stderr)}"
        now = examine((self._plan.bwrap,))  # it worked before: what keeps it from that now, if anything does
        cure = "" if now.bwrap else now.cure
        return f"no sandbox of pool {self._plan.pool.name!r} could be made: {why}. {cure}".rstrip()

    def epitaph(self) -> str:
        """The end of an agent that is gone, in words; empty where it is not known."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        code = self._process.returncode
        if self._watch is not None and (failure := self._watch.failure()):
            return failure
        if self._cgroup is not None and self._cgroup.out_of_memory():
            limits = self._plan.limits
            return (
                f"it ran out of memory: its processes (memory {format_quantity(limits.memory)}), its files "
                f"and the kernel's records of them reached {format_quantity(limits.wall)} together"
            )
        if code is None:
            return f"its agent closed the connection, but is still running{_said(self._stderr)}"
        if code > 128:
            with suppress(ValueError):
                return f"its agent was killed by {signal.Signals(code - 128).name}{_said(self._stderr)}"
        return f"its agent ended with exit code {code}{_said(self._stderr)}"

    def kill(self) -> None:
        """Kill PID 1 of the sandbox, and with it everything inside, at once."""
        if self._owner == os.getpid() and self._child >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self._child, signal.SIGKILL)

    def alive(self) -> bool:
        """True if PID 1 of the sandbox runs."""
        poll = select.poll()
        poll.register(self._child, select.POLLIN)
        return not poll.poll(0)

    def starved(self) -> bool:
        """True if PID 1 of the sandbox does not sleep: it has a processor, or waits for one or for a page of memory."""
        found = tree.stat(self._pid)
        return found is not None and found.state in (b"R", b"D") and self.alive()

    def close(self) -> None:
        """End the sandbox and give back what it held. Idempotent; nothing in a forked child, which owns none of it."""
        with self._lock:
            if self._owner == os.getpid():
                self._stack.close()

    def forget(self) -> None:
        """Close, in a forked child, what would keep the sandbox alive after the parent, whose it is."""
        self._lock = threading.Lock()  # the other one may be held by a thread that is not here
        self.connection.close()
        if self._lease is not None:
            self._lease.close()
        self._process.returncode = 0  # nothing for Popen to wait for, or to warn of

    def _end(self) -> None:
        """Kill what runs, and see it gone."""
        if self._child >= 0:
            self.kill()
        else:
            spawner.kill(self._process)
        with suppress(OSError):
            ended = os.pidfd_open(self._process.pid)
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            if not poll.poll(_END_SECONDS * 1000):
                self._process.kill()
            os.close(ended)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        if self._child >= 0:
            os.close(self._child)
            self._child = -1


def _unnamed_file() -> int:
    """A file that has no name and so cannot be left behind, on the disk of TMPDIR, else of /var/tmp.

    /tmp is often a tmpfs, whose pages the kernel counts as memory of the sandbox that prints.
    """
    folder = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - the file gets no name there
    with suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    descriptor, path = tempfile.mkstemp(prefix="pytest-arl-")
    os.unlink(path)  # noqa: PTH108 - a string in, a string out
    return descriptor


def _share_of_cpus(cpus: float) -> set[int]:
    """Choose as many of our processors, other ones for the next sandbox."""
    ours = sorted(os.sched_getaffinity(0))
    count = min(len(ours), max(1, math.ceil(cpus)))
    first = next(_cpus) * count
    return {ours[(first + offset) % len(ours)] for offset in range(count)}


def _said(descriptor: int) -> str:
    """The last lines bubblewrap or the agent wrote to stderr, for the end of a message."""
    try:
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, 2000, max(0, size - 2000)).decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip().removeprefix("bwrap: ") for line in text.splitlines() if line.strip()]
    return f" ({'; '.join(lines[-3:])})" if lines else ""
