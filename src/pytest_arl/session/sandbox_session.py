"""SandboxSession: a sandbox, and everything that can be done with it, with pytest or without."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_arl.host_files.named_links import named
from pytest_arl.session import notifications, validation
from pytest_arl.session.async_methods import AsyncMethods
from pytest_arl.session.config import UNSET, SessionConfig, Unset
from pytest_arl.session.lifecycle import Lifecycle
from pytest_arl.session.open_sandbox import OpenSandbox
from pytest_arl.session.step_index import StepIndex
from pytest_arl.session.task_execution import TaskExecution
from pytest_arl.steps import check_content, check_mode, check_path, parse_steps

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from pytest_arl.backends.base import OnOutput, StreamName
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session.fair_queue import Cancellation
    from pytest_arl.session.process import Process
    from pytest_arl.steps import Command, Step

__all__ = ["SandboxSession"]

__tracebackhide__ = True


class SandboxSession(AsyncMethods):
    """A sandbox from a pool, from ``create_sandbox`` (or ``with``) to ``delete_sandbox`` (or the block's end).

    Thread-safe: one sandbox serves its callers in their order, many sandboxes run side by side. Each method that
    blocks has an async twin (``aexecute``, ``arun``, ...), and ``async with`` works as ``with`` does, under asyncio,
    trio and anyio. Cancelling an await cancels its task in the sandbox.

    Args:
        pool_ref: the pool; None is the configured one, as for the others.
        namespace: Kubernetes namespace; means nothing on this machine.
        keep_alive: the sandbox outlives a ``with`` block, though never the process on this machine.
        timeout: seconds that each task may take, None for no limit.
        keep_workspace: a sandbox that tests share keeps its files from test to test.
        acquire_timeout: seconds to wait for a sandbox to be ready.
        idle_timeout, max_lifetime: seconds after which a cluster ends a kept sandbox.
        backend: what makes the sandbox.
        name: what reports call it; None takes the backend's name for it.
        labels: what the sandbox is for.
    """

    def __init__(
        self,
        pool_ref: str | None = None,
        namespace: str | None = None,
        keep_alive: bool = False,
        *,
        timeout: float | str | Unset | None = UNSET,
        keep_workspace: bool = False,
        acquire_timeout: float | str | None = None,
        idle_timeout: float | str | None = None,
        max_lifetime: float | str | None = None,
        backend: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        options = dict(locals())  # every one that is declared above, so that none is forgotten
        del options["self"]
        self._config = SessionConfig(**options)
        steps = StepIndex()
        self._lifecycle = Lifecycle(self._config, steps)
        self._tasks = TaskExecution(self._config, self._lifecycle, steps)

    # --- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that was given, else the sandbox's, which is its hostname too; the pool's before there is one.

        A reset may put a sandbox of another name in its place.
        """
        return self._lifecycle.name

    @property
    def pool_ref(self) -> str:
        """Name of the pool that the sandbox comes from."""
        return self._config.pool_ref

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace, or None for the backend's own default."""
        return self._config.namespace

    @property
    def backend(self) -> str:
        """Name of the backend that makes the sandbox."""
        return self._config.backend

    @property
    def keep_alive(self) -> bool:
        """True if the sandbox outlives a ``with`` block."""
        return self._config.keep_alive

    @property
    def acquire_timeout(self) -> float:
        """Seconds to wait for a sandbox to be ready."""
        return self._config.acquire_timeout

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a task after which a cluster ends it, or None for the pool's."""
        return self._config.idle_timeout

    @property
    def max_lifetime(self) -> float | None:
        """Seconds after which a cluster ends it, or None for the pool's."""
        return self._config.max_lifetime

    @property
    def keep_workspace(self) -> bool:
        """True if a shared sandbox keeps its files from test to test."""
        return self._config.keep_workspace

    @property
    def labels(self) -> Mapping[str, str]:
        """The purpose of the sandbox."""
        return self._config.labels

    @property
    def timeout(self) -> float | None:
        """Seconds that each task may take unless ``execute`` says otherwise; None is no limit."""
        return self._config.task_timeout()

    @property
    def isolation(self) -> str | None:
        """The tier of isolation in use (``bwrap+cgroup``), or None while there is no sandbox."""
        held = self._lifecycle.held
        return None if held is None else held.sandbox.isolation

    @property
    def limits(self) -> Mapping[str, str]:
        """Limits of the sandbox's pool, as far as its backend says so: ``{"memory": "512Mi"}``; empty while there is
        none.
        """
        held = self._lifecycle.held
        found: Mapping[str, str] = {} if held is None else getattr(held.sandbox, "limits", {})
        return found

    def keep(self, size: int) -> bool:
        """Count bytes of the sandbox that are kept on this machine beside its downloads and checkpoints, in a report.
        False where the pool allows no more (``kept``): then they should not be.
        """
        held = self._lifecycle.held
        count: Callable[[int], bool] | None = None if held is None else getattr(held.sandbox, "keep", None)
        return count is None or count(size)

    @property
    def is_open(self) -> bool:
        """True if there is a sandbox that can run a task, as far as is known without asking it."""
        return self._lifecycle.is_open

    @property
    def uses(self) -> int:
        """The number of operations that can change the sandbox's content: tasks, writes, uploads."""
        return self._lifecycle.uses

    # --- its life -----------------------------------------------------------------------------

    def create_sandbox(self) -> None:
        """Acquire a sandbox, ready to use. After ``delete_sandbox`` it gives a fresh one."""
        self._create(None)

    def delete_sandbox(self) -> None:
        """Let go of the sandbox and everything in it, kept alive or not. Idempotent; a running task ends with it."""
        if self._lifecycle.delete():
            notifications.notify_closed(self)

    def __enter__(self) -> Self:
        if self._needs_sandbox:
            self.create_sandbox()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.keep_alive:
            self.delete_sandbox()

    # --- tasks --------------------------------------------------------------------------------

    def execute(
        self,
        steps: Iterable[Step | Mapping[str, Any]],
        *,
        timeout: float | str | None = None,
        retries: int = 0,
        on_output: OnOutput | None = None,
    ) -> TaskResult:
        """Run steps in order, up to the first that does not succeed. Never raises for a step's failure.

        Args:
            steps: dicts, or :class:`~pytest_arl.Command` and :class:`~pytest_arl.FilePatch`.
            timeout: seconds for the whole task; None is the session's, ``float("inf")`` no limit.
            retries: how often to try again where the infrastructure failed before the task started.
            on_output: called as ``on_output(step_name, stream, data)`` while a step runs. What it raises cancels
                the task, and is raised here.
        """
        return self._execute(parse_steps(steps), timeout, retries, on_output, None)

    def run(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,
        cpu_time: float | str | None = None,
    ) -> StepResult:
        """Run one program, word by word: ``run("make", "test")``."""
        step = validation.command(
            "run", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=False
        )
        return self._run(step, timeout, None)

    def start(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,
        cpu_time: float | str | None = None,
    ) -> Process:
        """Start a program in the background of the sandbox. StepFailed where it cannot be started."""
        step = validation.command(
            "start", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=True
        )
        return self._start(step, None)

    def process(self, step: StepResult | str) -> Process:
        """The handle of a Command with ``background: true`` that ``execute`` has started, by its result or its name."""
        return self._tasks.process(step)

    def output(self, step: StepResult | str, stream: StreamName) -> Iterator[bytes]:
        """All of a step's stream, also what its result cut, while the sandbox lives.

        Args:
            step: a result, or the name of the latest step of that name.
            stream: ``stdout`` or ``stderr``.
        """
        return self._tasks.output(step, stream)

    # --- files --------------------------------------------------------------------------------

    def write(self, path: str | os.PathLike[str], content: str | bytes, mode: int | None = None) -> None:
        """Write a file: exactly ``content``, at once or not at all; missing folders are made."""
        target, data, bits = check_path(path, "write"), check_content(content, "write"), check_mode(mode, "write")
        self._lifecycle.require_for_change().write(target, data, bits)

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """A file's content. FileNotFoundError and other OSErrors mean what they say."""
        source = check_path(path, "read")
        return self._held().sandbox.read(source)

    def read_text(self, path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
        """A file's content as text."""
        return self.read(path).decode(encoding, errors)

    def upload(
        self, local: str | os.PathLike[str], remote: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """Copy a file or folder in; ``remote`` is its new path. Links in a folder are copied as links.

        Args:
            local: a file or folder of this machine. UsageError for a link.
            remote: where to; with a slash at its end, the folder to put it in.
            follow_symlinks: copy what ``local`` leads to, if it is a link.
        """
        source, target = Path(check_path(local, "upload")), check_path(remote, "upload")
        if target.endswith("/"):
            target += source.name
        self._lifecycle.require_for_change().upload(named("upload", source, follow=follow_symlinks), target)

    def download(
        self, remote: str | os.PathLike[str], local: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """Copy a file or folder out; ``local`` is its new path. A folder is merged into one that is there.

        Args:
            remote: a file or folder of the sandbox.
            local: where to. UsageError for a link to a folder.
            follow_symlinks: use the folder that ``local`` leads to, if it is a link.
        """
        source, target = check_path(remote, "download"), Path(check_path(local, "download"))
        if target.is_dir():  # a file takes the place of any other link
            target = named("download", target, follow=follow_symlinks)
        self._held().sandbox.download(source, target)

    # --- checkpoints --------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Remember files and living processes as they are; ``reset`` returns here. Acquiring made the first one."""
        self._tasks.in_turn(OpenSandbox.remember)

    def push_checkpoint(self) -> None:
        """Remember as ``checkpoint`` does, and keep the checkpoint before: ``pop_checkpoint`` brings it back."""
        self._tasks.in_turn(OpenSandbox.remember_too)

    def pop_checkpoint(self) -> None:
        """Give up what the last ``push_checkpoint`` remembered: ``reset`` returns to the checkpoint before it."""
        self._tasks.in_turn(OpenSandbox.forget)

    def reset(self) -> None:
        """Return to the last checkpoint. What was started since has ended."""
        self._tasks.in_turn(self._lifecycle.renew)

    # --- behind them, and their async twins ---------------------------------------------------

    @property
    def _needs_sandbox(self) -> bool:
        return self._lifecycle.missing

    def _held(self) -> OpenSandbox:
        """The sandbox in hand, or SandboxClosed."""
        return self._lifecycle.require()

    def _create(self, cancellation: Cancellation | None) -> None:
        seconds, isolation = self._lifecycle.create(cancellation)
        notifications.notify_ready(self, seconds, isolation)

    def _discard(self, cancellation: Cancellation) -> None:
        """Delete the sandbox if it was opened by the call of that cancellation."""
        if self._lifecycle.opened_by(cancellation):
            self.delete_sandbox()

    def _execute(
        self,
        steps: tuple[Step, ...],
        timeout: float | str | None,
        retries: int,
        on_output: OnOutput | None,
        cancellation: Cancellation | None,
    ) -> TaskResult:
        finished = partial(notifications.notify_finished, self)
        return self._tasks.execute(steps, timeout, retries, on_output, finished, cancellation)

    def _run(self, step: Command, timeout: float | str | None, cancellation: Cancellation | None) -> StepResult:
        # The step has the limit that the call gave; the session's own must not end it earlier.
        bound = None if timeout is None else float("inf")
        return self._execute((step,), bound, 0, None, cancellation).steps[0]

    def _start(self, step: Command, cancellation: Cancellation | None) -> Process:
        return self._tasks.start(step, partial(notifications.notify_finished, self), cancellation)

    def __repr__(self) -> str:
        held = self._lifecycle.held
        state = "no sandbox" if held is None else "closed" if held.closed else held.sandbox.isolation
        return f"<{type(self).__name__} {self.name!r} of pool {self.pool_ref!r}, {state}>"
