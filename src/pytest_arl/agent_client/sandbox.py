"""Requests of a sandbox over its agent's channel, whoever runs its tasks: the same on a laptop and on a cluster."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pytest_arl.agent import frames
from pytest_arl.agent_client import checkpoints, messages
from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.checkpoints import AgentCheckpoint
from pytest_arl.agent_client.exchange import ANSWER_SECONDS
from pytest_arl.agent_client.file_transfer import (
    MOST_BYTES,
    receive_file,
    receive_tree,
    send_archive,
    send_bytes,
    send_tree,
)
from pytest_arl.agent_client.kept_output import kept_output
from pytest_arl.agent_client.running_process import AgentProcess
from pytest_arl.agent_client.shared_folders import keep_out
from pytest_arl.errors import InfrastructureError, SandboxClosed, SandboxLost, UsageError
from pytest_arl.host_files.destinations import Destination
from pytest_arl.host_files.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_arl.agent_client.channel import Channel
    from pytest_arl.agent_client.file_transfer import Archive
    from pytest_arl.agent_client.stream import Stream
    from pytest_arl.backends.base import Checkpoint, OnOutput, OnStep, StreamName, TaskRequest
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["AgentSandbox"]

T = TypeVar("T")


class AgentSandbox(ABC):
    """Files, output, background processes and checkpoints. See :class:`pytest_arl.backends.base.BackendSandbox`.

    A subclass says how tasks run, where the channel comes from, and how the sandbox ends.
    """

    _write_whole = 32 * 1024 * 1024
    """Bytes of a file that is sent in one message; a longer one goes in pieces."""

    def __init__(
        self,
        *,
        name: str,
        pool_ref: str,
        isolation: str,
        output_limit: int,
        limits: Mapping[str, str] | None = None,
        shared: Mapping[Path, str] | None = None,
        budget: Budget | None = None,
    ) -> None:
        """``limits`` has the pool's value for each limit (``{"memory": "512Mi"}``), for messages. ``shared`` has the
        folders of this machine that the sandbox can write (resolved), and where it sees them. ``budget`` bounds what is
        kept of it here.
        """
        self.name = name
        self.pool_ref = pool_ref
        self.isolation = isolation
        self.output_limit = output_limit
        self.warm = False
        self.partial: list[StepResult] = []
        self.limits = limits or {}
        self.budget = budget or Budget(MOST_BYTES, "take less of it")
        self._shared = shared or {}
        self._roots: tuple[bytes, ...] = (b"/workspace", b"/tmp", b"/home/arl", b"/dev/shm")
        self._pristine = True
        self._background: dict[tuple[str, int], Step] = {}
        self._processes: dict[tuple[str, int], AgentProcess] = {}
        self._closed = False

    # Of each backend's own

    @abstractmethod
    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step."""

    @abstractmethod
    def cancel(self, task_id: str) -> None:
        """End the running step of that task."""

    @abstractmethod
    def alive(self) -> bool:
        """True if it can still run a task, as far as is known without asking it."""

    @abstractmethod
    def kill(self) -> None:
        """End the agent at once: it no longer does what it should."""

    @abstractmethod
    def close(self) -> None:
        """End the sandbox and everything in it."""

    @abstractmethod
    def _replacement(self) -> AgentSandbox:
        """A fresh sandbox of the same pool."""

    @abstractmethod
    def _channel_in_use(self) -> Channel:
        """The channel; ChannelLost where there is none any more."""

    def agents_name(self, task_id: str) -> str:
        """The agent's name of a task."""
        return task_id

    # Exchanges

    @contextmanager
    def asking(self) -> Iterator[Channel]:
        """The channel, where what goes wrong with it becomes what a caller of a backend expects."""
        __tracebackhide__ = True
        with self._telling():
            yield self._channel_in_use()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        __tracebackhide__ = True
        if self._closed:
            self.lost("it had ended already")
        try:
            yield
        except ChannelLost as error:
            self.lost(str(error))
        except ChannelTimeout:
            self.kill()
            self.lost("its agent did not answer in time")
        except AgentError as error:
            if error.errno:
                raise OSError(error.errno, error.text, os.fsdecode(error.path) or None) from None
            raise UsageError(error.text) from None

    def exchange(self, action: Callable[[Stream], T], *, lasting: bool = False) -> T:  # noqa: ARG002 - for those of a cluster
        """See :class:`~pytest_arl.agent_client.exchange.Exchange`. One channel is for life: what breaks it ends the
        sandbox.
        """
        __tracebackhide__ = True
        with self.asking() as channel, channel.open() as stream:
            return action(stream)

    def lost(self, reason: str) -> NoReturn:
        """Raise what a sandbox that is gone is to its caller."""
        if self._closed:
            raise SandboxClosed(f"sandbox {self.name} is closed") from None
        raise SandboxLost(f"sandbox {self.name} (pool {self.pool_ref}) was lost: {reason}") from None

    def label(self, limit: str | None) -> str | None:
        """A limit with the pool's value: ``memory 512Mi``."""
        return f"{limit} {self.limits[limit]}" if limit is not None and limit in self.limits else limit

    def keep(self, size: int) -> bool:
        """Count bytes of it that are kept on this machine; False where its pool allows no more."""
        return not size or self.budget.take(size) > 0

    # What a task leaves: background processes, output

    def process(self, task_id: str, step: int) -> AgentProcess:
        """The background process that this step started."""
        made = AgentProcess(self, self.agents_name(task_id), step, self._background[task_id, step])
        return self._processes.setdefault((task_id, step), made)  # one, as it counts what is written

    def _remember_background(self, task: TaskRequest) -> None:
        for index, step in enumerate(task.steps):
            if step.in_background:
                self._background[task.id, index] = step

    def output(self, task_id: str, step: int, stream: StreamName) -> Iterator[bytes]:
        """All of a step's stream that is kept."""
        return kept_output(self, self.agents_name(task_id), step, stream)

    # Files

    def read(self, path: str) -> bytes:
        """A file's content."""
        return self.exchange(lambda stream: receive_file(stream, _raw(path), self.budget))

    def write(self, path: str, content: bytes, mode: int | None) -> None:
        """Write a file, whole or not at all."""
        self._pristine = False

        def send(stream: Stream) -> None:
            if len(content) <= self._write_whole:
                stream.send(frames.WRITE, messages.write(_raw(path), content, mode))
                stream.reply(time.monotonic() + ANSWER_SECONDS)
            else:
                send_bytes(stream, _raw(path), content, mode)

        self.exchange(send)

    def upload(self, local: Path, remote: str) -> None:
        """Copy a file or folder in. UsageError for a link."""
        keep_out("upload", local, self._shared)
        self._pristine = False
        if remote.endswith("/"):
            remote += local.name
        with closing(Source(local)) as source:
            self.exchange(lambda stream: send_tree(stream, source, _raw(remote)))

    def download(self, remote: str, local: Path) -> None:
        """Copy a file or folder out. UsageError where ``local`` is a link to a folder."""
        keep_out("download", local, self._shared)
        with closing(Destination(local)) as destination:
            self.exchange(lambda stream: receive_tree(stream, _raw(remote), destination, self.budget))

    # Checkpoints

    def checkpoint(self) -> AgentCheckpoint:
        """Remember the writable folders, and the background processes that live."""
        if self._pristine:
            return AgentCheckpoint([], [], self._forget)
        archives: list[Archive] = []
        try:
            for root in self._roots:
                archive = checkpoints.archived(self, root, self.budget)
                if archive is not None:
                    archives.append(archive)  # one by one: what was kept when the next fails is closed
            alive = checkpoints.ask(self, messages.reset("alive", 0), "alive")
            checkpoint = AgentCheckpoint(archives, alive, self._forget)
            checkpoint.agent = self
            if checkpoint.alive:
                checkpoints.told(self, messages.reset("mark", checkpoint.number))
        except BaseException:
            for archive in archives:
                archive.close()
            raise
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> AgentSandbox:
        """Return to a checkpoint: in place where its processes live, else with a fresh sandbox."""
        if not isinstance(checkpoint, AgentCheckpoint):
            raise UsageError(f"{checkpoint!r} is not a checkpoint of this backend")
        if checkpoint.alive and checkpoint.agent is self:
            self._restore_in_place(checkpoint)
            return self
        if self._pristine and self.alive() and not checkpoint.archives:
            return self
        fresh = self._replacement()
        try:
            for archive in checkpoint.archives:
                fresh._put(archive, None)  # noqa: SLF001 - another one of this class
        except BaseException:
            fresh.close()
            raise
        self.close()
        return fresh

    def _restore_in_place(self, checkpoint: AgentCheckpoint) -> None:
        request = messages.reset("return", checkpoint.number, checkpoint.alive)
        changed = set(checkpoints.ask(self, request, "changed"))
        if changed:
            for archive in checkpoint.archives:
                self._put(archive, changed)
            checkpoints.told(self, messages.reset("mark", checkpoint.number))

    def _forget(self, checkpoint: AgentCheckpoint) -> None:
        """Let the agent forget what it remembers of a checkpoint."""
        if checkpoint.alive and self.alive():
            with suppress(InfrastructureError, UsageError, OSError):
                checkpoints.told(self, messages.reset("forget", checkpoint.number))

    def _put(self, archive: Archive, only: set[bytes] | None) -> None:
        self._pristine = False
        self.exchange(lambda stream: send_archive(stream, archive, only))


def _raw(path: str) -> bytes:
    return os.fsencode(path)
