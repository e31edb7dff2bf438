"""Containers of runsc, gVisor's runtime: $ARL_TEST_RUNSC is its path.

Each start has a deadline: a runsc that was built with cgo, or lacks a right, says nothing and starts nothing.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["START_SECONDS", "Container", "Runsc", "missing"]

START_SECONDS = 60.0
_END_SECONDS = 20.0
_LOG_BYTES = 4000


@functools.cache
def missing() -> str:
    """The reason that there is no runsc to test with; empty where there is one."""
    path = os.environ.get("ARL_TEST_RUNSC")
    if not path:
        return "ARL_TEST_RUNSC names no runsc (see CONTRIBUTING.md)"
    if os.geteuid() != 0:
        return "runsc is started as root here"
    try:
        subprocess.run([path, "--version"], capture_output=True, check=True, timeout=START_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return f"ARL_TEST_RUNSC names no runsc that runs: {error}"
    return ""


class Runsc:
    """runsc with a folder of its own for what it knows of its containers."""

    def __init__(self) -> None:
        self._keep = ExitStack()
        self.folder = Path(self._keep.enter_context(tempfile.TemporaryDirectory(prefix="arl-runsc-")))
        self.folder.chmod(0o755)
        (self.folder / "root").mkdir()

    def line(self, network: str, *words: str, cgroups: bool = False) -> list[str]:
        """The command of runsc with these words."""
        own = ["--root", str(self.folder / "root"), "--platform=systrap", f"--network={network}", "--overlay2=none"]
        return [os.environ["ARL_TEST_RUNSC"], *own, *([] if cgroups else ["--ignore-cgroups"]), *words]

    def close(self) -> None:
        """Take away what is left: a mount of an empty network namespace."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", target], check=False)
        self._keep.close()


class Container:
    """One container, by its bundle's folder; ``passed`` descriptors have the same numbers in it."""

    def __init__(
        self, runsc: Runsc, name: str, bundle: Path, passed: Sequence[int], *, network: str, cgroups: bool = False
    ) -> None:
        self._line = functools.partial(runsc.line, network, cgroups=cgroups)
        self._name = name
        self._log = bundle / "log"
        given = [f"--pass-fd={number}:{number}" for number in passed]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._line("run", "--bundle", str(bundle), *given, name),
                pass_fds=passed,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        """The last words of runsc."""
        return self._log.read_text(errors="replace")[-_LOG_BYTES:]

    def ended(self, seconds: float = _END_SECONDS) -> bool:
        """True if it ends by itself within that time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def kill(self) -> None:
        """End it at once, with all that runs in it."""
        with suppress(subprocess.SubprocessError):
            subprocess.run(
                self._line("delete", "--force", self._name), capture_output=True, timeout=_END_SECONDS, check=False
            )
        if not self.ended():
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Let it end, or end it. Idempotent."""
        if not self.ended(1.0):
            self.kill()
