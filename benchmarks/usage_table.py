"""What a step used beside what GNU time and the program itself say: ``python -m benchmarks.usage_table``.

Each program is one step in a sandbox of whatever tier this machine and user have: GNU time is a part of it, and so
are the program's own figures, so that all three speak of the same run. Exits with 1 where they differ by more than 5 %,
and by more than what starting and ending a program costs.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from pytest_arl import SandboxSession, StepResult
from pytest_arl.settings import override

__all__ = ["GNU_TIME", "PROGRAMS", "Row", "table"]

GNU_TIME = "/usr/bin/time"
_FORMAT = '{"cpu": [%U, %S], "max_rss": %M, "read": %I, "written": %O, "voluntary": %w, "involuntary": %c}'
_BLOCK = 512
_POOL = """
[pools.table]
mounts = ["{folder}:/data:rw"]
"""

_BURN = """
import json, os, resource, sys, time

def burn(seconds):
    while time.process_time() < seconds: pass

def children(count, seconds):
    for _ in range(count):
        os.fork() or (burn(seconds), os._exit(0))
    for _ in range(count): os.wait()

def tell():
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({
        "cpu": sum(used.ru_utime + used.ru_stime for used in each),
        "max_rss": max(used.ru_maxrss for used in each) * 1024,
        "read": sum(used.ru_inblock for used in each) * 512,
        "written": sum(used.ru_oublock for used in each) * 512,
        "voluntary": sum(used.ru_nvcsw for used in each),
    }))
"""

PROGRAMS = {
    "sleeps": "time.sleep(1)",
    "computes 1 s": "burn(1)",
    "8 children of 0.1 s": "children(8, 0.1)",
    "takes 256 MiB": "memory = bytearray(b'x' * (256 << 20))\ndel memory",
    "a child takes 256 MiB": "os.fork() or (bytearray(b'x' * (256 << 20)), os._exit(0))\nos.wait()",
    "writes 16 MiB": "file = os.open('/data/file', os.O_WRONLY | os.O_CREAT)\nos.write(file, bytes(16 << 20))\n"
    "os.fsync(file)",
    "reads them": "file = os.open('/data/file', os.O_RDONLY)\nos.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)\n"
    "while os.read(file, 1 << 20): pass",
    "waits 500 times": "for _ in range(500): time.sleep(0.001)",
}
"""Python that runs between what it needs and its last words."""


class Row(NamedTuple):
    """A figure of a run, as all three have it.

    Attributes:
        ours: of the step's usage.
        gnu: GNU time's, or None where it is not installed.
        own: the program's, or None where a busy machine makes it another one by the program's end.
        least: by how much they may differ however small they are.
    """

    program: str
    figure: str
    ours: float | None
    gnu: float | None
    own: float | None
    least: float

    @property
    def agrees(self) -> bool:
        """Whether ours is as near to the others as it should be. A size that is not known claims nothing."""
        if self.ours is None:
            return True
        others = [other for other in (self.own, self.gnu) if other is not None]
        return all(abs(self.ours - other) <= max(0.05 * max(self.ours, other), self.least) for other in others)


def measured(sandbox: SandboxSession, name: str) -> list[Row]:
    """The rows of one program."""
    code = f"{_BURN}\n{PROGRAMS[name]}\ntell()"
    timed = [GNU_TIME, "-o", "/tmp/figures", "-f", _FORMAT] if Path(GNU_TIME).exists() else []
    result = sandbox.run(*timed, "python3", "-I", "-S", "-c", code).check()
    gnu = json.loads(sandbox.read_text("/tmp/figures")) if timed else None
    return _rows(name, result, gnu, json.loads(result.stdout))


def _rows(name: str, result: StepResult, gnu: dict[str, object] | None, own: dict[str, float]) -> list[Row]:
    used = result.usage
    assert used is not None
    ours = {
        "cpu": used.cpu_time,
        "max_rss": used.max_rss,
        "read": used.read_bytes,
        "written": used.write_bytes,
        "voluntary": used.voluntary_context_switches,
        "involuntary": used.involuntary_context_switches,
    }
    # GNU time's figures are hundredths of a second, user's and system's. Starting and ending cost something, also GNU
    # time itself, which is a part of the step.
    least = {
        "cpu": 0.03 + 2 * _start(),
        "max_rss": 256 * 1024,
        "read": 2**20,
        "written": 64 * 1024,
        "voluntary": 10,
        "involuntary": 50,
    }
    return [Row(name, figure, ours[figure], _of_gnu(gnu, figure), own.get(figure), least[figure]) for figure in least]


@functools.cache
def _start() -> float:
    """Seconds of processor time that a program of GNU time's size takes by itself, the largest of a few."""
    costs = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([shutil.which("env") or "env", "true"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return max(costs)


def _of_gnu(gnu: dict[str, object] | None, figure: str) -> float | None:
    if gnu is None:
        return None
    value = gnu[figure]
    if isinstance(value, list):
        return float(sum(value))
    scale = {"max_rss": 1024, "read": _BLOCK, "written": _BLOCK}.get(figure, 1)
    return float(str(value)) * scale


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure == "cpu":
        return f"{value:.3f} s"
    return f"{value / 1024:.0f} KiB" if figure in ("max_rss", "read", "written") else f"{value:.0f}"


def table() -> tuple[str, list[Row]]:
    """The tier, and the rows of every program."""
    base = os.environ.get("TMPDIR", "/var/tmp")  # a disk, where /tmp is often memory
    with tempfile.TemporaryDirectory(dir=base, prefix="arl-usage-") as folder:
        pools, data = Path(folder, "pools.toml"), Path(folder, "data")
        data.mkdir()
        data.chmod(0o777)
        pools.write_text(_POOL.format(folder=data))
        with override({"pools_file": pools}, "usage_table"), SandboxSession("table", backend="local") as sandbox:
            return sandbox.isolation or "", [row for name in PROGRAMS for row in measured(sandbox, name)]


def main() -> int:
    """Print the table."""
    tier, rows = table()
    print(f"{tier}, as {'root' if os.geteuid() == 0 else 'a user'}")
    print(f"{'':<36}" + "".join(f"{title:>14}" for title in ("GNU time", "program", "usage")))
    for row in rows:
        cells = [_shown(row.figure, value) for value in (row.gnu, row.own, row.ours)]
        mark = "" if row.agrees else "  <- differs"
        print(f"{row.program:<22}  {row.figure:<12}" + "".join(f"{cell:>14}" for cell in cells) + mark)
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
