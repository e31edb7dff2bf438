"""What the contract's tests look with: programs for the inside of a sandbox, and eyes for this machine.

A probe that finds nothing proves nothing until it has found something, so that every program here can run in both places:
``python`` runs it in a sandbox, ``on_host`` on this machine, where nothing stops it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import Process, SandboxSession, StepResult

__all__ = [
    "NOISE",
    "agent_of",
    "agents",
    "high_water",
    "living",
    "marked",
    "new_marker",
    "on_host",
    "parents",
    "python",
    "start_python",
]

NOISE = 1.5
"""Seconds that a busy machine may add to what the contract promises."""

_LIVING = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid()):
        try:
            state = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0]
            argv = open(f"/proc/{name}/cmdline").read().replace("\\0", " ").replace("\\n", " ")
        except OSError:
            continue
        if state not in "ZX":
            print(name, argv[-200:])
"""


def python(sandbox: SandboxSession, code: str, *argv: str, timeout: float | None = 60.0) -> StepResult:
    """Run a Python program in the sandbox."""
    return sandbox.run("python3", "-I", "-c", dedent(code), *argv, timeout=timeout)


def start_python(sandbox: SandboxSession, code: str, *argv: str) -> Process:
    """Run a Python program in the sandbox's background; gives it once it has printed ``ready``."""
    process = sandbox.start("python3", "-I", "-u", "-c", dedent(code), *argv)
    if not until(lambda: "ready" in process.stdout, 60):
        message = f"the probe is not ready: {process.stderr}"
        raise AssertionError(message)
    return process


def on_host(code: str, *argv: str, user: int | None = None, close_fds: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the same program on this machine, where nothing stops it."""
    return subprocess.run(
        [sys.executable, "-I", "-c", dedent(code), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=user,
        close_fds=close_fds,
    )


def living(sandbox: SandboxSession) -> list[str]:
    """What runs in the sandbox beside the agent and the one who looks: a line each, the pid and the end of its argv."""
    return python(sandbox, _LIVING).check().stdout.splitlines()


def new_marker() -> str:
    """Digits that nothing else on this machine has in its argv: good for ``sleep 1000.DIGITS`` too."""
    return f"7{random.randrange(10**17):017}"


def marked(marker: str) -> set[int]:
    """Processes of this machine with that text in their argv, sandboxed ones included."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if marker.encode() in Path("/proc", name, "cmdline").read_bytes():
                    found.add(int(name))
            except OSError:
                continue
    return found


def parents(pid: int) -> list[int]:
    """The ancestors of a process of this machine, nearest first."""
    found = []
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def agent_of(marker: str) -> int:
    """The pid, out here, of the agent under which a marked process runs: PID 1 of that process's namespace."""
    for pid in marked(marker):
        for parent in parents(pid):
            status = Path(f"/proc/{parent}/status").read_text()
            inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(inner) > 1 and inner[-1] == "1":
                return parent
    message = f"no process with {marker} in its argv runs below an agent"
    raise LookupError(message)


def agents() -> set[int]:
    """The agents, out here, of all sandboxes that this process has made."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and os.getpid() in parents(int(name)):
            try:
                status = Path("/proc", name, "status").read_text()
            except OSError:
                continue
            inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(inner) > 1 and inner[-1] == "1":
                found.add(int(name))
    return found


def high_water(status: str) -> int:
    """The most memory that a process held, by its /proc/PID/status."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
