"""The async methods of a session: twins of the blocking ones, which each run in a thread of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.session import validation
from pytest_arl.session.async_bridge import in_caller, in_thread, iterate
from pytest_arl.session.fair_queue import Cancellation
from pytest_arl.steps import parse_steps

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Protocol, Self

    from pytest_arl.backends.base import OnOutput, StreamName
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session.process import Process
    from pytest_arl.steps import Command, Step

    _Path = str | os.PathLike[str]

    class _Blocking(Protocol):
        """The blocking methods that the async ones await."""

        @property
        def keep_alive(self) -> bool: ...
        @property
        def _needs_sandbox(self) -> bool: ...

        def _create(self, cancellation: Cancellation | None) -> None: ...
        def _discard(self, cancellation: Cancellation) -> None: ...
        def _execute(
            self,
            steps: tuple[Step, ...],
            timeout: float | str | None,
            retries: int,
            on_output: OnOutput | None,
            cancellation: Cancellation | None,
        ) -> TaskResult: ...
        def _run(self, step: Command, timeout: float | str | None, cancellation: Cancellation | None) -> StepResult: ...
        def _start(self, step: Command, cancellation: Cancellation | None) -> Process: ...

        def delete_sandbox(self) -> None: ...
        def write(self, path: _Path, content: str | bytes, mode: int | None = None) -> None: ...
        def read(self, path: _Path) -> bytes: ...
        def read_text(self, path: _Path, encoding: str = "utf-8", errors: str = "strict") -> str: ...
        def upload(self, local: _Path, remote: _Path, *, follow_symlinks: bool = False) -> None: ...
        def download(self, remote: _Path, local: _Path, *, follow_symlinks: bool = False) -> None: ...
        def checkpoint(self) -> None: ...
        def reset(self) -> None: ...
        def output(self, step: StepResult | str, stream: StreamName) -> Iterator[bytes]: ...

else:
    _Blocking = object

__all__ = ["AsyncMethods"]

__tracebackhide__ = True


class AsyncMethods(_Blocking):
    """The async methods. See :class:`pytest_arl.SandboxSession`, which has the blocking ones."""

    async def acreate_sandbox(self) -> None:
        """``create_sandbox`` for async code. A cancelled one leaves no sandbox behind."""
        cancellation = Cancellation()
        try:
            await in_thread(lambda: self._create(cancellation), cancellation, leave=True)
        except BaseException:
            self._discard(cancellation)
            raise

    async def adelete_sandbox(self) -> None:
        """``delete_sandbox`` for async code."""
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
        step = validation.command(
            "astart", argv, env=env, work_dir=work_dir, stdin=stdin, timeout=timeout, cpu_time=cpu_time, background=True
        )
        cancellation = Cancellation()
        return await in_thread(lambda: self._start(step, cancellation), cancellation)

    async def awrite(self, path: str | os.PathLike[str], content: str | bytes, mode: int | None = None) -> None:
        """``write`` for async code."""
        await in_thread(lambda: self.write(path, content, mode))

    async def aread(self, path: str | os.PathLike[str]) -> bytes:
        """``read`` for async code."""
        return await in_thread(lambda: self.read(path))

    async def aread_text(self, path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
        """``read_text`` for async code."""
        return await in_thread(lambda: self.read_text(path, encoding, errors))

    async def aupload(
        self, local: str | os.PathLike[str], remote: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """``upload`` for async code."""
        await in_thread(lambda: self.upload(local, remote, follow_symlinks=follow_symlinks))

    async def adownload(
        self, remote: str | os.PathLike[str], local: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> None:
        """``download`` for async code."""
        await in_thread(lambda: self.download(remote, local, follow_symlinks=follow_symlinks))

    async def acheckpoint(self) -> None:
        """``checkpoint`` for async code."""
        await in_thread(self.checkpoint)

    async def areset(self) -> None:
        """``reset`` for async code."""
        await in_thread(self.reset)

    def aoutput(self, step: StepResult | str, stream: StreamName) -> AsyncIterator[bytes]:
        """``output`` for async code: ``async for block in session.aoutput(step, "stdout")``."""
        return iterate(lambda: self.output(step, stream))

    async def __aenter__(self) -> Self:
        if self._needs_sandbox:
            await self.acreate_sandbox()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.keep_alive:
            await self.adelete_sandbox()
