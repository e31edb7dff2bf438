"""Memory where it does not show, in every tier: whatever takes it, the limit is named and this machine keeps its own."""

from __future__ import annotations

import time

import pytest

from pytest_arl import SandboxSession
from tests.attacks.conftest import python

_HEAD = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
MIB = 2**20
def each_of(count, hoard):
    for _ in range(count):
        if os.fork() == 0:
            kept = hoard()
            time.sleep(20)
            os._exit(0)
    sys.exit(os.wait()[1] != 0)
def hide():
    libc.prctl(4, 0, 0, 0, 0)
def fill(memory):
    for at in range(0, len(memory), 4096):
        memory[at] = 1
    return memory
"""

HOARDS = {
    "anonymous": "each_of(8, lambda: fill(bytearray(100 * MIB)))",
    "anonymous, hidden": "each_of(8, lambda: (hide(), fill(bytearray(100 * MIB))))",
    "shared, hidden": "each_of(8, lambda: (hide(), fill(mmap.mmap(-1, 100 * MIB))))",
    "semaphores": """
        sets = 0
        while libc.semget(0, 32000, 0o600) >= 0 and sets < 600:
            sets += 1
        sys.exit(1)
    """,
    "messages": """
        message = (1).to_bytes(8, "little") + bytes(8192)
        for _ in range(32000):
            queue = libc.msgget(0, 0o600)
            while libc.msgsnd(queue, message, 8192, 0o4000) == 0:
                pass
        sys.exit(1)
    """,
}


def hoard(how: str) -> str:
    return _HEAD + "\n".join(line.removeprefix("        ") for line in HOARDS[how].splitlines())


@pytest.mark.parametrize("how", HOARDS)
def test_memory_that_is_taken_is_counted(sandbox: SandboxSession, how: str) -> None:
    result = python(sandbox, hoard(how), timeout=100)
    assert not result.ok
    assert result.limit == "memory 256Mi", result
    assert result.duration < 90


@pytest.mark.parametrize("how", ["anonymous", "semaphores"])
def test_memory_that_a_background_process_takes_is_counted(sandbox: SandboxSession, how: str) -> None:
    process = sandbox.start("python3", "-I", "-c", hoard(how))
    assert not process.wait(90).ok
    began = time.monotonic()
    assert sandbox.run("true", timeout=10).outcome in {"Succeeded", "OutOfMemory"}
    assert time.monotonic() - began < 5
