"""inspect-ai's local sandbox: a temporary folder and subprocesses, made for use inside containers."""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import TYPE_CHECKING, Any

from inspect_ai.util._sandbox.local import LocalSandboxEnvironment

from benchmarks.adapters.base import ECHO, Adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["make"]


class _Inspect(Adapter):
    """Its API is asynchronous: one event loop for all."""

    timeout_unit = 1.0

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def version(self) -> str:
        return f"{importlib.metadata.version('inspect-ai')}; isolates nothing, meant for use inside a container"

    async def _create(self) -> dict[str, Any]:
        boxes: dict[str, Any] = await LocalSandboxEnvironment.sample_init("benchmark", None, {})
        return boxes

    async def _close(self, box: dict[str, Any]) -> None:
        await LocalSandboxEnvironment.sample_cleanup("benchmark", None, box, interrupted=False)

    async def _run(self, box: dict[str, Any], argv: Sequence[str]) -> int:
        done = await box["default"].exec(list(argv))
        if not done.success:
            raise AssertionError(done.stderr)
        return len(done.stdout)

    def create(self) -> dict[str, Any]:
        return self._runner.run(self._create())

    def close(self, box: dict[str, Any]) -> None:
        self._runner.run(self._close(box))

    def run(self, box: dict[str, Any], argv: Sequence[str]) -> int:
        return self._runner.run(self._run(box, argv))

    def run_too_long(self, box: dict[str, Any], argv: Sequence[str], timeout: float) -> bool:
        async def execute() -> bool:
            try:
                await box["default"].exec(list(argv), timeout=int(timeout))
            except TimeoutError:
                return True
            return False

        return self._runner.run(execute())

    def write(self, box: dict[str, Any], name: str, content: str) -> None:
        self._runner.run(box["default"].write_file(name, content))

    def lives(self, workers: int, steps: int, more: Callable[[], bool]) -> int:
        async def work() -> int:
            count = 0
            while more():
                box = await self._create()
                for _ in range(steps):
                    await self._run(box, ECHO)
                await self._close(box)
                count += 1
            return count

        async def everybody() -> list[int]:
            return await asyncio.gather(*(work() for _ in range(workers)))

        return sum(self._runner.run(everybody()))

    def stop(self) -> None:
        self._runner.close()


def make() -> Adapter:
    """The adapter."""
    return _Inspect()
