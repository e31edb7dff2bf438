"""SWE-ReX's local runtime: a bash in a terminal of its own, driven by its prompt."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import shlex
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from swerex.exceptions import CommandTimeoutError
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest, WriteFileRequest
from swerex.runtime.local import LocalRuntime

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import TypeVar

    ResultT = TypeVar("ResultT")

__all__ = ["make"]


def _text(argv: Sequence[str]) -> str:
    """Its commands are a shell's; a program stays a program, where the shell has a builtin of that name."""
    return shlex.join([shutil.which(argv[0]) or argv[0], *argv[1:]])


class _Rex(Adapter):
    """Its API is asynchronous but blocks inside, so each thread gets an event loop."""

    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)
        self._local = threading.local()
        self._folder = tempfile.TemporaryDirectory()

    def _do(self, work: Coroutine[object, object, ResultT]) -> ResultT:
        if not hasattr(self._local, "runner"):
            self._local.runner = asyncio.Runner()
        result: ResultT = self._local.runner.run(work)
        return result

    def version(self) -> str:
        return f"{importlib.metadata.version('swe-rex')}; isolates nothing, meant for use inside a container"

    def create(self) -> LocalRuntime:
        runtime = LocalRuntime()
        # Its default of one second is too short on a busy machine.
        self._do(runtime.create_session(CreateBashSessionRequest(startup_timeout=30)))
        return runtime

    def close(self, box: LocalRuntime) -> None:
        self._do(box.close())

    def run(self, box: LocalRuntime, argv: Sequence[str]) -> int:
        seen = self._do(box.run_in_session(BashAction(command=_text(argv))))
        return len(seen.output)

    def run_too_long(self, box: LocalRuntime, argv: Sequence[str], timeout: float) -> bool:
        try:
            self._do(box.run_in_session(BashAction(command=_text(argv), timeout=timeout)))
        except CommandTimeoutError:
            return True
        return False

    def write(self, box: LocalRuntime, name: str, content: str) -> None:
        path = Path(self._folder.name, name)
        self._do(box.write_file(WriteFileRequest(path=str(path), content=content)))

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.cleanup()


def make() -> Adapter:
    """The adapter."""
    return _Rex()
