"""The limits of a sandbox, kept by the kernel: one cgroup for each, below one folder for the run.

The run's folder (one in each hierarchy) is locked with flock by the process that made it, so that a later run can
tell a dead owner's folder from a living one's, whatever became of pids meanwhile. Three parties remove cgroups:
the sandbox's own close, the janitor when this process dies, and :func:`sweep` at the next run's first use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local import spawner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_arl.backends.local.forkserver import ForkServer
    from pytest_arl.backends.local.hierarchies import Hierarchies

__all__ = ["SPARE_PROCESSES", "Cgroup", "CgroupLimits", "RunCgroups", "sweep"]

_PREFIX = "pytest-arl-"
_CPU_PERIOD = 100_000
"""Microseconds; the kernel's default."""
SPARE_PROCESSES = 8
"""The agent, and what it forks beside the steps."""
_RESERVE = 32 * 2**20
"""Bytes of the agent, and of the kernel's own bookkeeping for the sandbox."""
_FIGURES = {
    1: ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.stat"),
    2: ("memory.current", "memory.peak", "memory.stat"),
}


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Limits of one sandbox.

    Attributes:
        memory: bytes that its processes may hold, which the watcher sees to (:mod:`.watch_setup`).
        files: bytes that its writable folders take.
        processes: how many.
        cpus: processors (None: all).
    """

    memory: int
    files: int
    processes: int
    cpus: float | None

    @property
    def wall(self) -> int:
        """Bytes that the kernel lets the whole cgroup have at most, whoever watches it."""
        return self.memory + self.files + _RESERVE


class Cgroup:
    """One sandbox's cgroup: a folder in each hierarchy.

    Attributes:
        oom_descriptor, pids_descriptor: where the agent reads how often the limits were hit
            (``oom_kill N`` of memory.oom_control or memory.events, ``max N`` of pids.events).
        cpu_descriptor: where it reads the processor time (cpuacct.usage or cpu.stat), or None.
        limits_cpus: whether its share of the processors is bounded here.
        joins: whether what :meth:`spawn` starts is in here from its first moment; else :meth:`add` it.
        version: 1 or 2.
        memory: the folder that bounds its memory.
        figures: the files that tell how much is used, how much that was at most, and of what it is made.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        limits: CgroupLimits,
        version: int,
        home: Sequence[Path] = (),
        server: ForkServer | None = None,
    ) -> None:
        """``home`` has this process's own cgroups, for version 1; ``server`` starts processes in those of version 2."""
        self._folders = tuple(dict.fromkeys(folders.values()))
        self._home = tuple(home) if version == 1 else ()
        self._server = server if version == 2 else None
        self.joins = bool(self._home) or self._server is not None
        self.version = version
        self.memory = folders["memory"]
        self.figures = tuple(f"{self.memory}/{name}" for name in _FIGURES[version])
        self.limits_cpus = "cpu" in folders and limits.cpus is not None
        self._stack = ExitStack()
        try:
            for folder in self._folders:
                folder.mkdir()
                self._stack.callback(_remove, folder)
            _set_limits(folders, limits, version)
            oom = "memory.oom_control" if version == 1 else "memory.events"
            self.oom_descriptor = self._open(f"{self.memory}/{oom}")
            self.pids_descriptor = self._open(f"{folders['pids']}/pids.events")
            self.cpu_descriptor = self._open_cpu(folders, version)
        except BaseException:
            self._stack.close()
            raise

    def _open_cpu(self, folders: Mapping[str, Path], version: int) -> int | None:
        if version == 2:
            return self._open(f"{self.memory}/cpu.stat")
        return self._open(f"{folders['cpuacct']}/cpuacct.usage") if "cpuacct" in folders else None

    def _open(self, path: str) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def spawn(self, argv: Sequence[str], *, descriptors: Sequence[int], stderr: int) -> spawner.SpawnedProcess:
        """Start a process as :func:`spawner.spawn` does, inside if this cgroup :attr:`joins`.

        The kernel moves a process only once all processors have passed a quiet moment, for which a sandbox would wait
        up to 20 ms. In version 1 a thread may move itself at any time; in version 2 a process can be born inside.
        """
        if self._server is None:
            return spawner.spawn(argv, descriptors=descriptors, stderr=stderr, inside=self._joined())
        folder = os.open(self._folders[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return spawner.carry_out(partial(self._server.spawn, argv, descriptors, stderr, folder))
        finally:
            os.close(folder)

    @contextmanager
    def _joined(self) -> Iterator[None]:
        try:
            for folder in self._folders if self._home else ():
                _write(f"{folder}/tasks", 0)
            yield
        finally:
            for folder in self._home:
                _write(f"{folder}/tasks", 0)

    def add(self, pid: int) -> None:
        """Place a process, which must not have children yet."""
        for folder in self._folders:
            _write(f"{folder}/cgroup.procs", pid)

    def out_of_memory(self) -> bool:
        """True if the kernel ever killed something here for the memory limit."""
        text = os.pread(self.oom_descriptor, 4096, 0).decode()
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())

    def remove(self) -> None:
        """Kill what is left inside, and remove it. Idempotent."""
        self._stack.close()


class RunCgroups:
    """This process's part of the tree, and the sandboxes' cgroups in it.

    Attributes:
        folders: the run's folders, for the janitor.
        locks: descriptors that hold them, for the janitor to inherit.
    """

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        self._stack = ExitStack()
        parents = tuple(dict.fromkeys(hierarchies.folders.values()))
        while True:
            name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
            try:
                self.locks = tuple(self._make(parent / name) for parent in parents)
            except _TakenError:
                self._stack.close()
            except BaseException:
                self._stack.close()
                raise
            else:
                break
        self.folders = tuple(parent / name for parent in parents)
        self._name = name
        if hierarchies.version == 2:
            _write(f"{self.folders[0]}/cgroup.subtree_control", " ".join(f"+{name}" for name in hierarchies.folders))

    def _make(self, folder: Path) -> int:
        # Closed to other users: who can open it can lock it, and so keep it from us, or from a later sweep.
        folder.mkdir(mode=0o700)
        self._stack.callback(_remove, folder)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _TakenError from None
        self._stack.callback(os.close, descriptor)
        if not _lock(descriptor) or not folder.exists():
            raise _TakenError
        return descriptor

    def create(self, limits: CgroupLimits) -> Cgroup:
        """A cgroup for one sandbox. Raises OSError."""
        server = self._hierarchies.server
        if server is not None and not server.alive:
            reason = "the process that starts sandboxes in them was killed from outside, perhaps with its scope"
            raise OSError(errno.EPIPE, reason)
        name = secrets.token_hex(4)
        wanted = {
            controller: parent / f"{self._name}/{name}"
            for controller, parent in self._hierarchies.folders.items()
            if controller != "cpu" or limits.cpus is not None
        }
        home = [self._hierarchies.folders[controller] for controller in wanted]
        return Cgroup(wanted, limits, self._hierarchies.version, home, self._hierarchies.server)

    def close(self) -> None:
        """Remove everything. Idempotent."""
        self._stack.close()

    def forget(self) -> None:
        """Close the copies of the locks, in a forked child. The folders are the parent's."""
        for descriptor in self.locks:
            with suppress(OSError):
                os.close(descriptor)


class _TakenError(Exception):
    """Another run's sweep took the folder between our making and locking it."""


def sweep(hierarchies: Hierarchies) -> int:
    """Remove the folders of runs whose owner is dead. Gives how many."""
    removed = 0
    for parent in dict.fromkeys(hierarchies.folders.values()):
        for folder in parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if _lock(descriptor):
                        for child in _children(folder):
                            _remove(child)
                        _remove(folder)
                        removed += 1
                finally:
                    os.close(descriptor)
    return removed


def _children(folder: Path) -> Iterable[Path]:
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _write(path: str, value: object) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _set_limits(folders: Mapping[str, Path], limits: CgroupLimits, version: int) -> None:
    memory, quota = folders["memory"], None
    if limits.cpus is not None:
        quota = max(1000, int(limits.cpus * _CPU_PERIOD))
    if version == 1:
        _write(f"{memory}/memory.limit_in_bytes", limits.wall)
        with suppress(OSError):  # absent without swap accounting
            _write(f"{memory}/memory.memsw.limit_in_bytes", limits.wall)
        with suppress(OSError):
            _write(f"{memory}/memory.swappiness", 0)
        if quota is not None and "cpu" in folders:
            _write(f"{folders['cpu']}/cpu.cfs_quota_us", quota)
    else:
        _write(f"{memory}/memory.max", limits.wall)
        with suppress(OSError):  # absent without swap
            _write(f"{memory}/memory.swap.max", 0)
        if quota is not None and "cpu" in folders:
            _write(f"{folders['cpu']}/cpu.max", f"{quota} {_CPU_PERIOD}")
    _write(f"{folders['pids']}/pids.max", limits.processes + SPARE_PROCESSES)


def _remove(folder: Path, patience: float = 2.0) -> None:
    """Remove a cgroup; while processes are in it, kill them. After ``patience`` seconds it is left to a later sweep."""
    end = time.monotonic() + patience
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                return
            _kill_all(folder)
            time.sleep(0.001)
        else:
            return


def _kill_all(folder: Path) -> None:
    with suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            # 0: a process of another pid namespace, which cannot be named here; ours: a thread that is just leaving.
            if pid not in ("0", str(os.getpid())):
                with suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
