"""The protocol of a backend, which is behind every sandbox.

A backend hands sandboxes out of its pools; a sandbox runs tasks and moves files. The session
above adds what all backends share (validation, order, recording, checkpoints by name), so that
a backend says only *how*. A third party adds one through the hook in :mod:`pytest_arl.hooks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_arl.results import StepResult
    from pytest_arl.steps import Step

__all__ = [
    "AcquireRequest",
    "Backend",
    "BackendSandbox",
    "BackgroundProcess",
    "Checkpoint",
    "OnOutput",
    "OnStep",
    "StreamName",
    "TaskRequest",
]

StreamName = Literal["stdout", "stderr"]
OnOutput = Callable[[str, StreamName, bytes], object]
"""Called as ``on_output(step_name, stream, data)`` in the thread that called ``execute``."""

OnStep = Callable[["StepResult"], object]
"""Called with each result as its step ends, in the thread that called ``execute``; it raises nothing."""


@dataclass(frozen=True, slots=True)
class AcquireRequest:
    """A session's request to a backend.

    Attributes:
        pool_ref: the pool's name.
        namespace: the Kubernetes namespace; None is the backend's own default. Ignored on this machine.
        keep_alive: the sandbox outlives its holder (clusters only).
        acquire_timeout: seconds until :class:`~pytest_arl.errors.SandboxTimeout`.
        idle_timeout, max_lifetime: seconds, or None for the pool's; for clusters.
        labels: what the sandbox is for (``run``, ``worker``, ``test``); for lists and messages.
    """

    pool_ref: str
    namespace: str | None = None
    keep_alive: bool = False
    acquire_timeout: float = 120.0
    idle_timeout: float | None = None
    max_lifetime: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One validated task.

    Attributes:
        id: unique; a sandbox runs a task of one id at most once.
        steps: at least one, each with a name unique among them.
        timeout: seconds for the whole task, or None for no limit.
    """

    id: str
    steps: tuple[Step, ...]
    timeout: float | None = None


class BackgroundProcess(Protocol):
    """A Command that was started with ``background: true``. All methods may be called from any thread."""

    def wait(self, timeout: float | None) -> StepResult | None:
        """The result once the process has ended; None when ``timeout`` seconds pass first (0 asks only)."""

    def kill(self) -> None:
        """Kill the process and everything it started; a process that ended already is no error."""

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Append to the process's stdin. Raises BrokenPipeError where nobody reads it any more, TimeoutError where it
        has not taken all of it after ``timeout`` seconds.
        """

    def close_stdin(self) -> None:
        """Let the process read end-of-file."""

    def output(self, stream: StreamName) -> bytes:
        """Output of the process so far, bounded like a result's."""


class Checkpoint(Protocol):
    """Files of a sandbox as they were, and which background processes lived. Held by the session."""

    def close(self) -> None:
        """Free what the checkpoint holds. Idempotent."""


class BackendSandbox(Protocol):
    """One sandbox that is ready. Its methods raise InfrastructureError and its branches, nothing else of their own.

    It may have three attributes more: ``warm`` (bool), whether it was ready before it was asked for; ``limits``
    (a mapping of text), the pool's value for each limit, such as ``{"memory": "512Mi"}``; and ``keep(size)``, which
    counts bytes of it that are kept on this machine, and is False where its pool allows no more.

    One task at a time: the session keeps callers in order. ``cancel``, ``close`` and everything about
    background processes and files may come from another thread while a task runs.
    """

    name: str
    pool_ref: str
    isolation: str
    """The tier, as the last line of a run names it: ``bwrap+cgroup``."""
    output_limit: int
    """Bytes of each stream that a result keeps."""
    partial: list[StepResult]
    """The known part of the latest task, also when ``execute`` raised: finished steps, and the output so far of the
    one that ran.
    """

    def execute(self, task: TaskRequest, on_output: OnOutput | None, on_step: OnStep | None = None) -> list[StepResult]:
        """Run a task; one result for each step, Skipped ones included (of which ``on_step`` is not told).

        Raises SandboxLost (with the steps so far in ``result``) when the sandbox ends first. An exception in the
        calling thread (KeyboardInterrupt, one of ``on_output``) cancels the running step, and is raised
        once that is done, or after 2 s.
        """

    def cancel(self, task_id: str) -> None:
        """End the running step of that task, which then comes back as Cancelled. No error if it is over."""

    def process(self, task_id: str, step: int) -> BackgroundProcess:
        """The handle of the background step at that index of a task that ``execute`` has run."""

    def output(self, task_id: str, step: int, stream: StreamName) -> Iterator[bytes]:
        """All of a step's stream, also what its result cut. UsageError where it is no longer kept."""

    def read(self, path: str) -> bytes:
        """A file's content. FileNotFoundError, IsADirectoryError and other OSErrors mean what they say."""

    def write(self, path: str, content: bytes, mode: int | None) -> None:
        """Write a file as a FilePatch does. OSError as in ``read``."""

    def upload(self, local: Path, remote: str) -> None:
        """Copy a file or folder in: ``remote`` is its new path (not the folder to put it in)."""

    def download(self, remote: str, local: Path) -> None:
        """Copy a file or folder out: ``local`` is its new path."""

    def checkpoint(self) -> Checkpoint:
        """Remember workspace, /tmp and home, and the background processes that live."""

    def restore(self, checkpoint: Checkpoint) -> BackendSandbox:
        """Return to the checkpoint: gives the sandbox to use from here on, which may be a fresh one (self is then
        closed).
        """

    def alive(self) -> bool:
        """True if the sandbox can still run a task, as far as is known without asking it."""

    def close(self) -> None:
        """End the sandbox and everything in it. Idempotent, never raises, any thread."""


class Backend(Protocol):
    """Hands sandboxes out. Thread-safe."""

    name: str

    def acquire(self, request: AcquireRequest) -> BackendSandbox:
        """A ready sandbox. Raises PoolNotFound, BackendUnavailable, SandboxTimeout, PermissionDenied, UsageError
        (a pool's own fault).
        """

    def pools(self) -> tuple[str, ...]:
        """Names of the pools there are, sorted."""

    def close(self) -> None:
        """Close every sandbox that is still open and free everything. Idempotent."""
