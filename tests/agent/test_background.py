"""Programs that outlive their step: they live on, are heard and fed, and end as a whole, on time and for good."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from tests.agent.harness import BASE_ENV, Sandbox, command, sandbox_of, task
from tests.waiting import until


def test_a_background_process_lives_on_after_its_step_and_its_task(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "100")
    for _ in range(3):
        assert sandbox.run("true").ok

    assert process.wait(0) is None
    assert "sleep" in sandbox.processes()


def test_its_step_succeeds_as_soon_as_it_runs(sandbox: Sandbox) -> None:
    (result,) = sandbox.execute(command("sleep", "100", background=True))

    assert (result.outcome, result.exit_code, result.stdout) == ("Succeeded", 0, "")
    assert result.duration < 2


def test_later_steps_of_the_task_run_beside_it(sandbox: Sandbox) -> None:
    results = sandbox.execute(
        command("sh", "-c", "echo $$ > pid; sleep 100", background=True),
        command("sh", "-c", "while [ ! -s pid ]; do sleep 0.01; done; kill -0 $(cat pid)", timeout=5),
    )

    assert [result.outcome for result in results] == ["Succeeded", "Succeeded"]


@pytest.mark.parametrize(("argv", "code"), [(["no-such-program"], 127), (["/usr"], 126)])
def test_one_that_cannot_be_started_is_a_failed_step(sandbox: Sandbox, argv: list[str], code: int) -> None:
    results = sandbox.execute(command(*argv, background=True), command("true"))

    assert [result.outcome for result in results] == ["Failed", "Skipped"]
    assert results[0].exit_code == code
    assert argv[0] in results[0].stderr


def test_its_working_directory_and_environment_are_those_of_its_step(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "pwd; echo $WHO", work_dir="/tmp", env={"WHO": "me"})

    result = process.wait(5)

    assert result is not None
    assert result.stdout == "/tmp\nme\n"


def test_a_missing_work_dir_is_a_failed_step(sandbox: Sandbox) -> None:
    (result,) = sandbox.execute(command("true", background=True, work_dir="/nowhere"))

    assert (result.exit_code, "/nowhere" in result.stderr) == (126, True)


@pytest.mark.parametrize("code", [0, 3])
def test_its_end_is_told_as_a_steps_is(sandbox: Sandbox, code: int) -> None:
    process = sandbox.start("sh", "-c", f"echo out; echo err >&2; exit {code}")
    result = process.wait(5)

    assert result is not None
    assert (result.exit_code, result.stdout, result.stderr) == (code, "out\n", "err\n")
    assert result.outcome == ("Failed" if code else "Succeeded")
    assert process.wait(0) == result


def test_its_death_by_a_signal_is_told(sandbox: Sandbox) -> None:
    result = sandbox.start("sh", "-c", "kill -SEGV $$").wait(5)

    assert result is not None
    assert (result.outcome, result.signal, result.exit_code) == ("Killed", "SIGSEGV", 139)


def test_waiting_ends_when_it_does_or_when_the_time_is_over(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "2")
    began = time.monotonic()
    assert process.wait(0.1) is None
    assert time.monotonic() - began < 1.9
    assert process.wait(None) is not None
    assert 1.9 < time.monotonic() - began < 20


def test_what_it_printed_so_far_can_be_read_while_it_runs(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "echo one; echo two >&2; sleep 100")

    assert until(lambda: process.output("stderr"))
    assert (process.output("stdout"), process.output("stderr")) == (b"one\n", b"two\n")


def test_its_output_is_bounded_like_a_results(bubblewrap: str) -> None:
    with sandbox_of(limit=1000) as sandbox:
        process = sandbox.start("seq", "100000")
        result = process.wait(5)

    assert result is not None
    assert (len(result.stdout_bytes), result.stdout_size, result.truncated) == (1000, 588_895, True)
    assert result.stdout.startswith("1\n2\n")
    assert result.stdout.endswith("100000\n")


def test_all_of_its_output_can_be_fetched_also_while_it_runs(bubblewrap: str) -> None:
    with sandbox_of(limit=1000) as sandbox:
        request = task(command("sh", "-c", "seq 100000; sleep 100", background=True))
        sandbox.handle.execute(request, None)
        process = sandbox.handle.process(request.id, 0)
        assert until(lambda: process.output("stdout").endswith(b"\n100000\n"))

        assert len(b"".join(sandbox.handle.output(request.id, 0, "stdout"))) == 588_895


def test_endless_output_of_it_holds_up_nothing_and_grows_nothing(sandbox: Sandbox) -> None:
    process = sandbox.start("yes")
    time.sleep(0.2)
    before = sandbox.memory()
    assert all(sandbox.run("true").ok for _ in range(20))
    time.sleep(0.3)

    assert sandbox.memory() < before + (4 << 20)
    process.kill()


def test_it_is_fed_through_its_stdin(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "while read line; do echo got $line; done; exit 3")
    process.write(b"a\n")
    assert until(lambda: process.output("stdout") == b"got a\n")
    process.write(b"b\nc")
    process.close_stdin()
    result = process.wait(5)

    assert result is not None
    assert (result.stdout, result.exit_code) == ("got a\ngot b\n", 3)


def test_stdin_of_the_step_is_all_that_it_gets(sandbox: Sandbox) -> None:
    process = sandbox.start("cat", stdin=b"given")
    result = process.wait(5)

    assert result is not None
    assert result.stdout == "given"


def test_a_write_returns_when_its_pipe_has_taken_all(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "sleep 0.3; wc -c")
    began = time.monotonic()
    process.write(bytes(4_000_000))  # more than a pipe takes, however large
    assert time.monotonic() - began > 0.2
    process.close_stdin()
    result = process.wait(5)

    assert result is not None
    assert result.stdout.strip() == "4000000"


def test_writing_to_one_that_reads_no_more_is_a_broken_pipe(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "exec <&-; echo closed; sleep 100")
    assert until(lambda: process.output("stdout"))
    with pytest.raises(BrokenPipeError):
        process.write(b"x")


def test_writing_to_one_that_has_ended_or_whose_stdin_was_closed_is_a_broken_pipe(sandbox: Sandbox) -> None:
    ended, closed = sandbox.start("true"), sandbox.start("sleep", "100")
    assert ended.wait(5) is not None
    closed.close_stdin()
    for process in (ended, closed):
        with pytest.raises(BrokenPipeError):
            process.write(b"x")


def test_a_write_that_waits_ends_when_the_process_does(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "0.3")
    with pytest.raises(BrokenPipeError):
        process.write(bytes(4_000_000))


def test_killing_it_kills_all_that_it_started_and_returns_when_that_is_gone(sandbox: Sandbox) -> None:
    process = sandbox.start(
        "sh", "-c", "setsid sh -c 'trap \"\" TERM; sleep 100 & sleep 100' & (setsid sleep 100 &) & sleep 100"
    )
    assert until(lambda: sandbox.processes().count("sleep") >= 4)
    process.kill()

    assert sandbox.processes() == []
    result = process.wait(0)
    assert result is not None
    assert (result.outcome, result.exit_code, result.signal) == ("Killed", 137, "SIGKILL")


def test_killing_one_that_forks_and_exits_all_the_time_returns_when_that_is_gone(sandbox: Sandbox) -> None:
    chain = "import os\nfor _ in range(10**9):\n  if os.fork(): os._exit(0)"
    process = sandbox.start(
        os.path.realpath(sys.executable),
        "-I",
        "-S",
        "-c",
        f'import os\nif os.fork(): __import__("signal").pause()\n{chain}',
    )
    assert until(sandbox.processes)
    process.kill()

    assert [name for name in sandbox.processes() if name.startswith("python")] == []


def test_killing_it_twice_or_after_its_end_is_no_error(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "exit 5")
    assert process.wait(5) is not None
    process.kill()
    process.kill()
    result = process.wait(0)

    assert result is not None
    assert (result.outcome, result.exit_code) == ("Failed", 5)


def test_killing_one_leaves_the_others_alone(sandbox: Sandbox) -> None:
    one, other = sandbox.start("sleep", "100"), sandbox.start("tail", "-f", "/dev/null")
    one.kill()

    assert other.wait(0) is None
    assert "tail" in sandbox.processes()
    assert "sleep" not in sandbox.processes()


def test_a_timeout_ends_it_with_its_tree(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "echo begun; setsid sleep 100 & sleep 100", timeout=0.3)
    result = process.wait(5)

    assert result is not None
    assert (result.outcome, result.exit_code, result.limit) == ("TimedOut", 124, "timeout")
    assert result.stdout == "begun\n"
    assert 0.25 < result.duration < 1
    assert until(lambda: sandbox.processes() == [])


def test_the_tasks_timeout_is_not_its_own(sandbox: Sandbox) -> None:
    request = task(command("sleep", "0.6", background=True), timeout=0.3)
    sandbox.handle.execute(request, None)
    result = sandbox.handle.process(request.id, 0).wait(5)

    assert result is not None
    assert result.ok


@pytest.mark.parametrize("hide", ["sleep 77 &", "setsid sleep 77 &", "(setsid sh -c 'sleep 77 & sleep 77' &) &"])
def test_what_a_step_beside_it_leaves_is_killed_and_it_is_not(sandbox: Sandbox, hide: str) -> None:
    process = sandbox.start("tail", "-f", "/dev/null")
    assert sandbox.sh(f"{hide} sleep 0.05").ok

    assert "sleep" not in sandbox.processes()
    assert process.wait(0) is None


def test_a_step_beside_it_keeps_its_timeout(sandbox: Sandbox) -> None:
    process = sandbox.start("tail", "-f", "/dev/null")
    began = time.monotonic()
    result = sandbox.sh("trap '' TERM; setsid sleep 77 & sleep 77", timeout=0.2)

    assert result.outcome == "TimedOut"
    assert time.monotonic() - began < 0.7
    assert "sleep" not in sandbox.processes()
    assert process.wait(0) is None


def test_a_step_beside_it_costs_no_more_than_a_few_passes(sandbox: Sandbox) -> None:
    def shortest() -> float:
        durations = []
        for _ in range(10):
            began = time.monotonic()
            assert sandbox.run("true").ok
            durations.append(time.monotonic() - began)
        return min(durations)

    alone = shortest()
    sandbox.start("sleep", "100")

    # One more pass over the processes is 50 ms; a supervisor is one more process to start.
    assert shortest() < 0.1 + 2 * alone


def supervisors(sandbox: Sandbox) -> list[int]:
    agent = sandbox.pid
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    name = Path(f"/proc/{agent}/comm").read_text()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == name]


def test_one_whose_supervisor_was_killed_is_reported_killed_and_does_not_live_on(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "100")
    (supervisor,) = supervisors(sandbox)
    os.kill(supervisor, signal.SIGKILL)
    result = process.wait(5)

    assert result is not None
    assert result.outcome == "Killed"
    assert until(lambda: sandbox.processes() == [])
    assert sandbox.run("true").ok


def test_what_is_left_of_a_killed_supervisor_is_gone_after_the_next_step(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "100")
    sandbox.start("tail", "-f", "/dev/null")
    os.kill(supervisors(sandbox)[0], signal.SIGKILL)
    assert process.wait(5) is not None
    sandbox.run("true")

    assert "sleep" not in sandbox.processes()


@pytest.mark.skipif(os.getuid() != 0, reason="it is not dumpable: only root may look")
def test_a_supervisor_holds_no_descriptor_of_the_agent(sandbox: Sandbox) -> None:
    sandbox.start("sleep", "100")
    (supervisor,) = supervisors(sandbox)

    if os.getuid() != 0:
        pytest.skip("only root can see what a process that is not dumpable has open")
    assert until(lambda: len(list(Path(f"/proc/{supervisor}/fd").iterdir())) == 1)


def test_for_memory_a_program_dies_before_its_supervisor_dies_before_the_agent(sandbox: Sandbox) -> None:
    wait = "until grep -qx 1000 /proc/self/oom_score_adj; do sleep 0.01; done"
    process = sandbox.start("sh", "-c", f"{wait}; cat /proc/self/oom_score_adj; sleep 100")
    assert until(lambda: process.output("stdout"), 20)
    (supervisor,) = supervisors(sandbox)
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (supervisor, sandbox.pid)]

    assert 1000 == int(process.output("stdout")) > scores[0] > scores[1]


def test_the_output_of_its_descendants_is_kept_until_the_last_is_gone(sandbox: Sandbox) -> None:
    request = task(command("sh", "-c", "(sleep 0.3; echo late) & echo early", background=True))
    sandbox.handle.execute(request, None)
    assert sandbox.handle.process(request.id, 0).wait(5) is not None

    assert until(lambda: b"".join(sandbox.handle.output(request.id, 0, "stdout")) == b"early\nlate\n")


def test_many_come_and_go_and_leave_no_descriptor_and_no_process(sandbox: Sandbox) -> None:
    before = sandbox.descriptors()
    for _ in range(30):
        process = sandbox.start("sh", "-c", "exit 0")
        assert process.wait(20) is not None
    assert until(lambda: sandbox.processes() == [] and len(sandbox.descriptors()) <= len(before), 20)


def test_asking_again_and_again_whether_it_has_ended_holds_nothing(sandbox: Sandbox) -> None:
    process = sandbox.start("sleep", "100")
    for _ in range(300):
        process.wait(0)
    before = sandbox.memory()
    for _ in range(3000):
        process.wait(0)

    assert sandbox.memory() < before + 300_000


def test_asking_about_one_that_there_is_not_is_refused(sandbox: Sandbox) -> None:
    sandbox.execute(command("true"), name="mine")
    for step in (0, 5):
        request = {"task": "mine", "step": step, "do": "wait", "timeout": 0, "limit": 9}
        with pytest.raises(Exception, match="no such background process"):
            sandbox.ask(frames.PROCESS, request)


def test_what_could_be_had_of_a_steps_descriptors_is_given_back(bubblewrap: str) -> None:
    config = AgentConfig(env=BASE_ENV, rlimits={"NOFILE": 11})
    with sandbox_of(config=config) as sandbox:
        before = sandbox.descriptors()
        for background in (False, True, False):
            (result,) = sandbox.execute(command("true", background=background))
            assert (result.outcome, result.exit_code) == ("Failed", 126)
            assert "Too many open files" in result.stderr
        assert sandbox.descriptors() == before


def test_where_no_descriptor_can_be_had_the_step_fails_and_the_sandbox_works_on(bubblewrap: str) -> None:
    for most in range(12, 32):  # the smallest that is enough for a step: numbers of this process count, too
        with sandbox_of(config=AgentConfig(env=BASE_ENV, rlimits={"NOFILE": most})) as sandbox:
            (background,) = sandbox.execute(command("true", background=True))
            first, second = sandbox.run("true"), sandbox.run("true")
        if first.ok:
            break

    assert (background.outcome, background.exit_code) == ("Failed", 126)
    assert "Too many open files" in background.stderr
    assert (first.ok, second.ok) == (True, True)


def test_where_no_process_can_be_had_the_step_fails_and_the_sandbox_works_on(bubblewrap: str) -> None:
    if os.getuid():
        pytest.skip("the limit counts all processes of this user")
    config = AgentConfig(env=BASE_ENV, rlimits={"NPROC": 8})
    with sandbox_of(config=config) as sandbox:
        process = sandbox.start("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; sleep 100")
        assert until(lambda: b"fork" in process.output("stderr"))
        (background,) = sandbox.execute(command("true", background=True))
        foreground = sandbox.run("true")
        process.kill()
        after = sandbox.run("true")

    for result in (background, foreground):
        assert (result.outcome, result.exit_code) == ("Failed", 126)
        assert "Resource temporarily unavailable" in result.stderr
    assert after.ok


def test_bytes_that_are_sent_twice_are_written_once(sandbox: Sandbox) -> None:
    """As after a connection that broke before its answer: all of a piece, or a part of it, came already."""
    process = sandbox.start("cat")
    which = {"task": process._task_id, "step": process._index}
    for data, at in ((b"one ", 0), (b"one ", 0), (b"one two ", 0), (b"two three", 4), (b"five", 14)):
        with sandbox.channel.open() as stream:
            stream.send(frames.PROCESS, {**which, "do": "write", "data": data, "at": at})
            assert stream.reply(time.monotonic() + 5) == {"taken": True}
    process.close_stdin()
    result = process.wait(5)

    assert result is not None
    assert result.stdout == "one two threefive"


def test_what_a_background_process_was_refused_between_tasks_is_not_the_next_steps(bubblewrap: str) -> None:
    """The cgroup's counter is remembered at a task's end, but only where nothing runs that could raise it."""
    counter = os.memfd_create("pids.events")
    until_told = "until [ -e go ]; do sleep 0.01; done; rm go; false"
    with sandbox_of(config=AgentConfig(env=BASE_ENV, pids_fd=counter)) as sandbox, ThreadPoolExecutor() as others:

        def named(refusals: int) -> str | None:
            """The limit that a failing step names; the counter says that while it runs."""
            answer = others.submit(sandbox.execute, command("sh", "-c", until_told))
            assert until(lambda: "sleep" in sandbox.processes())
            os.pwrite(counter, b"max %d\n" % refusals, 0)
            sandbox.handle.write("go", b"", None)
            return answer.result()[0].limit

        assert named(3) == "processes", "control: the counter decides"
        assert named(3) is None
        sandbox.execute(command("sh", "-c", until_told, background=True))
        sandbox.ask(frames.PING, {})  # what the agent does after its answer is done
        os.pwrite(counter, b"max 7\n", 0)
        sandbox.handle.write("go", b"", None)
        children = Path(f"/proc/{sandbox.pid}/task/{sandbox.pid}/children")
        assert until(lambda: not children.read_text())
        assert named(7) is None
    os.close(counter)
