"""Differences of gVisor's kernel: where one of these fails, the agent may know less."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from tests.agent.harness import command, task
from tests.gvisor.steps import Steps

Start = Callable[..., Steps]

_OBJECTS = """
    import ctypes, sys
    libc = ctypes.CDLL(None)
    create = 0o1600 if sys.argv[1] == "make" else 0
    print(libc.shmget(4242, 4096, create) >= 0, libc.msgget(4242, create) >= 0, libc.semget(4242, 3, create) >= 0)
"""


def test_a_reset_removes_system_v_objects_that_no_table_lists(start: Start) -> None:
    sandbox = start()
    (background,) = sandbox.handle.execute(task(command("sleep", "1000", background=True)), None)
    with closing(sandbox.handle.checkpoint()) as checkpoint:
        made, kept = sandbox.python(_OBJECTS, "make"), sandbox.python(_OBJECTS, "look")
        listed = sandbox.run("cat", "/proc/sysvipc/shm")
        restored = sandbox.handle.restore(checkpoint)

    assert background.ok
    assert (made.stdout, kept.stdout) == ("True True True\n",) * 2, "control"
    assert not listed.stdout.splitlines()[1:], "control"
    assert restored is sandbox.handle, "in place, as a program lives"
    assert sandbox.python(_OBJECTS, "look").stdout == "False False False\n"


def test_a_named_pipe_in_the_place_of_a_program_is_waited_for_by_nobody(start: Start) -> None:
    sandbox = start()
    sandbox.run("sh", "-c", "mkfifo pipe; chmod +x pipe").check()
    began = time.monotonic()
    result = sandbox.run("./pipe", timeout=30)

    assert (result.exit_code, time.monotonic() - began < 20) == (126, True)
    assert "Permission denied" in result.stderr


def test_limits_that_nobody_may_set_are_left_and_those_of_the_pool_are_kept(start: Start) -> None:
    result = start(files=99, processes=17).python("""
        import resource
        try: resource.setrlimit(resource.RLIMIT_MSGQUEUE, resource.getrlimit(resource.RLIMIT_MSGQUEUE))
        except ValueError: print("refused")
        print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_NPROC)[0] >= 17)
    """)

    assert result.stdout == "refused\n(99, 99) True\n"


def test_a_limit_of_data_segments_is_taken_and_means_nothing(start: Start) -> None:
    """So nothing here may rely on it: a pool's memory is counted by the agent."""
    result = start().python("""
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 26, 1 << 26))
        print(len(b"x" * (1 << 28)) >> 20)
    """)

    assert result.stdout == "256\n"


def test_memory_is_watched_though_the_agent_may_open_nothing_more(start: Start) -> None:
    result = start(memory=128 << 20).python("""
        import resource, time
        resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
        x = b"x" * (256 << 20)
        time.sleep(30)
    """)

    assert (result.outcome, result.limit) == ("OutOfMemory", "memory 128Mi")


def test_what_is_given_back_late_does_not_end_the_next_step(start: Start) -> None:
    sandbox = start(memory=256 << 20)
    for _ in range(3):
        bomb = sandbox.python("x = []\nwhile True: x.append(b'x' * (1 << 20))")
        after = [sandbox.run("true").outcome for _ in range(5)]

        assert bomb.outcome == "OutOfMemory"
        assert after == ["Succeeded"] * 5


def test_how_many_processes_were_started_is_not_guessed(start: Start) -> None:
    result = start().python("import threading; threading.Thread(target=int).start()")

    assert result.ok
    assert result.usage is not None
    assert result.usage.processes is None
