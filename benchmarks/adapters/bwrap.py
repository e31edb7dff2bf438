"""bubblewrap started anew for every command: what one writes oneself in an afternoon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.adapters.bare import Bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.adapters.base import Adapter

__all__ = ["make"]


class _Bubblewrap(Bare):
    """A folder, bound as /workspace into a new set of namespaces each time."""

    def __init__(self, bwrap: str) -> None:
        self._bwrap = bwrap
        options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        options += ["--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin", "--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib64"):
            top = Path("/", name)
            if top.is_symlink():
                options += ["--symlink", str(top.readlink()), str(top)]
            elif top.is_dir():
                options += ["--ro-bind", str(top), str(top)]
        self._options = [*options, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]

    def version(self) -> str:
        done = subprocess.run([self._bwrap, "--version"], capture_output=True, text=True, check=True)
        return f"{done.stdout.strip()}; no limits, no system call filter"

    def command(self, box: Path, argv: Sequence[str]) -> Sequence[str]:
        workspace = ["--bind", str(box), "/workspace", "--chdir", "/workspace"]
        return [self._bwrap, *self._options, *workspace, "--", *argv]


def make() -> Adapter:
    """The adapter."""
    return _Bubblewrap(os.environ["ARL_BENCHMARKS_BWRAP"])
