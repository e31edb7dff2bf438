"""What a step tries beside a background process, where not everything may be killed when it ends."""

from __future__ import annotations

import time

import pytest

from pytest_arl import Process, SandboxSession
from tests.attacks.conftest import BEATING, beats, python
from tests.waiting import until

HIDING = {
    "a first thread that ended": """
        ctypes.CDLL(None)  # what runs later cannot be loaded then
        if os.fork() == 0:
            os.setsid()
            threading.Thread(target=beat).start()
            time.sleep(0.05)
            ctypes.CDLL(None).syscall(ctypes.c_long({"x86_64": 60, "aarch64": 93}[os.uname().machine]), 0)
    """,
    "forking and exiting all the time": """
        if os.fork() == 0:
            os.setsid()
            while True:
                if os.fork():
                    os._exit(0)
                open("/workspace/beat", "w").close()
    """,
    "a subreaper of its own": """
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
            if os.fork() == 0:
                os.setsid()
                if os.fork():
                    os._exit(0)
                beat()
            time.sleep(1000)
    """,
    "stopped, its child running": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                beat()
            os.kill(os.getpid(), signal.SIGSTOP)
    """,
}


def hide(how: str) -> str:
    body = "\n".join(line[8:] for line in HIDING[how].splitlines())
    return f"import ctypes, os, signal, threading, time\n{BEATING}\n{body}\ntime.sleep(0.15)\n"


def signal_the_supervisor(name: str, then_sleep: float) -> str:
    """A program that leaves a child that beats, and signals what supervises it."""
    return f"""
import os, signal, time
{BEATING}
if os.fork() == 0:
    os.setsid()
    beat()
os.kill(os.getppid(), signal.{name})
time.sleep({then_sleep})
"""


@pytest.fixture
def server(sandbox: SandboxSession) -> Process:
    return sandbox.start("sleep", "1000")


@pytest.mark.parametrize("how", HIDING)
def test_nothing_of_a_step_lives_on(sandbox: SandboxSession, server: Process, how: str) -> None:
    survivor = sandbox.start("python3", "-I", "-c", hide(how))
    assert any(beats(sandbox) for _ in range(20)), "the positive control: as a background process it lives on"
    survivor.kill()
    assert not beats(sandbox), "killed, with all it started"
    assert python(sandbox, hide(how)).outcome == "Succeeded"
    assert not beats(sandbox), "a step's own"
    assert sandbox.run("true").ok


def test_a_step_that_kills_what_supervises_it_does_not_succeed_and_leaves_nothing(
    sandbox: SandboxSession, server: Process
) -> None:
    code = signal_the_supervisor("SIGKILL", 0.2)
    assert python(sandbox, code).outcome == "Killed"
    assert not beats(sandbox)
    result = server.wait(5)
    assert result is not None
    assert result.outcome == "Killed", "what is no longer known for sure is not kept"


@pytest.mark.parametrize("timeout", [1.0, None], ids=["timed out", "killed"])
def test_a_program_that_stops_what_supervises_it_ends_and_what_runs_beside_it_lives(
    sandbox: SandboxSession, server: Process, timeout: float | None
) -> None:
    code = signal_the_supervisor("SIGSTOP", 1000)
    if timeout is not None:
        assert sandbox.run("python3", "-I", "-c", code, timeout=timeout).outcome == "TimedOut"
    else:
        started = sandbox.start("python3", "-I", "-c", code)
        assert any(beats(sandbox) for _ in range(20)), "control"
        started.kill()

    assert not beats(sandbox)
    assert server.poll() is None


def test_stopping_what_starts_does_not_hold_up_the_agent(sandbox: SandboxSession) -> None:
    stopper = sandbox.start(
        "python3", "-I", "-c",
        "import os, signal\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for pid in range(2, 100):\n"
        "        if pid not in (os.getpid(), os.getppid()):\n"
        "            try: os.kill(pid, signal.SIGSTOP)\n"
        "            except OSError: pass\n",
    )  # fmt: skip
    assert until(lambda: "ready" in stopper.stdout, 60)
    began = time.monotonic()
    assert sandbox.run("sleep", "0.2", timeout=1).outcome == "TimedOut"
    assert time.monotonic() - began < 2.5
    stopper.kill()
    assert sandbox.run("true", timeout=5).ok
