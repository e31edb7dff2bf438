"""This side of a worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks import processes

if TYPE_CHECKING:
    from benchmarks.contenders import Contender

__all__ = ["NoAnswer", "Worker"]

_REPOSITORY = Path(__file__).resolve().parent.parent


class NoAnswer(Exception):
    """The worker did not answer in time, or ended; the text says which. It is gone now."""


class Worker:
    """A contender's process, its temporary folder, and the line to it. A context manager."""

    def __init__(self, contender: Contender, *, quick: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="arl-benchmarks-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        here, there = socket.socketpair()
        argv = [str(contender.python), "-m", "benchmarks.worker", contender.module, contender.function]
        path = [str(folder) for folder in (contender.source, _REPOSITORY) if folder is not None]
        with there, (self.folder / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [*argv, str(there.fileno()), "1" if quick else "0"],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=[there.fileno()],
                env={**os.environ, **contender.env, "PYTHONPATH": os.pathsep.join(path), "TMPDIR": str(self.folder)},
            )
        self._connection = here
        self._lines = here.makefile("rw")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, patience: float, **request: object) -> dict[str, Any]:
        """The answer to a request. NoAnswer after ``patience`` seconds, or where the worker ends first."""
        self._connection.settimeout(patience)
        try:
            self._lines.write(json.dumps(request) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        except TimeoutError:
            self.kill()
            raise NoAnswer(f"over {patience:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            said = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
            self.kill()
            raise NoAnswer(said[-1][:200] if said else f"ended with {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """SIGKILL, and everything that descends from it: it had its chance."""
        below = [process.pid for process in processes.descendants(self.process.pid)]
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        processes.kill(below)
        self.process.wait()

    def close(self) -> None:
        """Let it end as a program does; then whatever is left is removed."""
        if self.process.poll() is None:
            with suppress(NoAnswer):
                self.ask(30, do="stop")
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()
        self._lines.close()
        self._connection.close()
        self._folder.cleanup()
