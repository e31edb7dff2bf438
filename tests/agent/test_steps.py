"""One step after another: how programs are found, started and fed, and what is said of their end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pytest_arl.agent_client.agent_config import AgentConfig
from tests.agent.harness import Sandbox, command, sandbox_of
from tests.waiting import until


def test_a_step_that_exits_n_has_exit_code_n(sandbox: Sandbox) -> None:
    codes = [sandbox.sh(f"exit {code}").exit_code for code in (0, 1, 2, 127, 255)]

    assert codes == [0, 1, 2, 127, 255]


def test_a_step_succeeds_exactly_with_exit_code_0(sandbox: Sandbox) -> None:
    assert [sandbox.sh(f"exit {code}").outcome for code in (0, 1)] == ["Succeeded", "Failed"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGSEGV", "SIGKILL", "SIGABRT", "SIGINT", "SIGPIPE", "SIGHUP"])
def test_a_step_killed_by_a_signal_says_which(sandbox: Sandbox, name: str) -> None:
    result = sandbox.sh(f"kill -{name[3:]} $$")

    assert (result.outcome, result.signal) == ("Killed", name)
    assert result.exit_code == 128 + signal.Signals[name]


def test_a_real_time_signal_has_a_number_for_a_name(sandbox: Sandbox) -> None:
    assert sandbox.sh("kill -40 $$").signal == "SIG40"


def test_steps_run_in_order_and_stop_at_the_first_that_fails(sandbox: Sandbox) -> None:
    results = sandbox.execute(
        command("sh", "-c", "echo 1 >> log"),
        command("sh", "-c", "echo 2 >> log; false"),
        command("sh", "-c", "echo 3 >> log"),
    )

    assert [result.outcome for result in results] == ["Succeeded", "Failed", "Skipped"]
    assert sandbox.run("cat", "log").stdout == "1\n2\n"


def test_a_command_is_no_shell_line(sandbox: Sandbox) -> None:
    assert sandbox.run("echo", "$HOME", "*", "a;b", "`id`", "").stdout == "$HOME * a;b `id` \n"


def test_arguments_that_are_no_utf8_arrive_as_they_are(sandbox: Sandbox) -> None:
    argument = os.fsdecode(b"caf\xe9")

    assert sandbox.run("printf", "%s", argument).stdout_bytes == b"caf\xe9"


def test_a_step_works_in_the_workspace(sandbox: Sandbox) -> None:
    assert sandbox.run("pwd").stdout == "/workspace\n"


def test_a_relative_work_dir_is_under_the_workspace(sandbox: Sandbox) -> None:
    sandbox.run("mkdir", "-p", "a/b")

    assert sandbox.run("pwd", work_dir="a/b").stdout == "/workspace/a/b\n"


def test_dots_after_a_link_in_a_work_dir_mean_what_they_mean_to_the_kernel(sandbox: Sandbox) -> None:
    sandbox.sh("mkdir -p /tmp/deep/er; ln -s /tmp/deep/er link")

    assert sandbox.run("pwd", work_dir="/workspace/link/..").stdout == "/tmp/deep\n"
    assert sandbox.run("pwd", work_dir="link/..").stdout == "/tmp/deep\n"


def test_a_missing_work_dir_is_a_failed_step_that_names_it(sandbox: Sandbox) -> None:
    result = sandbox.run("true", work_dir="/nowhere/at/all")

    assert (result.outcome, result.exit_code) == ("Failed", 126)
    assert "/nowhere/at/all" in result.stderr


def test_the_agent_is_not_left_in_the_work_dir(sandbox: Sandbox) -> None:
    sandbox.run("mkdir", "there")
    sandbox.run("true", work_dir="there")
    sandbox.run("no-such-program", work_dir="there")

    assert os.readlink(f"/proc/{sandbox.pid}/cwd") == "/"


def test_a_program_that_is_not_there_is_exit_code_127_and_says_where_it_was_looked_for(sandbox: Sandbox) -> None:
    result = sandbox.run("no-such-program", env={"PATH": "/usr/bin:/somewhere"})

    assert (result.outcome, result.exit_code) == ("Failed", 127)
    assert "no-such-program" in result.stderr
    assert "/usr/bin:/somewhere" in result.stderr


def test_a_path_that_is_not_there_is_exit_code_127(sandbox: Sandbox) -> None:
    assert sandbox.run("./missing").exit_code == 127
    assert sandbox.run("/workspace/a/b").exit_code == 127


@pytest.mark.parametrize("how", ["file", "./file", "/workspace/file"])
def test_a_file_that_is_not_executable_is_exit_code_126(sandbox: Sandbox, how: str) -> None:
    sandbox.handle.write("file", b"#!/bin/sh\n", 0o644)
    result = sandbox.run(how, env={"PATH": "/workspace"})

    assert result.exit_code == 126
    assert "Permission denied" in result.stderr


def test_a_folder_is_exit_code_126(sandbox: Sandbox) -> None:
    assert sandbox.run("/usr").exit_code == 126


def test_a_script_whose_interpreter_is_missing_says_so(sandbox: Sandbox) -> None:
    sandbox.handle.write("script", b"#!/no/such/interpreter\n", 0o755)
    result = sandbox.run("./script")

    assert result.exit_code == 126
    assert "interpreter" in result.stderr


def test_a_file_that_is_no_program_is_exit_code_126_and_not_run_by_a_shell(sandbox: Sandbox) -> None:
    sandbox.handle.write("file", b"echo gone wrong\n", 0o755)
    result = sandbox.run("./file")

    assert (result.exit_code, result.stdout) == (126, "")
    assert "Exec format error" in result.stderr


def test_too_many_arguments_are_exit_code_126(sandbox: Sandbox) -> None:
    result = sandbox.run("true", "x" * 200_000)

    assert result.exit_code == 126
    assert "Argument list too long" in result.stderr


def test_a_name_of_half_a_megabyte_is_quoted_in_part_and_costs_nothing_else(sandbox: Sandbox) -> None:
    result = sandbox.run("x" * 500_000)

    assert result.exit_code in {126, 127}
    assert len(result.stderr) < 20_000
    assert sandbox.run("true").ok


def test_a_program_is_looked_up_in_the_steps_own_path(sandbox: Sandbox) -> None:
    sandbox.run("mkdir", "bin")
    sandbox.handle.write("bin/greet", b"#!/bin/sh\necho hello\n", 0o755)

    assert sandbox.run("greet", env={"PATH": "/workspace/bin:/usr/bin:/bin"}).stdout == "hello\n"
    assert sandbox.run("greet").exit_code == 127


def test_the_first_folder_of_the_path_that_has_it_executable_wins(sandbox: Sandbox) -> None:
    sandbox.run("mkdir", "no", "yes")
    sandbox.handle.write("no/tool", b"#!/bin/sh\necho no\n", 0o644)
    sandbox.handle.write("yes/tool", b"#!/bin/sh\necho yes\n", 0o755)

    assert sandbox.run("tool", env={"PATH": "/workspace/no:/workspace/yes:/bin"}).stdout == "yes\n"


def test_env_is_added_to_the_base_environment(sandbox: Sandbox) -> None:
    lines = sandbox.run("env", env={"HOME": "/elsewhere", "NEW": "a=b"}).stdout.splitlines()

    assert set(lines) == {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/elsewhere", "NEW=a=b"}


def test_a_steps_env_is_its_own(sandbox: Sandbox) -> None:
    sandbox.run("true", env={"LEAK": "1"})

    assert "LEAK" not in sandbox.run("env").stdout


def test_stdin_is_given_byte_for_byte_and_ends(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 5000

    assert sandbox.run("cat", stdin=data).stdout_bytes == data


def test_without_stdin_a_step_reads_end_of_file_at_once(sandbox: Sandbox) -> None:
    assert sandbox.run("cat", timeout=5).ok


def test_empty_stdin_is_end_of_file(sandbox: Sandbox) -> None:
    assert sandbox.run("cat", stdin=b"", timeout=5).ok


def test_a_step_need_not_read_its_stdin(sandbox: Sandbox) -> None:
    result = sandbox.run("true", stdin=bytes(3 << 20))

    assert result.ok
    assert sandbox.run("true").ok


def test_a_step_that_reads_late_gets_all_of_its_stdin(sandbox: Sandbox) -> None:
    assert sandbox.sh("sleep 0.2; wc -c", stdin=bytes(3 << 20)).stdout.strip() == str(3 << 20)


def test_stdout_and_stderr_come_back_apart_and_byte_exact(sandbox: Sandbox) -> None:
    result = sandbox.sh(r"printf 'out\377\000 no newline'; printf 'err\376' >&2")

    assert result.stdout_bytes == b"out\xff\0 no newline"
    assert result.stderr_bytes == b"err\xfe"
    assert (result.stdout_size, result.stderr_size, result.truncated) == (16, 4, False)


def test_duration_and_start_are_those_of_the_step(sandbox: Sandbox) -> None:
    first, second = sandbox.execute(command("sleep", "0.2"), command("true"))

    assert 0.19 < first.duration < 1
    assert second.duration < 0.15
    assert first.started_at is not None
    assert second.started_at is not None
    assert 0.19 < second.started_at - first.started_at < 1


def test_a_child_that_keeps_stdout_open_does_not_delay_the_result(sandbox: Sandbox) -> None:
    result = sandbox.sh("sleep 30 & echo done", timeout=5)

    assert (result.outcome, result.stdout) == ("Succeeded", "done\n")
    assert result.duration < 2


def test_a_program_that_closes_its_outputs_runs_on(sandbox: Sandbox) -> None:
    assert sandbox.sh("exec >&- 2>&-; sleep 0.2; exit 7").exit_code == 7


@pytest.mark.parametrize(
    "hide",
    [
        "sleep 100 &",
        "setsid sleep 100 &",
        "(setsid sh -c 'sleep 100 & sleep 100' &) &",
        "sh -c 'trap \"\" TERM HUP INT; sleep 100' &",
        "sh -c 'kill -STOP $$' &",
        "nohup setsid sh -c 'while :; do sleep 0.01; done' >/dev/null 2>&1 &",
    ],
)
def test_nothing_of_a_step_lives_when_its_result_is_there(sandbox: Sandbox, hide: str) -> None:
    assert sandbox.sh(f"{hide} sleep 0.05").ok
    assert sandbox.processes() == []


def test_the_look_at_processes_sees_one_that_lives(sandbox: Sandbox) -> None:
    sandbox.start("sleep", "100")

    assert "sleep" in sandbox.processes()


def test_a_fork_bomb_that_its_step_leaves_is_gone_with_it(sandbox: Sandbox) -> None:
    sandbox.sh(
        "f() { for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; }; for j in 1 2 3 4 5 6 7 8 9 10; do f & done; sleep 0.3"
    )

    assert sandbox.processes() == []


def test_a_chain_of_fork_and_exit_is_gone_with_its_step(sandbox: Sandbox) -> None:
    chain = "import os\nfor _ in range(10**9):\n  if os.fork(): os._exit(0)"
    sandbox.sh(f"{os.path.realpath(sys.executable)} -I -S -c '{chain}' & sleep 0.1")

    assert sandbox.processes() == []


def test_orphans_are_reaped_while_their_step_runs(sandbox: Sandbox) -> None:
    script = "for i in $(seq 200); do (sh -c 'true' &); done; sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"

    assert sandbox.sh(script).stdout.strip() == "0"


def test_a_step_starts_with_every_signal_at_its_default() -> None:
    ignored = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]  # as nohup(1) and some CI runners do
    try:
        with sandbox_of() as sandbox:
            blocked, ignored_there = sandbox.sh("grep -E 'Sig(Blk|Ign)' /proc/self/status").stdout.split()[1::2]
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)

    ours_to_set = ~(1 << 31 | 1 << 32)  # the C library keeps 32 and 33 to itself
    assert (int(blocked, 16), int(ignored_there, 16) & ours_to_set) == (0, 0)


def test_a_step_is_the_leader_of_a_session_without_a_terminal(sandbox: Sandbox) -> None:
    assert sandbox.python("import os; print(os.getsid(0) == os.getpid())").stdout == "True\n"
    assert "No such device or address" in sandbox.sh("exec 3</dev/tty").stderr


def test_a_step_has_the_usual_umask(sandbox: Sandbox) -> None:
    assert sandbox.sh("umask").stdout == "0022\n"


def test_a_step_has_no_descriptor_but_its_three(sandbox: Sandbox) -> None:
    listing = sandbox.python("import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])")

    assert listing.stdout == "[0, 1, 2]\n"  # the last is that of the listing


def test_limits_of_the_config_bind_every_step() -> None:
    with sandbox_of(config=AgentConfig(env={"PATH": "/usr/bin:/bin"}, rlimits={"NOFILE": 123, "CORE": 1})) as sandbox:
        assert sandbox.sh("ulimit -Sn; ulimit -Hn").stdout == "123\n123\n"


def test_a_limit_above_what_is_allowed_is_what_is_allowed() -> None:
    with sandbox_of(config=AgentConfig(env={"PATH": "/usr/bin:/bin"}, rlimits={"NOFILE": 2**40})) as sandbox:
        assert sandbox.sh("ulimit -n").ok


def test_a_step_is_likelier_to_be_killed_for_memory_than_the_agent(sandbox: Sandbox) -> None:
    agent = int(Path(f"/proc/{sandbox.pid}/oom_score_adj").read_text())
    step = int(sandbox.run("cat", "/proc/self/oom_score_adj").stdout)
    process = sandbox.start("sh", "-c", "until grep -qx 1000 /proc/self/oom_score_adj; do sleep 0.01; done; echo 1000")
    assert until(lambda: process.output("stdout"), 20)

    assert step == int(process.output("stdout")) == 1000
    assert agent < 1000


def test_a_thousand_steps_of_one_task_run(sandbox: Sandbox) -> None:
    results = sandbox.execute(*[{"type": "FilePatch", "path": f"f{n}", "content": str(n)} for n in range(1000)])

    assert all(result.ok for result in results)
    assert sandbox.sh("ls | wc -l").stdout == "1000\n"
