"""pytest-arl itself, as a program without pytest uses it."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from benchmarks.adapters.base import Adapter
from pytest_arl import SandboxSession

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["make", "make_warm"]

WARM = "warm"
"""The pool of that name, in the file that the benchmark writes, keeps sandboxes ready."""


class _Arl(Adapter):
    """A session is a box."""

    def __init__(self, pool: str = "default") -> None:
        self._pool = pool

    def version(self) -> str:
        with SandboxSession() as session:
            return f"{importlib.metadata.version('pytest-arl')}; {session.isolation}"

    def create(self) -> SandboxSession:
        session = SandboxSession(pool_ref=self._pool)
        session.create_sandbox()
        return session

    def close(self, box: SandboxSession) -> None:
        box.delete_sandbox()

    def run(self, box: SandboxSession, argv: Sequence[str]) -> int:
        return box.run(*argv).check().stdout_size

    def run_too_long(self, box: SandboxSession, argv: Sequence[str], timeout: float) -> bool:
        return box.run(*argv, timeout=timeout).outcome == "TimedOut"

    def write(self, box: SandboxSession, name: str, content: str) -> None:
        box.execute([{"type": "FilePatch", "path": name, "content": content}]).check()

    def run_as_one(self, box: SandboxSession, argv: Sequence[str], count: int) -> None:
        result = box.execute([{"type": "Command", "command": list(argv)}] * count).check()
        if len(result.steps) != count:
            raise AssertionError(f"{len(result.steps)} steps instead of {count}")


class _Warm(_Arl):
    """From a pool that keeps sandboxes ready; the wait before each sample lets it refill."""

    steady = 0.1


def make() -> Adapter:
    """Cold: each sandbox is made when it is asked for."""
    return _Arl()


def make_warm() -> Adapter:
    """From the shelf."""
    return _Warm(WARM)
