"""gVisor lets a process send PID 1 whatever it likes: the agent lives, or its sandbox is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from pytest_arl import SandboxLost
from tests.agent.harness import command, task
from tests.gvisor.steps import Steps

Start = Callable[..., Steps]

_SEND = """
    import os, signal, sys
    for number in signal.valid_signals() - {int(word) for word in sys.argv[1:]}:
        os.kill(1, number)
    print("survived")
"""
_DEADLY = [str(int(each)) for each in (signal.SIGKILL, signal.SIGSTOP)]


def test_no_signal_that_can_be_ignored_ends_an_agent_of_the_steps_own_user(start: Start) -> None:
    sandbox = start()
    users = sandbox.run("grep", "-h", "^Uid", "/proc/1/status", "/proc/self/status").stdout.splitlines()

    assert users[0] == users[1], "as in a pod"
    assert sandbox.python(_SEND, *_DEADLY).stdout == "survived\n"
    assert sandbox.run("echo", "agent too").stdout == "agent too\n"


def test_steps_have_signals_as_anywhere(start: Start) -> None:
    sandbox = start()
    masks = sandbox.run("grep", "-E", "SigIgn|SigBlk", "/proc/self/status").stdout.split()[1::2]
    ended = sandbox.run("sh", "-c", "kill -USR1 $$")

    assert [int(mask, 16) for mask in masks] == [0] * len(masks)
    assert (ended.outcome, ended.signal) == ("Killed", "SIGUSR1")


def test_killing_an_agent_of_the_steps_own_user_is_sandbox_lost(start: Start) -> None:
    sandbox = start()
    steps = [command("echo", "before"), command("sh", "-c", "sleep 0.5; kill -9 1; sleep 60"), command("true")]

    with pytest.raises(SandboxLost):
        sandbox.handle.execute(task(*steps), None)
    assert [step.outcome for step in sandbox.handle.partial][:1] == ["Succeeded"]
    assert all(not step.ok for step in sandbox.handle.partial[1:])
    assert sandbox.box.container.ended()
    with pytest.raises(SandboxLost):
        sandbox.run("true")


def test_stopping_an_agent_of_the_steps_own_user_is_sandbox_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = start()
    monkeypatch.setattr("pytest_arl.agent_client.agent_socket._SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("pytest_arl.agent_client.agent_socket._ANSWER_SECONDS", 5.0)

    assert sandbox.run("sleep", "1").ok, "control"
    with pytest.raises(SandboxLost):
        sandbox.run("sh", "-c", "kill -STOP 1; sleep 60")


def test_no_signal_at_all_reaches_an_agent_with_a_user_of_its_own(start: Start) -> None:
    sandbox = start(privileged=True)
    refused = sandbox.python("""
        import os, signal
        for number in signal.valid_signals():
            try: os.kill(1, number)
            except PermissionError: print(number)
    """)

    assert [int(line) for line in refused.stdout.split()] == sorted(signal.valid_signals())
    assert sandbox.run("echo", "agent too").stdout == "agent too\n"


def test_steps_of_an_agent_with_a_user_of_its_own_are_wholly_of_theirs(start: Start) -> None:
    sandbox = start(privileged=True)
    steps = sandbox.run("grep", "-E", "^(Uid|Gid|Groups|CapEff|CapBnd|NoNewPrivs)", "/proc/self/status").stdout
    agents = sandbox.run("grep", "-E", "^(Uid|CapEff|CapPrm|CapBnd)", "/proc/1/status").stdout

    assert [line.split()[1:] for line in steps.splitlines()[:2]] == [["10001"] * 4] * 2
    assert "CapEff:\t0000000000000000" in steps
    own, effective, saved, files = agents.splitlines()[0].split()[1:]
    assert (effective, files) == ("10001", "10001")
    assert own == saved != effective
    assert agents.count("0000000000000000") == 3


def test_an_agent_with_a_user_of_its_own_kills_and_writes_as_ever(start: Start) -> None:
    sandbox = start(privileged=True)
    late = sandbox.run("sh", "-c", "sleep 60 & setsid sleep 60 & sleep 60", timeout=1)
    (patch,) = sandbox.handle.execute(task({"type": "FilePatch", "path": "f", "content": "x"}), None)

    assert late.outcome == "TimedOut"
    assert sandbox.run("ps", "-e", "-o", "comm=").stdout.count("sleep") == 0
    assert patch.ok
    assert sandbox.run("stat", "-c", "%u", "f").stdout == "10001\n"
    assert sandbox.run("no-such-program").exit_code == 127


def test_what_supervises_a_background_program_of_such_an_agent_is_out_of_reach_too(start: Start) -> None:
    sandbox = start(privileged=True)
    (background,) = sandbox.handle.execute(task(command("sleep", "1000", background=True), name="background"), None)
    killed = sandbox.python("""
        import os
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1":
                status = open(f"/proc/{name}/status").read()
                parent = next(line for line in status.splitlines() if line.startswith("PPid")).split()[1]
                comm = open(f"/proc/{name}/cmdline").read()
                if "sleep" not in comm and parent == "1" and int(name) != os.getppid() and int(name) != os.getpid():
                    try: os.kill(int(name), 9)
                    except PermissionError: print("refused")
    """)

    assert background.ok
    assert "refused" in killed.stdout
    assert sandbox.handle.process("background", 0).wait(0) is None
