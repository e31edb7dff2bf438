"""Contract, "Running": what a Command is, in which order steps run, what comes back of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.contract.probes import high_water, living, marked, new_marker, on_host, python, start_python

if TYPE_CHECKING:
    from pytest_arl import SandboxSession
    from tests.contract.backends import ContractBackend

MIB = 2**20


# 1. A Command is an argv


def test_a_command_is_an_argv_that_no_shell_reads(sandbox: SandboxSession) -> None:
    sandbox.write("a file", "")
    words = ["$HOME", "*", "a;b", "`id`", "$(id)", "", " two  spaces ", "line\nbreak", "'\"\\", "~", "{a,b}", "-n"]

    printed = sandbox.run("printf", "%s\\0", *words).check().stdout
    expanded = sandbox.run("sh", "-c", "printf '%s\\0' $HOME *").check().stdout

    assert printed.split("\0")[:-1] == words
    assert expanded.split("\0")[:-1] == ["/home/arl", "a file"]


def test_argv_and_env_carry_any_byte_but_nul(sandbox: SandboxSession) -> None:
    raw = bytes(range(1, 256))
    word = raw.decode("utf-8", "surrogateescape")

    result = sandbox.run("sh", "-c", 'printf %s "$1$RAW"', "sh", word, env={"RAW": word})

    assert result.stdout_bytes == raw + raw


def test_env_is_added_to_the_sandboxs_environment(backend: ContractBackend) -> None:
    with backend.open("furnished") as sandbox:
        plain = sandbox.run("env").check().stdout.splitlines()
        added = sandbox.run("env", env={"ADDED": "a=b\nc", "GREETING": "goodbye"}).check().stdout
        after = sandbox.run("env").check().stdout.splitlines()

    assert "GREETING=hello" in plain
    assert "PATH_LIKE=$HOME/*" in plain, "the pool's values are not expanded either"
    assert any(line.startswith("PATH=") for line in plain)
    assert "ADDED=a=b\nc\n" in added
    assert "GREETING=goodbye\n" in added
    assert "PATH=" in added
    assert sorted(after) == sorted(plain), "it was that step's alone"


def test_the_working_directory_is_the_workspace_unless_said_otherwise(sandbox: SandboxSession) -> None:
    sandbox.run("mkdir", "-p", "sub/folder").check()

    assert sandbox.run("pwd").stdout == "/workspace\n"
    assert sandbox.run("pwd", work_dir="sub/folder").stdout == "/workspace/sub/folder\n"
    assert sandbox.run("pwd", work_dir="/tmp").stdout == "/tmp\n"


def test_a_missing_work_dir_is_a_failed_step_that_names_it(sandbox: SandboxSession) -> None:
    missing = sandbox.run("pwd", work_dir="no/such place")
    sandbox.write("a-file", "")
    a_file = sandbox.run("pwd", work_dir="a-file")
    sandbox.run("mkdir", "-p", "no/such place").check()
    there = sandbox.run("pwd", work_dir="no/such place")

    assert (missing.outcome, missing.exit_code == 0) == ("Failed", False)
    assert "no/such place" in missing.stderr
    assert (a_file.outcome, "a-file" in a_file.stderr) == ("Failed", True)
    assert there.stdout == "/workspace/no/such place\n"


def test_stdin_is_what_was_given_and_else_at_its_end(sandbox: SandboxSession) -> None:
    data = bytes(range(256)) * 4096

    assert sandbox.run("cat", stdin=data).stdout_bytes == data
    assert sandbox.run("cat", timeout=10).stdout_bytes == b""
    assert sandbox.run("true", stdin=data).ok, "a program need not read it"


# 2. Order


def test_steps_run_in_order_and_stop_at_the_first_that_fails(sandbox: SandboxSession) -> None:
    def steps(second: str) -> list[dict[str, object]]:
        return [
            {"name": "first", "type": "Command", "command": ["sh", "-c", "echo 1 >> log"]},
            {"name": "second", "type": "Command", "command": ["sh", "-c", f"echo 2 >> log; {second}"]},
            {"name": "third", "type": "FilePatch", "path": "third", "content": "3"},
            {"name": "fourth", "type": "Command", "command": ["sh", "-c", "echo 4 >> log"]},
        ]

    stopped = sandbox.execute(steps("exit 3"))
    log = sandbox.read_text("log")
    third = sandbox.run("cat", "third")
    through = sandbox.execute(steps("true"))

    assert [step.outcome for step in stopped.steps] == ["Succeeded", "Failed", "Skipped", "Skipped"]
    assert [step.exit_code for step in stopped.steps] == [0, 3, None, None]
    assert (stopped.state, stopped.exit_code, stopped.ok) == ("Failed", 3, False)
    assert log == "1\n2\n"
    assert not third.ok
    assert [step.outcome for step in through.steps] == ["Succeeded"] * 4
    assert (sandbox.read_text("log"), sandbox.read_text("third")) == ("1\n2\n1\n2\n4\n", "3")


# 3. How a step ended


@pytest.mark.parametrize("code", [0, 1, 2, 42, 124, 126, 127, 128, 137, 255])
def test_a_step_that_exits_n_has_exit_code_n(sandbox: SandboxSession, code: int) -> None:
    result = sandbox.run("sh", "-c", f"exit {code}")

    assert (result.exit_code, result.signal) == (code, None)
    assert result.outcome == ("Failed" if code else "Succeeded")


@pytest.mark.parametrize("name", ["HUP", "INT", "ABRT", "KILL", "SEGV", "PIPE", "TERM", "SYS"])
def test_a_step_killed_by_signal_s_has_exit_code_128_plus_s_and_names_it(sandbox: SandboxSession, name: str) -> None:
    number = signal.Signals[f"SIG{name}"].value

    killed = sandbox.run("sh", "-c", f"kill -{number} $$")
    only_says_so = sandbox.run("sh", "-c", f"exit {128 + number}")

    assert (killed.outcome, killed.exit_code, killed.signal) == ("Killed", 128 + number, f"SIG{name}")
    assert (only_says_so.outcome, only_says_so.exit_code, only_says_so.signal) == ("Failed", 128 + number, None)


# 4. What cannot be started


@pytest.mark.parametrize("program", ["no-such-program", "./no-such-program", "/no/such/program", "a-file/below"])
def test_a_program_that_is_not_found_is_a_failed_step_127_that_says_what_was_tried(
    sandbox: SandboxSession, program: str
) -> None:
    sandbox.write("a-file", "")

    result = sandbox.execute(
        [{"type": "Command", "command": [program, "argument"]}, {"type": "Command", "command": ["true"]}]
    )

    assert [step.outcome for step in result.steps] == ["Failed", "Skipped"]
    assert result.steps[0].exit_code == 127
    assert program in result.steps[0].stderr
    assert sandbox.run("true").ok


@pytest.mark.parametrize(
    ("make", "program"),
    [
        ("printf '#!/bin/sh\\necho ran' > plain", "./plain"),
        ("mkdir folder", "./folder"),
        ("printf '#!/no/such/interpreter' > lost; chmod +x lost", "./lost"),
        ("printf '\\177ELF garbage' > garbage; chmod +x garbage", "./garbage"),
        ("mkfifo fifo; chmod +x fifo", "./fifo"),
    ],
)
def test_a_program_that_cannot_be_executed_is_a_failed_step_126_that_says_what_was_tried(
    sandbox: SandboxSession, make: str, program: str
) -> None:
    sandbox.run("sh", "-c", make).check()

    result = sandbox.run(program, timeout=10)

    assert (result.outcome, result.exit_code) == ("Failed", 126)
    assert program in result.stderr


def test_the_same_program_starts_once_it_may_be_executed(sandbox: SandboxSession) -> None:
    sandbox.write("script", "#!/bin/sh\necho ran")
    before = sandbox.run("./script")
    sandbox.run("chmod", "+x", "script").check()

    assert before.exit_code == 126
    assert sandbox.run("./script").stdout == "ran\n"


# 5. Output, exactly


def test_output_is_byte_exact_on_both_streams(sandbox: SandboxSession) -> None:
    code = """
        import os, random, sys
        generator = random.Random(7)
        for _ in range(60):
            for stream in (1, 2):
                data = generator.randbytes(generator.randrange(70_000))
                while data:
                    data = data[os.write(stream, data):]
    """

    inside = python(sandbox, code)
    outside = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, check=True)

    assert len(outside.stdout) > MIB
    assert inside.stdout_bytes == outside.stdout
    assert inside.stderr_bytes == outside.stderr
    assert (inside.stdout_size, inside.truncated) == (len(outside.stdout), False)


def test_the_last_line_needs_no_newline_and_bytes_need_not_be_text(sandbox: SandboxSession) -> None:
    result = sandbox.run("printf", "whole\\n\\377\\376\\0\\303 cut")

    assert result.stdout_bytes == b"whole\n\xff\xfe\0\xc3 cut"
    assert result.stdout == "whole\n\ufffd\ufffd\0\ufffd cut"
    assert result.stdout_size == 14


@pytest.mark.parametrize("before", [0, 100_000])
def test_output_written_in_the_last_moment_is_not_lost(sandbox: SandboxSession, before: int) -> None:
    """The pipe holds much of it still when its writer is dead already."""
    for size in (1, 4096, 65536, 1_000_000):
        code = f"""
            import os, time
            os.write(1, b"x" * {before})
            time.sleep({0.05 if before else 0})
            left = {size}
            while left: left -= os.write(1, b"x" * left)
            os.kill(os.getpid(), 9)
        """
        for _ in range(3):
            result = python(sandbox, code)
            assert (result.stdout_size, len(result.stdout_bytes)) == (before + size, before + size)


# 6. Output over the limit


@pytest.mark.parametrize(("size", "cut"), [(65535, False), (65536, False), (65537, True), (200_000, True)])
def test_head_and_tail_are_kept_over_the_limit_and_the_counts_are_real(
    small: SandboxSession, size: int, cut: bool
) -> None:
    result = python(small, f"import sys; sys.stdout.write(''.join(f'{{n:07}}\\n' for n in range(40000))[:{size}])")
    whole = "".join(f"{n:07}\n" for n in range(40000))[:size].encode()

    assert result.ok
    assert (result.truncated, result.stdout_size, result.stderr_size) == (cut, size, 0)
    assert result.stdout_bytes == (whole[:32768] + whole[-32768:] if cut else whole)


def test_the_full_output_can_be_fetched_while_the_sandbox_lives(small: SandboxSession) -> None:
    code = "import os, sys; os.write(2, b'short'); sys.stdout.write(''.join(f'{n:07}\\n' for n in range(1000000)))"
    first = python(small, code).check()
    small.run("sh", "-c", "yes later | head -c 500000").check()

    whole = b"".join(small.output(first, "stdout"))

    assert (first.truncated, len(first.stdout_bytes)) == (True, 65536)
    assert whole == b"".join(b"%07d\n" % n for n in range(1000000))
    assert b"".join(small.output(first, "stderr")) == b"short"


def test_1_gb_of_output_neither_grows_this_process_nor_the_agent_nor_fails_the_step(sandbox: SandboxSession) -> None:
    sandbox.run("true").check()
    before = _highest_resident(reset=True)

    result = sandbox.run("head", "-c", str(1024 * MIB), "/dev/zero", timeout=120)

    grown = _highest_resident() - before
    assert (result.outcome, result.truncated, result.stdout_size) == ("Succeeded", True, 1024 * MIB)
    assert len(result.stdout_bytes) == 16 * MIB, "control: that much of it did arrive"
    assert grown < 64 * MIB
    assert _highest_of_the_agent(sandbox) < 64 * MIB


def test_a_caller_that_reads_slowly_grows_neither_this_process_nor_the_agent(sandbox: SandboxSession) -> None:
    seen = 0

    def slow(_step: str, _stream: str, data: bytes) -> None:
        nonlocal seen
        if seen == 0:
            time.sleep(0.5)
        seen += len(data)

    before = _highest_resident(reset=True)
    step = {"type": "Command", "command": ["head", "-c", str(200 * MIB), "/dev/zero"]}
    result = sandbox.execute([step], on_output=slow)

    grown = _highest_resident() - before
    assert (result.ok, seen) == (True, 200 * MIB)
    assert grown < 64 * MIB
    assert _highest_of_the_agent(sandbox) < 64 * MIB


# 7. A background child of the step itself


def test_a_background_child_that_keeps_stdout_open_does_not_delay_the_result(
    backend: ContractBackend, sandbox: SandboxSession
) -> None:
    marker = new_marker()
    argv = ["sh", "-c", f"sleep 30.{marker} & setsid sleep 31.{marker} & echo done"]

    began = time.monotonic()
    result = sandbox.run(*argv)
    took = time.monotonic() - began

    with pytest.raises(subprocess.TimeoutExpired), subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            process.communicate(timeout=0.3)
        finally:
            _end(marked(marker))
    assert (result.outcome, result.stdout) == ("Succeeded", "done\n")
    assert took < 15, "the children last for 30 s"
    assert living(sandbox) == []


# 8. State


def test_state_in_the_workspace_lasts_from_step_to_step_and_from_task_to_task(sandbox: SandboxSession) -> None:
    result = sandbox.execute(
        [
            {"type": "FilePatch", "path": "a/file", "content": "patched"},
            {
                "type": "Command",
                "command": ["sh", "-c", "cat a/file; echo -n ' appended' >> a/file; umask 077; mkdir private"],
            },
        ]
    )

    assert result.ok
    assert result.stdout.endswith("patched")
    assert sandbox.run("cat", "a/file").stdout == "patched appended"
    assert sandbox.run("stat", "-c", "%a", "private").stdout == "700\n"


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/home/arl", "/dev/shm"])
def test_two_sandboxes_never_see_each_others_state(backend: ContractBackend, folder: str) -> None:
    with backend.open() as one, backend.open() as other:
        one.write(f"{folder}/secret", "mine")

        assert one.run("cat", f"{folder}/secret").stdout == "mine"
        assert not other.run("cat", f"{folder}/secret").ok
        assert "secret" not in other.run("ls", "-A", folder).check().stdout


def test_two_sandboxes_never_see_each_others_processes(backend: ContractBackend) -> None:
    marker = new_marker()
    with backend.open() as one, backend.open() as other:
        start_python(one, "print('ready'); import time; time.sleep(60)", marker)

        assert marker in "".join(living(one))
        assert living(other) == []
        assert "No such process" in other.run("sh", "-c", "kill -9 -1").stderr, "it found nobody else to kill"
        assert marker in "".join(living(one))


def test_the_memory_probe_sees_growth() -> None:
    code = """
        import re
        def high(): return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
        block = b"x" * (200 << 20); del block
        grown = high()
        open("/proc/self/clear_refs", "w").write("5")
        print(grown - high())
    """
    assert int(on_host(code).stdout) > 150_000


def _highest_resident(*, reset: bool = False) -> int:
    """Bytes of memory that this process has held at the most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return high_water(Path("/proc/self/status").read_text())


def _highest_of_the_agent(sandbox: SandboxSession) -> int:
    return high_water(sandbox.run("cat", "/proc/1/status").check().stdout)


def _end(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
