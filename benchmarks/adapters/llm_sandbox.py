"""llm-sandbox's bubblewrap session. Its Python environment is left out (making one takes seconds)."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llm_sandbox.bubblewrap import BubblewrapSession
from llm_sandbox.exceptions import SandboxTimeoutError
from llm_sandbox.local.config import LocalSandboxConfig

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["make"]

_OUTPUT = 2 * 2**30
"""Its default of 8 MiB refuses the rows with more output."""


def _text(argv: Sequence[str]) -> str:
    """Its commands are a shell's; a program stays a program, where the shell has a builtin of that name."""
    return shlex.join([shutil.which(argv[0]) or argv[0], *argv[1:]])


class _LlmSandbox(Adapter):
    def version(self) -> str:
        return f"{importlib.metadata.version('llm-sandbox')}; bubblewrap for each command, system call filter"

    def create(self) -> BubblewrapSession:
        session = BubblewrapSession(
            bwrap_path=os.environ["ARL_BENCHMARKS_BWRAP"],
            skip_environment_setup=True,
            sandbox_config=LocalSandboxConfig(max_output_bytes=_OUTPUT),
        )
        session.open()
        return session

    def close(self, box: BubblewrapSession) -> None:
        box.close()

    def run(self, box: BubblewrapSession, argv: Sequence[str]) -> int:
        done = box.execute_command(_text(argv))
        if done.exit_code:
            raise AssertionError(done.stderr)
        return len(done.stdout)

    def run_too_long(self, box: BubblewrapSession, argv: Sequence[str], timeout: float) -> bool:
        box.config.execution_timeout = timeout  # the only place where it can be said
        try:
            box.execute_command(_text(argv))
        except SandboxTimeoutError:
            return True
        return False

    def write(self, box: BubblewrapSession, name: str, content: str) -> None:
        # It copies files only, so the content has to become one first.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "content")
            path.write_text(content)
            box.copy_to_runtime(str(path), f"/sandbox/{name}")


def make() -> Adapter:
    """The adapter."""
    return _LlmSandbox()
