"""Parts with which one agent runs its tasks, whoever is connected to it. It knows none of them."""

from __future__ import annotations

from pytest_arl.agent import files, limits, memory_watch, spool, system, usage_meter
from pytest_arl.agent.background import Backgrounds
from pytest_arl.agent.pipes import open_null

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.checkpoint import Manifest
    from pytest_arl.agent.inheritance import Inheritance
    from pytest_arl.agent.loop import Loop
    from pytest_arl.agent.message_types import Place

__all__ = ["AgentParts"]


class AgentParts:
    """The parts of one agent.

    Attributes:
        configured: whether it is what a host has told it to be. Nothing but a PING is served before.
        busy: whether a task runs.
        in_step: whether a Command of it runs, so that there is something to be killed when it ends.
        make_room: frees what it can of the spool, as a Spool has it.
        meter: what the running Command uses.
        inheritance: what steps inherit, where they run as the agent's own user and it has to be watched.
        cpu_time: seconds of processor time that each Command may use at most, or None.
        oom: sets the OOM score of this process, which what it starts inherits.
        env: the base environment of steps.
        roots: the writable folders.
        null: an open /dev/null.
        manifests: the checkpoints that have living processes, by their number.
    """

    def __init__(self, wait: Loop, oom: Callable[[bytes], None]) -> None:
        self.loop = wait
        self.oom = oom
        self.null = open_null()
        self.configured = self.busy = self.in_step = False
        self.make_room: Callable[[], bool] = lambda: False
        self.inheritance: Inheritance | None = None
        self.backgrounds = Backgrounds(
            wait,
            in_step=lambda: self.in_step,
            outgrown=self._outgrown,
            memory_kills=lambda: self.limits.memory_kills(),  # noqa: PLW0108 - there are no limits yet
        )
        self.manifests: dict[int, Manifest] = {}

    def configure(self, config: Place) -> None:
        """Become what the host's CONFIG says; before anything else is served."""
        self.env: dict[bytes, bytes] = dict(config["env"])
        workspace: bytes = config["workspace"]
        folders: list[tuple[bytes, str]] = config["folders"]
        self.places = files.Places(workspace)
        self.roots = [path for path, _ in folders]
        self.spool = spool.Spool(config["spool_fd"], min(config.get("spool_bytes") or spool.CAPACITY, spool.CAPACITY))
        self.spool.make_room = self.make_room
        watch = config.get("watch")
        self.limits = limits.Limits(
            oom_fd=config["oom_fd"],
            pids_fd=config["pids_fd"],
            memory=config["memory"],
            processes=config["processes"],
            folders=[(path, key) for path, key in folders],
            crowd_fd=config.get("crowd_fd"),
            rlimits={name: system.limit(name) for name in ("NPROC", "NOFILE") if name in config.get("rlimits", ())},
            watch=None if watch is None else memory_watch.MemoryWatch(watch),
            files_count=config.get("files_count", False),
        )
        self.meter = usage_meter.Meter(config.get("cpu_fd"))
        self.cpu_time: float | None = config.get("cpu_time")
        self.configured = True

    def _outgrown(self) -> tuple[str | None, float]:
        """The limit that background processes have outgrown, and seconds until the next look."""
        limit = None if self.busy else self.limits.sample()
        return limit, limits.SAMPLE_SECONDS if self.busy else self.limits.next_look()
