"""Code that makes this side wait: every exchange ends on time, in every tier."""

from __future__ import annotations

import time

import pytest

from pytest_arl import SandboxSession
from pytest_arl.agent_client.task_run import GRACE_SECONDS
from tests.attacks.conftest import OpenSandbox, descriptors, python

_MUCH = bytes(4_000_000)
"""More than a pipe takes, however large."""


def test_a_process_that_does_not_read_holds_nobody_up(open_sandbox: OpenSandbox) -> None:
    sandbox = open_sandbox(timeout=2)
    process = sandbox.start("sleep", "1000")
    with pytest.raises(TimeoutError, match=r"'sleep' did not read its stdin within 2 s: it took \d+ of 4000000 bytes"):
        process.write(_MUCH)
    with pytest.raises(TimeoutError, match="within 100 ms"):
        process.write("more", timeout=0.1)
    process.close_stdin()
    assert process.poll() is None, "control: it lives, and so does the sandbox"
    process.kill()
    assert sandbox.run("true").ok


def test_a_process_that_reads_late_gets_all_of_it(open_sandbox: OpenSandbox) -> None:
    sandbox = open_sandbox(timeout=60)
    process = sandbox.start("sh", "-c", "sleep 1; wc -c")
    process.write(_MUCH)
    process.close_stdin()
    assert process.wait(60).stdout.split() == ["4000000"]


@pytest.mark.parametrize("stopped", [True, False])
def test_one_that_is_stopped_or_ignores_signals_can_be_killed(sandbox: SandboxSession, stopped: bool) -> None:
    code = f"""
        import os, signal, time
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        print("ready", flush=True)
        if {stopped}: os.kill(os.getpid(), signal.SIGSTOP)
        while True: time.sleep(1)
    """
    process = sandbox.start("python3", "-I", "-c", "\n".join(line[8:] for line in code.splitlines()))
    end = time.monotonic() + 20
    while not process.stdout and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    assert process.wait(0).outcome == "Killed"


def test_a_timeout_holds_whatever_the_step_has_open(open_sandbox: OpenSandbox) -> None:
    code = """
        import os, resource, time
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 10
        for _ in range(60):
            if not os.fork():
                for _ in range(most): os.dup(0)
                os.dup2(0, most + 9)
                time.sleep(1000)
        print("ready", flush=True)
        time.sleep(1000)
    """
    sandbox = open_sandbox(f"files = {descriptors(60, 8000)}\n")
    for timeout in (3, 30):  # a slow machine has not started them all by then
        result = python(sandbox, code, timeout=timeout)
        if result.stdout:
            break

    assert result.stdout == "ready\n", "control: up to 480,000 of them were there"
    assert result.outcome == "TimedOut"
    assert result.duration < timeout + GRACE_SECONDS
