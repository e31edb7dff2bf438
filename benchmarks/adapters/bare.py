"""No sandbox at all: a temporary folder and ``subprocess.run``. The floor of everything here."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.adapters.base import Adapter

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bare", "make"]


class Bare(Adapter):
    """What a test does that has never heard of sandboxes."""

    def version(self) -> str:
        return f"Python {sys.version.split()[0]}; isolates nothing"

    def create(self) -> Path:
        return Path(tempfile.mkdtemp())

    def close(self, box: Path) -> None:
        shutil.rmtree(box)

    def command(self, box: Path, argv: Sequence[str]) -> Sequence[str]:
        """What is really started."""
        del box
        return argv

    def run(self, box: Path, argv: Sequence[str]) -> int:
        done = subprocess.run(self.command(box, argv), capture_output=True, check=True, cwd=box)
        return len(done.stdout)

    def run_too_long(self, box: Path, argv: Sequence[str], timeout: float) -> bool:
        try:
            subprocess.run(self.command(box, argv), capture_output=True, check=False, cwd=box, timeout=timeout)
        except subprocess.TimeoutExpired:
            return True
        return False

    def write(self, box: Path, name: str, content: str) -> None:
        (box / name).write_text(content)


def make() -> Adapter:
    """The adapter."""
    return Bare()
