"""SandboxSession: a sandbox, and everything that can be done with it, with pytest or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.session import validation
from pytest_arl.session.async_bridge import in_caller, in_thread, iterate
from pytest_arl.session.blocking import BlockingSession
from pytest_arl.session.fair_queue import Cancellation
from pytest_arl.steps import parse_steps

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from pytest_arl.backends.base import OnOutput, StreamName
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session.process import Process
    from pytest_arl.steps import Step

__all__ = ["SandboxSession"]


class SandboxSession(BlockingSession):
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

    async def acreate_sandbox(self) -> None:
        """``create_sandbox`` for async code. A cancelled one leaves no sandbox behind."""
        __tracebackhide__ = True
        cancellation = Cancellation()
        try:
            await in_thread(lambda: self._create(cancellation), cancellation, leave=True)
        except BaseException:
            self._discard(cancellation)
            raise

    async def adelete_sandbox(self) -> None:
        """``delete_sandbox`` for async code."""
        __tracebackhide__ = True
        await in_thread(self.delete_sandbox)

    async def aexecute(
        self,
        steps: Iterable[Step | Mapping[str, Any]],
        *,
        timeout: float | str | None = None,  # noqa: ASYNC109 - as execute() has it
        retries: int = 0,
        on_output: OnOutput | None = None,
    ) -> TaskResult:
        """``execute`` for async code; ``on_output`` is called in the event loop's thread."""
        __tracebackhide__ = True
        parsed = parse_steps(steps)
        validation.callback(on_output)
        cancellation = Cancellation()
        relay = in_caller(on_output, cancellation)
        return await in_thread(lambda: self._execute(parsed, timeout, retries, relay, cancellation), cancellation)

    async def arun(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,  # noqa: ASYNC109 - as run() has it
        cpu_time: float | str | None = None,
    ) -> StepResult:
        """``run`` for async code."""
        __tracebackhide__ = True
        step = validation.command(
            "arun", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=False
        )
        cancellation = Cancellation()
        return await in_thread(lambda: self._run(step, timeout, cancellation), cancellation)

    async def astart(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | str | None = None,  # noqa: ASYNC109 - as start() has it
        cpu_time: float | str | None = None,
    ) -> Process:
        """``start`` for async code; the Process has async methods too."""
        __tracebackhide__ = True
        step = validation.command(
            "astart", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=True
        )
        cancellation = Cancellation()
        return await in_thread(lambda: self._start(step, cancellation), cancellation)

    async def awrite(self, path: str | os.PathLike[str], content: str | bytes, mode: int | None = None) -> None:
        """``write`` for async code."""
        __tracebackhide__ = True
        await in_thread(lambda: self.write(path, content, mode))

    async def aread(self, path: str | os.PathLike[str]) -> bytes:
        """``read`` for async code."""
        __tracebackhide__ = True
        return await in_thread(lambda: self.read(path))

    async def aread_text(self, path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
        """``read_text`` for async code."""
        __tracebackhide__ = True
        return await in_thread(lambda: self.read_text(path, encoding, errors))

    async def aupload(
        self, local: str | os.PathLike[str], remote: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """``upload`` for async code."""
        __tracebackhide__ = True
        await in_thread(lambda: self.upload(local, remote, follow_symlinks=follow_symlinks))

    async def adownload(
        self, remote: str | os.PathLike[str], local: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """``download`` for async code."""
        __tracebackhide__ = True
        await in_thread(lambda: self.download(remote, local, follow_symlinks=follow_symlinks))

    async def acheckpoint(self) -> None:
        """``checkpoint`` for async code."""
        __tracebackhide__ = True
        await in_thread(self.checkpoint)

    async def areset(self) -> None:
        """``reset`` for async code."""
        __tracebackhide__ = True
        await in_thread(self.reset)

    def aoutput(self, step: StepResult | str, stream: StreamName) -> AsyncIterator[bytes]:
        """``output`` for async code: ``async for block in session.aoutput(step, "stdout")``."""
        __tracebackhide__ = True
        return iterate(lambda: self.output(step, stream))

    async def __aenter__(self) -> Self:
        __tracebackhide__ = True
        if self._has_none:
            await self.acreate_sandbox()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if not self.keep_alive:
            await self.adelete_sandbox()
