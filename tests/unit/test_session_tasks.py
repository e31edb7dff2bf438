"""What runs in a sandbox: tasks, single commands, processes, and their output."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import (
    SandboxClosed,
    SandboxLost,
    SandboxSession,
    StepFailed,
    StepResult,
    UsageError,
)
from pytest_arl.settings import override
from tests.toy_backend import ToyBackend, ToySandbox
from tests.unit.sessions import HELLO, listening, shell
from tests.waiting import until

# --- the ARL wrapper's samples ---


@pytest.mark.usefixtures("toy")
def test_a_context_manager_runs_a_command() -> None:
    with SandboxSession(pool_ref="toys", namespace="default", backend="toy") as session:
        result = session.execute([HELLO])
    status = result["status"]
    (step,) = status.get("steps", [])
    assert (step["name"], step["exitCode"], step["stdout"]) == ("hello", 0, "Hello, World!\n")


def test_a_task_says_how_long_its_sandbox_took_and_whether_it_was_ready_before(toy: ToyBackend) -> None:
    with SandboxSession(backend="toy") as session:
        plain = session.execute([HELLO])
        # A backend need not know of it; one that does says so.
        toy.open[0].warm = True  # type: ignore[attr-defined]
        warm = session.execute([HELLO])
        session.reset()
        anew = session.execute([HELLO])

    assert (plain.warm, warm.warm, anew.warm) == (False, True, False)
    assert plain.acquired_in is not None
    assert plain.acquired_in > 0
    assert warm.acquired_in == plain.acquired_in
    assert anew.acquired_in is not None
    assert session.limits == {}


def test_a_kept_session_is_created_used_twice_and_deleted_by_hand(toy: ToyBackend) -> None:
    session = SandboxSession(pool_ref="toys", namespace="default", keep_alive=True, backend="toy")
    try:
        session.create_sandbox()
        session.execute([{"name": "w", "type": "FilePatch", "path": "/workspace/a.txt", "content": "kept"}])
        second = session.execute(
            [{"name": "r", "type": "Command", "command": ["cat", "a.txt"], "workDir": "/workspace"}]
        )
        assert second.check().stdout == "kept"
    finally:
        session.delete_sandbox()
    assert toy.open == []


def test_a_kept_sandbox_outlives_its_block_and_one_that_is_not_does_not(toy: ToyBackend) -> None:
    with SandboxSession(backend="toy", keep_alive=True) as kept:
        pass
    assert len(toy.open) == 1
    kept.run("true").check()
    kept.delete_sandbox()
    with SandboxSession(backend="toy"):
        assert len(toy.open) == 1
    assert toy.open == []


# --- execute ---


def test_steps_run_in_order_up_to_the_first_that_fails(session: SandboxSession) -> None:
    result = session.execute([shell("echo 1 >> log"), shell("echo 2 >> log; exit 3"), shell("echo 3 >> log")])
    assert [step.outcome for step in result.steps] == ["Succeeded", "Failed", "Skipped"]
    assert [step.exit_code for step in result.steps] == [0, 3, None]
    assert session.read("log") == b"1\n2\n"
    assert (result.state, result.exit_code, result.sandbox, result.pool_ref) == ("Failed", 3, session.name, "default")


def test_a_request_that_cannot_succeed_is_not_begun(session: SandboxSession, sandbox: ToySandbox) -> None:
    for steps in ([], [HELLO, {"type": "Comand"}], [HELLO, HELLO]):
        with pytest.raises(UsageError):
            session.execute(steps)
    for bad in ({"timeout": -1}, {"timeout": 0}, {"retries": -1}, {"retries": True}, {"retries": 99}, {"on_output": 3}):
        with pytest.raises(UsageError, match=f"execute: {next(iter(bad))}"):
            session.execute([HELLO], **bad)
    assert sandbox.executed == []


def test_an_async_callback_is_refused_rather_than_never_awaited(session: SandboxSession) -> None:
    async def on_output(*args: object) -> None: ...

    with pytest.raises(UsageError, match="on_output must be a plain function, not an async function"):
        session.execute([HELLO], on_output=on_output)


def test_output_is_seen_while_a_step_runs_in_the_callers_thread(session: SandboxSession) -> None:
    import threading

    seen: list[tuple[str, str, bytes, int, bool]] = []

    def on_output(step: str, stream: str, data: bytes) -> None:
        seen.append((step, stream, data, threading.get_ident(), not gate.exists()))
        gate.touch()

    gate = Path("gate").absolute()
    wait = f"echo early; while [ ! -e {gate} ]; do sleep 0.01; done; echo late >&2"
    session.execute([shell(wait, "talk")], on_output=on_output)
    me = threading.get_ident()
    assert seen == [("talk", "stdout", b"early\n", me, True), ("talk", "stderr", b"late\n", me, False)]


def test_what_a_callback_raises_ends_the_task_and_comes_out(session: SandboxSession, toy: ToyBackend) -> None:
    def on_output(*_: object) -> None:
        raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        session.execute([shell("echo x; sleep 30")], on_output=on_output)
    assert time.monotonic() - began < 5
    assert session.run("echo", "still here").stdout == "still here\n"


def test_a_callback_that_would_wait_for_itself_is_told(session: SandboxSession) -> None:
    def on_output(*_: object) -> None:
        session.run("true")

    with pytest.raises(UsageError, match="this thread is already running"):
        session.execute([HELLO], on_output=on_output)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("own", "marker", "call", "used"),
    [
        ({}, {}, None, None),
        ({}, {"timeout": 7}, None, 7.0),
        ({"timeout": 8}, {"timeout": 7}, None, 8.0),
        ({"timeout": 8}, {}, "9s", 9.0),
        ({"timeout": 8}, {}, float("inf"), None),
        ({"timeout": None}, {"timeout": 7}, None, None),
    ],
)
def test_the_closest_timeout_bounds_the_task(own: Any, marker: Any, call: Any, used: float | None) -> None:
    seen = []
    with SandboxSession(backend="toy", **own) as session, override(marker, "marker"), listening() as events:
        session.execute([HELLO], timeout=call)
        seen = [event[2].timeout for event in events if event[0] == "finished"]
    assert seen == [used]


def test_a_task_that_takes_too_long_times_out_with_what_it_had_printed(session: SandboxSession) -> None:
    (step,) = session.execute([shell("echo so far; sleep 30")], timeout=0.2).steps
    assert (step.outcome, step.exit_code, step.stdout) == ("TimedOut", 124, "so far\n")


def test_a_steps_own_timeout_bounds_that_step(session: SandboxSession) -> None:
    steps = session.execute([shell("sleep 30", timeout="100ms"), HELLO]).steps
    assert [step.outcome for step in steps] == ["TimedOut", "Skipped"]


def test_ids_of_tasks_are_unique_and_in_order(session: SandboxSession, sandbox: ToySandbox) -> None:
    for _ in range(12):
        session.run("true")
    assert sandbox.executed == sorted(set(sandbox.executed))


# --- run and start ---


def test_run_is_one_command(session: SandboxSession) -> None:
    session.run("mkdir", "sub").check()
    result = session.run("sh", "-c", "cat; echo $A; pwd", env={"A": "b"}, work_dir="sub", stdin=b"in\n").check()
    assert result.stdout.splitlines()[:2] == ["in", "b"]
    assert result.stdout.endswith("/sub\n")
    assert result.name == "sh"


def test_a_limit_of_run_is_its_steps_and_stands_above_the_sessions(toy: ToyBackend) -> None:
    with SandboxSession(backend="toy", timeout=0.1) as session:
        assert session.run("sleep", "0.3", timeout=20).ok
        assert session.run("sleep", "30").outcome == "TimedOut"
        assert session.run("sleep", "30", timeout="50ms").outcome == "TimedOut"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), 'run("echo", "hi")'),
        ((["echo", "hi"],), "run('echo', 'hi')"),
        ((("echo",),), "run('echo')"),
        (("echo hi",), "run('echo', 'hi')"),
        (("echo 'a b' c",), "run('echo', 'a b', 'c')"),
        (("echo hi | cat",), 'run("sh", "-c", \'echo hi | cat\')'),
        (("sleep", 5), "run: word 1 must be a string, not an int"),
        (("a\0",), "run: word 0 has a NUL byte"),
        ((3,), "run: word 0 must be a string, not an int"),
        (("",), "run: word 0 is empty"),
    ],
)
def test_run_shows_the_right_form(session: SandboxSession, argv: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        session.run(*argv)
    assert says in str(caught.value)


def test_bad_options_of_run_are_named(session: SandboxSession) -> None:
    for options, says in [
        ({"env": {"A": 1}}, "run: env['A']"),
        ({"timeout": 0}, "run: 'timeout'"),
        ({"stdin": 1}, "'stdin'"),
    ]:
        with pytest.raises(UsageError) as caught:
            session.run("true", **options)  # type: ignore[arg-type] # on purpose
        assert says in str(caught.value)


def test_a_path_says_that_a_space_is_meant(session: SandboxSession, tmp_path: Path) -> None:
    program = tmp_path / "my program"
    program.write_text("#!/bin/sh\necho ran")
    program.chmod(0o755)
    assert session.run(program).check().stdout == "ran\n"


def test_start_gives_a_process_to_talk_to(session: SandboxSession) -> None:
    process = session.start("cat")
    assert (process.name, process.command, process.poll()) == ("cat", ("cat",), None)
    process.write("hey\n")
    process.write(b"you\n")
    assert until(lambda: process.stdout == "hey\nyou\n")
    assert session.run("echo", "meanwhile").ok
    process.close_stdin()
    assert process.wait(5).check().stdout == "hey\nyou\n"
    assert process.poll() is process.wait()
    assert process.stdout == "hey\nyou\n"


def test_waiting_for_a_process_ends_with_the_timeout(session: SandboxSession) -> None:
    process = session.start("sleep", "30")
    with pytest.raises(TimeoutError, match=r"the process 'sleep' \(sleep 30\) still runs after 50 ms"):
        process.wait("50ms")
    process.kill()
    result = process.wait(5)
    assert (result.outcome, result.signal) == ("Killed", "SIGKILL")
    with pytest.raises(StepFailed, match=r"step 'sleep' \(sleep 30\) was killed by SIGKILL"):
        result.check()
    process.kill()


def test_a_process_ends_with_its_block(session: SandboxSession) -> None:
    with session.start("sleep", "30") as process:
        assert process.poll() is None
    assert process.wait(5).outcome == "Killed"


def test_a_process_that_cannot_start_says_so(session: SandboxSession) -> None:
    with pytest.raises(StepFailed, match=r"step 'no-such' \(no-such\) exited 127"):
        session.start("no-such")


@pytest.mark.parametrize("how", [SandboxSession.reset, SandboxSession.delete_sandbox])
def test_a_process_of_a_sandbox_that_is_gone_is_closed(
    session: SandboxSession, how: Callable[[SandboxSession], None]
) -> None:
    process = session.start("sleep", "30")
    how(session)
    for use in (process.wait, process.poll, process.kill, process.close_stdin, lambda: process.write("x")):
        with pytest.raises(SandboxClosed, match="'sleep' ended with its sandbox"):
            use()
    process.__exit__(None, None, None)


def test_a_background_step_of_a_task_has_a_handle_too(session: SandboxSession) -> None:
    result = session.execute([shell("sleep 30", "server", background=True), HELLO]).check()
    for step in ("server", result.step("server")):
        assert session.process(step).poll() is None
    with pytest.raises(UsageError, match="'hello' is not a background step"):
        session.process("hello")


# --- output ---


def test_all_of_an_output_that_was_cut_is_there_while_the_sandbox_lives(session: SandboxSession) -> None:
    result = session.run("seq", "5000")
    assert result.truncated
    whole = b"".join(b"%d\n" % number for number in range(1, 5001))
    assert result.stdout_size == len(whole) > len(result.stdout_bytes)
    assert b"".join(session.output(result, "stdout")) == whole
    assert b"".join(session.output("seq", "stdout")) == whole
    assert list(session.output(result, "stderr")) == []


@pytest.mark.parametrize("more", [0, 1])
def test_an_output_ends_with_what_its_step_wrote(
    session: SandboxSession, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = session.run("seq", "100000").check()
    size = result.stdout_size
    blocks = [b"x" * 1000] * (size // 1000) + [b"x" * (size % 1000 + more), *([b"x"] * more * 10)]
    monkeypatch.setattr(ToySandbox, "output", lambda *_: iter(blocks))
    output = session.output(result, "stdout")
    if more:
        with pytest.raises(SandboxLost, match="more of an output than its step wrote"):
            list(output)
    else:
        assert sum(map(len, output)) == size


def test_an_output_that_was_not_cut_comes_from_the_result(session: SandboxSession) -> None:
    result = session.run("echo", "hi")
    session.delete_sandbox()
    assert list(session.output(result, "stdout")) == [b"hi\n"]


def test_a_name_means_the_latest_step_of_that_name(session: SandboxSession) -> None:
    first = session.run("echo", "1")
    session.run("echo", "2")
    assert list(session.output("echo", "stdout")) == [b"2\n"]
    assert list(session.output(first, "stdout")) == [b"1\n"]


def test_output_that_cannot_be_told_is_a_usage_error(session: SandboxSession) -> None:
    with pytest.raises(UsageError, match="none has run"):
        session.output("echo", "stdout")
    result = session.run("echo", "hi")
    for step, stream, says in [
        ("ecko", "stdout", "did you mean 'echo'"),
        (result, "stdot", "did you mean 'stdout'"),
        (3, "stdout", "by its StepResult or its name"),
        (StepResult(name="x", type="Command", outcome="Succeeded", exit_code=0), "stdout", "did not run in"),
    ]:
        with pytest.raises(UsageError, match=says):
            session.output(step, stream)  # type: ignore[arg-type] # on purpose


def test_a_result_of_another_session_is_not_mistaken(session: SandboxSession, toy: ToyBackend) -> None:
    with SandboxSession(backend="toy") as other:
        result = other.run("echo", "hi")
        with pytest.raises(UsageError, match="did not run in"):
            session.output(result, "stdout")
