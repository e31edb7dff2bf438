"""What a sandbox does through its agent's channel, whoever runs its tasks: the same on a laptop and on a cluster."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pytest_arl.agent import frames
from pytest_arl.agent_client.budget import Budget
from pytest_arl.agent_client.channel import AgentError, ChannelLost, ChannelTimeout
from pytest_arl.agent_client.file_transfer import (
    MOST_BYTES,
    Archive,
    receive_file,
    receive_tree,
    send_archive,
    send_bytes,
    send_tree,
)
from pytest_arl.agent_client.running_process import AgentProcess
from pytest_arl.agent_client.task_run import STREAMS
from pytest_arl.errors import InfrastructureError, SandboxClosed, SandboxLost, UsageError
from pytest_arl.host_files.destinations import Destination
from pytest_arl.host_files.sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_arl.agent_client.channel import Channel, Stream
    from pytest_arl.backends.base import Checkpoint, OnOutput, OnStep, StreamName, TaskRequest
    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = ["AgentCheckpoint", "AgentSandbox"]

T = TypeVar("T")

REQUEST_SECONDS = 60.0
"""How long an agent may take for an answer that needs no program to end."""
_OUTPUT_PART = 4 * 1024 * 1024
_MOST_EMPTY = 1024
"""Parts in a row of which nothing is kept: 4 GiB, as much as is kept at a time."""
_MOST_SHORT = 64
"""Parts of which some bytes are kept and some lost: one at each end of what is lost together."""


class AgentSandbox:
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

    # What differs

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step."""
        raise NotImplementedError

    def cancel(self, task_id: str) -> None:
        """End the running step of that task."""
        raise NotImplementedError

    def alive(self) -> bool:
        """True if it can still run a task, as far as is known without asking it."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the agent at once: it no longer does what it should."""
        raise NotImplementedError

    def close(self) -> None:
        """End the sandbox and everything in it."""
        raise NotImplementedError

    def _replacement(self) -> AgentSandbox:
        """A fresh sandbox of the same pool."""
        raise NotImplementedError

    def _channel_in_use(self) -> Channel:
        """The channel; ChannelLost where there is none any more."""
        raise NotImplementedError

    def agents_name(self, task_id: str) -> str:
        """What the agent calls a task."""
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
            self.lost("it ended before this was asked of it")
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
        """What ``action`` gives for a stream of its own. To do it twice must be as good as once: it may be done anew
        on another connection where the first one broke, any number of times where it is a ``lasting`` one, which waits
        for a program. Here one channel is for life, and what breaks it ends the sandbox.
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
        which = {"task": self.agents_name(task_id), "step": step, "stream": STREAMS.index(stream)}
        at = received = empty = short = 0
        end: dict[str, int] = {}
        while not end or (at < end["size"] and received < end["size"] - end["lost"]):
            # A part at a time, and none under way while the caller looks at one: he may take as long as he likes.
            before = end
            pieces, end = self._output_part({**which, "most": _OUTPUT_PART, "from": at})
            if before and (end["size"] < before["size"] or end["lost"] < before["lost"]):
                self.lost("its agent has said something else of that output before")
            end["size"] = (before or end)["size"]  # what a process in the background prints meanwhile is not waited for
            yield from pieces
            size = sum(map(len, pieces))
            at += _OUTPUT_PART
            received += size
            empty = 0 if pieces else empty + 1
            short += 0 < size < _OUTPUT_PART
            few = empty > _MOST_EMPTY or short > _MOST_SHORT
            if few or (at - received > end["lost"] and at < end["size"]):
                self.lost("its agent has less of an output than it says")
        if end["lost"]:
            raise InfrastructureError(
                f"{end['lost']} of the {end['size']} bytes of {stream} are no longer kept: "
                "a sandbox has 4 GiB of output at a time, less where its pool's `kept` is less or the disk is full"
            )

    def _output_part(self, request: dict[str, Any]) -> tuple[list[bytes], Any]:
        def fetch(exchange: Stream) -> tuple[list[bytes], Any]:
            pieces: list[bytes] = []
            size = 0
            exchange.send(frames.FETCH, request)
            while True:
                kind, value = exchange.receive(time.monotonic() + REQUEST_SECONDS)
                if kind == frames.END:
                    if not isinstance(value, dict) or not all(type(value.get(key)) is int for key in ("size", "lost")):
                        raise exchange.unexpected(TypeError("the end of an output"))
                    return pieces, value
                if kind != frames.DATA:
                    raise exchange.unexpected(kind)
                size += len(value)
                if size > request["most"]:
                    raise exchange.unexpected(ValueError("more of an output than was asked for"))
                if value:
                    pieces.append(value)

        return self.exchange(fetch)

    # Files

    def read(self, path: str) -> bytes:
        """A file's content."""
        return self.exchange(lambda stream: receive_file(stream, _raw(path), self.budget))

    def write(self, path: str, content: bytes, mode: int | None) -> None:
        """Write a file, whole or not at all."""
        self._pristine = False

        def send(stream: Stream) -> None:
            if len(content) <= self._write_whole:
                stream.send(frames.WRITE, {"path": _raw(path), "content": content, "mode": mode})
                stream.reply(time.monotonic() + REQUEST_SECONDS)
            else:
                send_bytes(stream, _raw(path), content, mode)

        self.exchange(send)

    def upload(self, local: Path, remote: str) -> None:
        """Copy a file or folder in. UsageError for a link."""
        self._keep_out("upload", local)
        self._pristine = False
        if remote.endswith("/"):
            remote += local.name
        with closing(Source(local)) as source:
            self.exchange(lambda stream: send_tree(stream, source, _raw(remote)))

    def download(self, remote: str, local: Path) -> None:
        """Copy a file or folder out. UsageError where ``local`` is a link to a folder."""
        self._keep_out("download", local)
        with closing(Destination(local)) as destination:
            self.exchange(lambda stream: receive_tree(stream, _raw(remote), destination, self.budget))

    def _keep_out(self, what: str, local: Path) -> None:
        """Raise UsageError where the sandbox itself can write what this side would handle: with a link that it puts
        in a folder's place meanwhile, it would decide which folder this side opens.
        """
        if not self._shared:
            return
        written = Path(os.path.abspath(local))  # noqa: PTH100 - links stay
        # Each folder on the way, too: of `shared/x/../../y` the sandbox decides where it leads.
        passed = {written, *(folder.resolve() for folder in (local, *local.parents))}
        for source, target in self._shared.items():
            inside = any(folder.is_relative_to(source) for folder in passed)
            if inside or (local.is_dir() and source.is_relative_to(local.resolve())):
                raise UsageError(
                    f"{what}: {local} is in {source}, or holds it, and the sandbox can write there: name another "
                    f"folder, or copy in the sandbox, where it is {target}"
                )

    # Checkpoints

    def checkpoint(self) -> AgentCheckpoint:
        """Remember the writable folders, and the background processes that live."""
        if self._pristine:
            return AgentCheckpoint([], [], self._forget)
        archives: list[Archive] = []
        try:
            for root in self._roots:
                archive = self._archive(root)
                if archive is not None:
                    archives.append(archive)  # one by one: what was kept when the next fails is closed
            checkpoint = AgentCheckpoint(archives, self._ask("alive", 0, "alive"), self._forget)
            checkpoint.agent = self
            if checkpoint.alive:
                self._ask("mark", checkpoint.number)
        except BaseException:
            for archive in archives:
                archive.close()
            raise
        return checkpoint

    def _archive(self, root: bytes) -> Archive | None:
        """What is in a folder; None where the sandbox has no such folder."""

        def fill(stream: Stream) -> Archive:
            archive = Archive(root, self.budget)
            try:
                archive.fill(stream)
            except BaseException:
                archive.close()
                raise
            return archive

        try:
            return self.exchange(fill)
        except FileNotFoundError:
            return None

    def restore(self, checkpoint: Checkpoint) -> AgentSandbox:
        """Return to a checkpoint: in place where its processes live, else with a fresh sandbox."""
        if not isinstance(checkpoint, AgentCheckpoint):
            raise UsageError(f"{checkpoint!r} is no checkpoint of this backend")
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
        changed = set(self._ask("return", checkpoint.number, "changed", checkpoint.alive))
        if changed:
            for archive in checkpoint.archives:
                self._put(archive, changed)
            self._ask("mark", checkpoint.number)

    def _forget(self, checkpoint: AgentCheckpoint) -> None:
        """Let the agent forget what it remembers of a checkpoint."""
        if checkpoint.alive and self.alive():
            with suppress(InfrastructureError, UsageError, OSError):
                self._ask("forget", checkpoint.number)

    def _put(self, archive: Archive, only: set[bytes] | None) -> None:
        self._pristine = False
        self.exchange(lambda stream: send_archive(stream, archive, only))

    def _ask(self, what: str, number: int, answer: str = "", keep: list[Any] | None = None) -> list[Any]:
        """The list that the agent gives under ``answer``."""

        def ask(stream: Stream) -> list[Any]:
            stream.send(frames.RESET, {"do": what, "id": number, "keep": keep or []})
            value = stream.reply(time.monotonic() + REQUEST_SECONDS)
            if not answer:
                return []
            if not isinstance(value, dict) or not _is_list_of(answer, value.get(answer)):
                raise stream.unexpected(TypeError(f"the answer to {what}"))
            listed: list[Any] = value[answer]
            return listed

        return self.exchange(ask)


class AgentCheckpoint:
    """Files of the writable folders, and the background processes that lived: pairs of task and step."""

    _numbers = itertools.count(1)

    def __init__(
        self, archives: list[Archive], alive: list[list[Any]], forget: Callable[[AgentCheckpoint], None]
    ) -> None:
        self.archives = archives
        self.alive = alive
        self.agent: AgentSandbox | None = None
        """The sandbox that remembers it; another one in its place has none of its processes."""
        self._forget: Callable[[AgentCheckpoint], None] | None = forget
        self.number = next(self._numbers)

    def close(self) -> None:
        """Free the archives. Idempotent."""
        for archive in self.archives:
            archive.close()
        self.archives = []
        forget, self._forget = self._forget, None
        if forget is not None:
            forget(self)


def _is_list_of(what: str, value: object) -> bool:
    """True for paths that changed, and for pairs of a task and a step that live."""
    if not isinstance(value, list):
        return False
    if what == "changed":
        return all(isinstance(path, bytes) for path in value)
    return all(isinstance(pair, list) and list(map(type, pair)) == [str, int] for pair in value)


def _raw(path: str) -> bytes:
    return os.fsencode(path)
