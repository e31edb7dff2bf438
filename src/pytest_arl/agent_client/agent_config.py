"""The first message to an agent: what it is to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_arl.agent import frames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.agent.message_types import Config

__all__ = ["AgentConfig"]


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The settings of an agent, told once, before it serves.

    Attributes:
        uid, gid: whom to become, where it starts with the capabilities for that; None to stay who it is.
        workspace, home, tmp: its writable folders.
        env: the base environment of steps.
        rlimits: resource limits by name (``NOFILE``), for the agent and so for everything it starts.
        spool_fd: an open file without a name, for output that is too long for memory.
        spool_bytes: how large it may become, or None for as much as an agent keeps at the most.
        oom_fd, pids_fd, cpu_fd: the cgroup's files that count ``oom_kill``, ``max`` and processor time, open for
            reading.
        lock_fd: held open for as long as the agent lives.
        memory: bytes for everything in the sandbox, where no cgroup bounds it.
        processes: how many may live at once.
        watch: what the agent shares with the process that watches its cgroup's memory, as
            :class:`pytest_arl.agent.memory_watch.MemoryWatch` has it, and ``watcher_fd``, a pidfd of that process.
        cpu_time: seconds of processor time that each Command may use, or None.
    """

    uid: int | None = None
    gid: int | None = None
    workspace: str = "/workspace"
    home: str = "/home/arl"
    tmp: str = "/tmp"  # noqa: S108 - the sandbox's own
    env: Mapping[str, str] = field(default_factory=dict)
    rlimits: Mapping[str, int] = field(default_factory=dict)
    spool_fd: int | None = None
    spool_bytes: int | None = None
    oom_fd: int | None = None
    pids_fd: int | None = None
    cpu_fd: int | None = None
    lock_fd: int | None = None
    memory: int | None = None
    processes: int = 512
    watch: Mapping[str, object] | None = None
    cpu_time: float | None = None

    def message(self) -> Config:
        """The config as the wire has it."""
        folders = [(self.workspace, "workspace"), (self.tmp, "tmp"), (self.home, "tmp"), ("/dev/shm", "shm")]  # noqa: S108 - as above
        return {
            "version": frames.VERSION,
            "uid": self.uid,
            "gid": self.gid,
            "workspace": _bytes(self.workspace),
            "folders": [[_bytes(path), key] for path, key in folders],
            "chown": [_bytes(path) for path, _ in folders],
            "env": [[_bytes(key), _bytes(value)] for key, value in self.env.items()],
            "rlimits": dict(self.rlimits),
            "spool_fd": self.spool_fd,
            "spool_bytes": self.spool_bytes,
            "oom_fd": self.oom_fd,
            "pids_fd": self.pids_fd,
            "cpu_fd": self.cpu_fd,
            "lock_fd": self.lock_fd,
            "memory": self.memory,
            "processes": self.processes,
            "watch": dict(self.watch) if self.watch is not None else None,
            "cpu_time": self.cpu_time,
        }


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
