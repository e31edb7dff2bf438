"""Kernels that are not Linux: what the agent finds out, and what it does then, as far as Linux shows it.

Signals reach every process but an init there, so that all of that can be seen here; tests/gvisor has the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_arl
from pytest_arl.agent import ipc, system, whole_memory
from pytest_arl.agent.command import CannotStart, find_program
from tests.agent.harness import file_system

_SOURCE = str(Path(pytest_arl.__file__).parents[1])
_IMPORT = f"""
import json, os, signal, sys
sys.path.insert(0, {_SOURCE!r})
from pytest_arl.agent import command, system, unshielded
"""
_APART = """
system.harden()
unshielded.ignore_signals()
system.become(10001, 10001, unshielded.OWN_USER)
command.run_as(10001)
def spawn(*argv):
    reader, writer = os.pipe()
    nothing = os.open("/dev/null", os.O_RDWR)
    try:
        pid = command.spawn([os.fsencode(word) for word in argv], {b"PATH": b"/usr/bin:/bin"}, b"/", (nothing, writer, nothing), lambda _score: None)
    finally:
        os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(code: str, *before: str) -> Any:
    """The JSON that a Python program with the agent's modules prints."""
    argv = [*before, os.path.realpath(sys.executable), "-I", "-S", "-c", _IMPORT + code]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout)


def apart(code: str) -> Any:
    """The same by an agent that has a user of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    return run(_APART + code)


def test_an_init_is_not_reached_and_any_other_process_is(bubblewrap: str) -> None:
    ask = "print(json.dumps([os.getpid() == 1, unshielded.is_reached()]))"
    separate = [bubblewrap, "--unshare-pid", "--as-pid-1", *file_system(), "--ro-bind", _SOURCE, _SOURCE]

    assert run(ask, *separate) == [True, False]
    assert run(ask) == [False, True]


def test_a_process_that_was_reached_runs_on() -> None:
    assert run("print(json.dumps([unshielded.is_reached(), open('/proc/self/stat').read().split()[2]]))") == [True, "R"]


def test_ignored_signals_end_nothing_and_programs_have_them_at_their_default() -> None:
    said = run("""
unshielded.ignore_signals()
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    os.kill(os.getpid(), number)
argv = [b"sh", b"-c", b"grep -E 'SigIgn|SigBlk' /proc/self/status"]
pid = command.spawn(argv, {}, b"/", (0, 2, 2), lambda _score: None)
os.waitpid(pid, 0)
print(json.dumps("lives"))
""")
    assert said == "lives"


def test_programs_have_no_signal_ignored_or_blocked() -> None:
    code = """
unshielded.ignore_signals()
reader, writer = os.pipe()
argv = [b"sh", b"-c", b"grep -E 'SigIgn|SigBlk' /proc/self/status"]
os.waitpid(command.spawn(argv, {}, b"/", (0, writer, 2), lambda _score: None), 0)
own = [line.split() for line in open("/proc/self/status") if line.startswith("SigIgn")]
print(json.dumps([own[0][1], os.read(reader, 4096).decode().split()[1::2]]))
"""
    own, programs = run(code)

    assert int(own, 16).bit_count() > 50, "control"
    of_the_c_library = 1 << 31 | 1 << 32  # which it lets nobody set: whoever started these tests may ignore them
    assert [int(mask, 16) & ~of_the_c_library for mask in programs] == [0, 0]


def test_programs_run_as_the_steps_user_alone_and_cannot_signal_an_agent_apart() -> None:
    ids, killed, own = apart("""
ids = spawn("grep", "-hE", "^(Uid|Gid|Groups)", "/proc/self/status")
killed = spawn("sh", "-c", f"kill -9 {os.getpid()} || echo refused")
print(json.dumps([ids[0].split(), killed[0], os.getresuid()]))
""")

    assert ids == ["Uid:", *["10001"] * 4, "Gid:", *["10001"] * 4, "Groups:"]
    assert killed == "refused\n"
    assert own == [0x7FFF0001, 10001, 0x7FFF0001]


def test_an_agent_apart_can_signal_what_it_has_started() -> None:
    code = """
nothing = os.open("/dev/null", os.O_RDWR)
pid = command.spawn([b"sleep", b"60"], {}, b"/", (nothing,) * 3, lambda _score: None)
os.kill(pid, 9)
print(json.dumps(os.waitpid(pid, 0)[1]))
"""
    assert apart(code) == 9


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["/no/such"], 127, "/no/such: No such file or directory"),
        (["sh", "a\0b"], 126, "sh: Invalid argument"),
    ],
)
def test_what_an_agent_apart_cannot_start_is_told_as_ever(argv: list[str], code: int, reason: str) -> None:
    told = f"""
try:
    spawn(*{argv!r})
except command.CannotStart as problem:
    print(json.dumps([problem.code, problem.reason]))
"""
    found = apart(told)

    assert found[0] == code
    assert found[1].endswith(reason.rpartition("/")[2] if argv[0] == "sh" else reason)


def test_a_named_pipe_is_no_program(tmp_path: Path) -> None:
    """Linux says so at the exec, gVisor would wait."""
    pipe = os.fsencode(tmp_path / "pipe")
    os.mkfifo(pipe, 0o755)

    with pytest.raises(CannotStart, match="pipe: Permission denied") as caught:
        find_program(pipe, b"/bin")
    assert caught.value.code == 126
    assert find_program(b"/bin/sh", b"") == b"/bin/sh", "control"


def test_a_function_of_the_c_library_that_answers_a_short_minus_one_has_failed() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        system.libc("shmctl", -1, 2, system.Longs())


def test_system_v_objects_are_found_without_a_table() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    made = {"shm": libc.shmget(0, 4096, 0o1600), "msg": libc.msgget(0, 0o1600), "sem": libc.semget(0, 1, 0o1600)}
    try:
        for name, function, info, stat, place in ipc._KINDS:
            extra = (0,) if name == "sem" else ()
            assert made[name] in ipc._unlisted(function, extra, info, stat, place), name
    finally:
        libc.shmctl(made["shm"], 0, None)
        libc.msgctl(made["msg"], 0, None)
        libc.semctl(made["sem"], 0, 0)


def test_this_machines_memory_is_not_taken_for_a_sandboxs() -> None:
    assert (whole_memory.is_own(), whole_memory.limit_of_container()) == (False, None)
