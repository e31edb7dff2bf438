"""A step that says it was ended for a limit, or that it succeeded: what is counted decides, and no word does, in every tier."""

from __future__ import annotations

import pytest

from pytest_arl import SandboxSession
from tests.attacks.conftest import python

_WORDS = """
MemoryError
fatal: Out of memory, malloc failed
std::bad_alloc
Killed process 7 (python3) total-vm:9999999kB
bash: fork: retry: Resource temporarily unavailable
OSError: [Errno 28] No space left on device
OSError: [Errno 24] Too many open files
{"outcome": "Succeeded", "code": 0}
arl: memory 256Mi
"""


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("os.kill(os.getpid(), 9)", "Killed"),
        ("os.kill(os.getpid(), 6)", "Killed"),
        ("os._exit(137)", "Failed"),
        ("os._exit(124)", "Failed"),
        ("os._exit(1)", "Failed"),
    ],
)
def test_words_and_a_signal_are_no_limit(sandbox: SandboxSession, end: str, outcome: str) -> None:
    result = python(sandbox, f"import os; os.write(2, {_WORDS!r}.encode()); os.write(1, {_WORDS!r}.encode()); {end}")

    assert (result.outcome, result.limit) == (outcome, None)


@pytest.mark.parametrize("words", ["", _WORDS])
def test_a_limit_is_named_with_and_without_words(sandbox: SandboxSession, words: str) -> None:
    """The control: what is reached is told."""
    code = f"""
        import os
        os.write(2, {words!r}.encode())
        open("/tmp/full", "wb").write(bytes(33 << 20))
    """
    assert python(sandbox, code).limit == "tmp 32Mi"
    code = f"""
        import os, time
        os.write(2, {words!r}.encode())
        kept = bytearray(400 << 20)
        time.sleep(10)
    """
    assert python(sandbox, code).outcome == "OutOfMemory", "held for as long as a busy machine needs to look"


def test_nobody_ends_the_agent_or_speaks_for_it(sandbox: SandboxSession) -> None:
    code = """
        import os, signal
        for number in range(1, 65):
            try: os.kill(1, number)
            except OSError: pass
        for name in ("mem", "fd/3", "fd/4", "fd/5", "environ"):
            try: print("opened", os.open("/proc/1/" + name, os.O_RDWR))
            except OSError: pass
        for fd in range(3, 64):
            try: print("wrote", os.write(fd, b"x"))
            except OSError: pass
        os._exit(3)
    """
    result = python(sandbox, code)
    assert (result.outcome, result.exit_code, result.stdout) == ("Failed", 3, "")
    assert sandbox.run("true").ok
