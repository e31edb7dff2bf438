"""One thread and one session, on the toy backend."""

import gc
import logging
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_arl import (
    Command,
    InfrastructureError,
    PoolNotFound,
    SandboxClosed,
    SandboxLost,
    SandboxSession,
    SandboxTimeout,
    StepFailed,
    StepResult,
    TaskResult,
    UsageError,
)
from pytest_arl.backends.base import TaskRequest
from pytest_arl.session import add_listener, remove_listener
from pytest_arl.settings import override
from tests.toy_backend import ToyBackend, ToySandbox

HELLO: dict[str, Any] = {"name": "hello", "type": "Command", "command": ["echo", "Hello, World!"]}


def shell(script: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    step = {"type": "Command", "command": ["sh", "-c", script], **more}
    return step if name is None else {"name": name, **step}


# --- the ARL wrapper's samples ------------------------------------------------------------------


@pytest.mark.usefixtures("toy")
def test_a_context_manager_runs_a_command() -> None:
    with SandboxSession(pool_ref="toys", namespace="default", backend="toy") as session:
        result = session.execute([HELLO])
    status = result["status"]
    (step,) = status.get("steps", [])
    assert (step["name"], step["exitCode"], step["stdout"]) == ("hello", 0, "Hello, World!\n")


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


# --- execute ------------------------------------------------------------------------------------


def test_steps_run_in_order_up_to_the_first_that_fails(session: SandboxSession) -> None:
    result = session.execute([shell("echo 1 >> log"), shell("echo 2 >> log; exit 3"), shell("echo 3 >> log")])
    assert [step.outcome for step in result.steps] == ["Succeeded", "Failed", "Skipped"]
    assert [step.exit_code for step in result.steps] == [0, 3, None]
    assert session.read("log") == b"1\n2\n"
    assert (result.state, result.exit_code, result.sandbox, result.pool_ref) == ("Failed", 3, session.name, "default")


def test_what_cannot_be_done_is_not_begun(session: SandboxSession, sandbox: ToySandbox) -> None:
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

    with pytest.raises(UsageError, match="this very thread"):
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


# --- run and start ------------------------------------------------------------------------------


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
    until(lambda: process.stdout == "hey\nyou\n")
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
    with pytest.raises(UsageError, match="'hello' is no background step"):
        session.process("hello")


# --- output -------------------------------------------------------------------------------------


def test_all_of_an_output_that_was_cut_is_there_while_the_sandbox_lives(session: SandboxSession) -> None:
    result = session.run("seq", "5000")
    assert result.truncated
    whole = b"".join(b"%d\n" % number for number in range(1, 5001))
    assert result.stdout_size == len(whole) > len(result.stdout_bytes)
    assert b"".join(session.output(result, "stdout")) == whole
    assert b"".join(session.output("seq", "stdout")) == whole
    assert list(session.output(result, "stderr")) == []


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


# --- files --------------------------------------------------------------------------------------


def test_files_go_in_and_out_exactly(session: SandboxSession, tmp_path: Path) -> None:
    session.write("a/b.txt", "é\n", mode=0o640)
    session.write(Path("c"), b"\xff\0")
    assert (session.read("a/b.txt"), session.read_text("a/b.txt"), session.read("c")) == (
        "é\n".encode(),
        "é\n",
        b"\xff\0",
    )
    assert session.run("stat", "-c", "%a", "a/b.txt").stdout == "640\n"
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "x").write_bytes(b"1")
    session.upload(tmp_path / "up", "there")
    session.download("there", tmp_path / "down")
    assert (tmp_path / "down" / "x").read_bytes() == b"1"


def test_text_that_is_none_says_so(session: SandboxSession) -> None:
    session.write("a", b"\xff")
    with pytest.raises(UnicodeDecodeError):
        session.read_text("a")
    assert session.read_text("a", errors="replace") == "\ufffd"


def test_errors_of_files_mean_what_they_say(session: SandboxSession) -> None:
    with pytest.raises(FileNotFoundError):
        session.read("nope")
    session.write("folder/file", "")
    with pytest.raises(IsADirectoryError):
        session.read("folder")


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda s: s.write("", "x"), "write: the path is empty"),
        (lambda s: s.write("a\0", "x"), "write: the path has a NUL byte"),
        (lambda s: s.write("a", 3), "write: the content must be a string or bytes, not an int"),
        (lambda s: s.write("a", "", mode="755"), "write: the mode must be an integer such as 0o755"),
        (lambda s: s.read(3), "read: the path must be a string, not an int"),
        (lambda s: s.upload("", "a"), "upload: the path is empty"),
        (lambda s: s.download("a", ""), "download: the path is empty"),
    ],
)
def test_bad_arguments_of_file_methods_are_named(
    session: SandboxSession, use: Callable[[SandboxSession], object], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        use(session)
    assert str(caught.value).startswith(says)


# --- checkpoints --------------------------------------------------------------------------------


def test_a_reset_returns_to_the_fresh_sandbox(session: SandboxSession) -> None:
    session.write("a", "x")
    name = session.name
    session.reset()
    assert session.name == name
    with pytest.raises(FileNotFoundError):
        session.read("a")


def test_a_reset_returns_to_the_last_checkpoint(session: SandboxSession, sandbox: ToySandbox) -> None:
    session.write("a", "1")
    session.checkpoint()
    session.write("a", "2")
    session.write("b", "2")
    for _ in range(2):
        session.reset()
        assert session.read("a") == b"1"
        with pytest.raises(FileNotFoundError):
            session.read("b")
    assert not sandbox.checkpoints[0].folder.exists()


def test_a_reset_forgets_steps_by_name(session: SandboxSession) -> None:
    result = session.run("echo", "hi")
    session.reset()
    with pytest.raises(UsageError, match="none has run since it was created or reset"):
        session.output("echo", "stdout")
    assert list(session.output(result, "stdout")) == [b"hi\n"]


def test_a_lost_sandbox_is_replaced_by_a_reset(session: SandboxSession, sandbox: ToySandbox) -> None:
    session.write("a", "x")
    session.checkpoint()
    sandbox.die()
    session.reset()
    assert session.read("a") == b"x"


def test_uses_count_what_can_change_the_sandbox(session: SandboxSession, tmp_path: Path) -> None:
    counts = [session.uses]
    (tmp_path / "f").write_text("x")
    for use in (
        lambda: session.run("true"),
        lambda: session.write("a", ""),
        lambda: session.upload(tmp_path / "f", "f"),
        lambda: session.start("true"),
    ):
        use()
        counts.append(session.uses)
    assert counts == sorted(set(counts))
    session.read("a")
    session.reset()
    assert session.uses == counts[-1]
    session.delete_sandbox()
    session.create_sandbox()
    assert session.uses > counts[-1]


# --- its life -----------------------------------------------------------------------------------

USES: list[Callable[[SandboxSession], object]] = [
    lambda s: s.execute([HELLO]),
    lambda s: s.run("true"),
    lambda s: s.start("true"),
    lambda s: s.write("a", ""),
    lambda s: s.read("a"),
    lambda s: s.upload("/etc/hostname", "a"),
    lambda s: s.download("a", "b"),
    lambda s: s.checkpoint(),
    lambda s: s.reset(),
]


@pytest.mark.parametrize("use", USES)
def test_a_session_without_sandbox_says_how_to_get_one(
    use: Callable[[SandboxSession], object], toy: ToyBackend
) -> None:
    session = SandboxSession(backend="toy")
    with pytest.raises(SandboxClosed, match=r"there is no sandbox yet.*with SandboxSession.*create_sandbox\(\)"):
        use(session)
    with session:
        pass
    with pytest.raises(SandboxClosed, match=r"was deleted; create_sandbox\(\) gives a fresh one"):
        use(session)


def test_deleting_is_idempotent_and_needs_no_sandbox(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    session.delete_sandbox()
    session.create_sandbox()
    session.delete_sandbox()
    session.delete_sandbox()
    assert toy.open == []


def test_a_session_can_be_opened_again(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    for _ in range(2):
        with session:
            assert session.run("ls").stdout == ""
            session.write("a", "x")
    assert toy.open == []


def test_an_open_session_enters_a_block_as_it_is(session: SandboxSession, toy: ToyBackend) -> None:
    with session as same:
        assert same is session
        assert len(toy.open) == 1
    assert not session.is_open


def test_creating_twice_is_a_usage_error(session: SandboxSession, toy: ToyBackend) -> None:
    with pytest.raises(UsageError, match="has its sandbox already"):
        session.create_sandbox()
    assert len(toy.open) == 1


def test_an_error_in_a_block_still_deletes(toy: ToyBackend) -> None:
    with pytest.raises(ZeroDivisionError), SandboxSession(backend="toy"):
        raise ZeroDivisionError
    assert toy.open == []


@pytest.mark.usefixtures("toy")
def test_an_unknown_pool_is_the_backends_error_and_leaves_the_session_usable() -> None:
    session = SandboxSession(pool_ref="nope", backend="toy")
    for _ in range(2):
        with pytest.raises(PoolNotFound, match="pools: default, toys"):
            session.create_sandbox()


def test_a_sandbox_that_cannot_be_checkpointed_is_not_left_behind(
    toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySandbox, "checkpoint", lambda _self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        SandboxSession(backend="toy").create_sandbox()
    assert toy.open == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pool_ref": ""}, "pool_ref must be a name, not ''"),
        ({"pool_ref": 3}, "pool_ref must be a name, not an int"),
        ({"namespace": "a\0"}, "namespace must be a name"),
        ({"backend": 3}, "backend must be a name"),
        ({"name": ""}, "name must be a name"),
        ({"keep_alive": "yes"}, "keep_alive must be True or False, not a str"),
        ({"keep_workspace": 1}, "keep_workspace must be True or False, not an int"),
        ({"timeout": -1}, "timeout must be a duration"),
        ({"timeout": "x"}, "timeout must be seconds"),
        ({"acquire_timeout": 0}, "acquire_timeout must be more than 0"),
        ({"idle_timeout": "x"}, "idle_timeout must be seconds"),
        ({"max_lifetime": -1}, "max_lifetime must be a duration"),
        ({"labels": ["a"]}, "labels must be a mapping"),
        ({"labels": {"a": 1}}, "labels must be a mapping"),
    ],
)
def test_bad_arguments_of_a_session_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        SandboxSession(**arguments)
    assert str(caught.value).startswith(f"SandboxSession: {says}")


def test_what_a_session_asks_reaches_the_backend(toy: ToyBackend) -> None:
    with SandboxSession(
        "toys", "ns", acquire_timeout="9s", idle_timeout=5, max_lifetime="1m", labels={"a": "b"}, backend="toy"
    ):
        (request,) = toy.requests
    assert (request.pool_ref, request.namespace, request.keep_alive, request.acquire_timeout) == (
        "toys",
        "ns",
        False,
        9.0,
    )
    assert (request.idle_timeout, request.max_lifetime, request.labels) == (5.0, 60.0, {"a": "b"})


def test_a_name_of_ones_own_is_the_sandboxs_in_every_result(toy: ToyBackend) -> None:
    with SandboxSession(name="trained", backend="toy") as session:
        assert session.name == "trained"
        assert session.run("true").ok
        assert session.execute([HELLO])["spec"]["sandboxRef"] == "trained"


def test_a_session_that_is_forgotten_leaves_nothing(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy")
    session.create_sandbox()
    (sandbox,) = toy.open
    session.write("a", "x")
    session.start("sleep", "30")
    (checkpoint,) = sandbox.checkpoints
    del session
    gc.collect()
    until(lambda: sandbox.closed and not checkpoint.folder.exists())
    assert toy.open == []


def test_a_kept_session_that_is_forgotten_is_kept(toy: ToyBackend) -> None:
    session = SandboxSession(backend="toy", keep_alive=True)
    session.create_sandbox()
    held = session._holding
    assert held is not None
    del session
    gc.collect()
    time.sleep(0.05)
    assert len(toy.open) == 1
    held.close()


def test_a_backend_that_cannot_close_does_not_break_the_test(
    session: SandboxSession, sandbox: ToySandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close = sandbox.close
    monkeypatch.setattr(sandbox, "close", lambda: [close(), 1 / 0])
    session.delete_sandbox()
    assert f"closing the sandbox {sandbox.name} failed" in caplog.text


def test_at_most_so_many_sandboxes_are_open_at_once(toy: ToyBackend) -> None:
    with override({"max_sandboxes": 2}, "test"):
        first, second = SandboxSession(backend="toy"), SandboxSession(backend="toy")
        third = SandboxSession(backend="toy", acquire_timeout=0.05)
        with first, second:
            with pytest.raises(SandboxTimeout, match=r"after 50 ms: 2 are open.*--arl-max-sandboxes"):
                third.create_sandbox()
            first.delete_sandbox()
            with third:
                assert len(toy.open) == 2


def test_repr_is_one_line(session: SandboxSession) -> None:
    assert repr(session) == f"<SandboxSession {session.name!r} of pool 'default', none>"
    session.delete_sandbox()
    assert repr(session) == f"<SandboxSession {session.name!r} of pool 'default', no sandbox>"


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_lost_sandbox_is_an_infrastructure_error_with_what_is_known(
    session: SandboxSession, sandbox: ToySandbox
) -> None:
    with listening() as events, pytest.raises(SandboxLost) as caught:
        session.execute([HELLO, shell("echo partly; sleep 30", "second"), HELLO | {"name": "third"}],
                        on_output=lambda step, *_: sandbox.die() if step == "second" else None)  # fmt: skip
    result = caught.value.result
    assert result is not None
    assert (result.total, result.state, result.sandbox) == (3, "Failed", session.name)
    assert result.steps[0].ok
    finished = [event for event in events if event[0] == "finished"]
    assert [(event[3], event[4]) for event in finished] == [(result, caught.value)]


def test_a_sandbox_that_was_lost_stays_lost(session: SandboxSession, sandbox: ToySandbox) -> None:
    sandbox.die()
    assert not session.is_open
    with pytest.raises(SandboxLost):
        session.run("true")


def test_a_task_lost_before_it_started_is_repeated_as_often_as_asked(
    session: SandboxSession, sandbox: ToySandbox
) -> None:
    sandbox.die()
    assert session.execute([HELLO], retries=1).check().stdout == "Hello, World!\n"


def test_nothing_is_repeated_unasked(session: SandboxSession, sandbox: ToySandbox) -> None:
    sandbox.die()
    with pytest.raises(SandboxLost):
        session.execute([HELLO], retries=0)


def test_a_task_that_may_have_started_is_never_repeated(
    session: SandboxSession, sandbox: ToySandbox, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with pytest.raises(SandboxLost):
        session.execute([shell(f"echo ran >> {log}; echo x; sleep 30")], retries=5, on_output=lambda *_: sandbox.die())
    assert log.read_text() == "ran\n"


def test_a_fresh_sandbox_never_stands_in_for_one_that_was_used(session: SandboxSession, sandbox: ToySandbox) -> None:
    session.write("a", "x")
    sandbox.die()
    with pytest.raises(SandboxLost):
        session.execute([shell("test -e a")], retries=5)


def test_retries_give_up_with_the_error_of_the_last(
    session: SandboxSession, sandbox: ToySandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def restore(*_: object) -> None:
        tries.append(1)
        raise SandboxTimeout("none is ready")

    monkeypatch.setattr(ToySandbox, "restore", restore)
    sandbox.die()
    with pytest.raises(SandboxTimeout):
        session.execute([HELLO], retries=3)
    assert len(tries) == 3


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [{"outcome": "Succeeded", "exit_code": 0}] * 2,
        [{"outcome": "Succeeded", "exit_code": 3}],
        [{"outcome": "Failed", "exit_code": 0}],
        [{"outcome": "Failed", "exit_code": None}],
        [{"outcome": "Skipped", "exit_code": 0}],
        [{"outcome": "Succeeded", "exit_code": None}],
        [{"outcome": "Succeeded", "exit_code": 0, "name": "other"}],
    ],
)
def test_an_answer_that_contradicts_itself_is_never_a_result(
    session: SandboxSession, sandbox: ToySandbox, monkeypatch: pytest.MonkeyPatch, answer: list[dict[str, Any]]
) -> None:
    steps = [StepResult(**{"name": "hello", "type": "Command", **step}) for step in answer]
    monkeypatch.setattr(sandbox, "execute", lambda *_: steps)
    with pytest.raises(InfrastructureError, match="the backend 'toy'"):
        session.execute([HELLO])


# --- who is told --------------------------------------------------------------------------------


class Listener(list[tuple[Any, ...]]):
    def sandbox_ready(self, session: SandboxSession, seconds: float, isolation: str) -> None:
        self.append(("ready", session, seconds, isolation))

    def task_finished(
        self, session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
    ) -> None:
        self.append(("finished", session, task, result, error))

    def sandbox_closed(self, session: SandboxSession) -> None:
        self.append(("closed", session))

    def __enter__(self) -> Self:
        add_listener(self)
        return self

    def __exit__(self, *_: object) -> None:
        remove_listener(self)


def listening() -> Listener:
    return Listener()


def test_listeners_are_told_of_the_life_of_a_sandbox_in_order(toy: ToyBackend) -> None:
    with listening() as events, SandboxSession(backend="toy") as session:
        result = session.execute([HELLO])
        session.reset()
    assert [event[0] for event in events] == ["ready", "finished", "closed"]
    ready, finished, closed = events
    assert ready[1:] == (session, ready[2], "none")
    assert 0 <= ready[2] < 5
    assert (finished[3], finished[4]) == (result, None)
    assert finished[2].id == result.id
    assert closed[1] is session
    with SandboxSession(backend="toy"):
        pass
    assert len(events) == 3


def test_an_interrupted_task_is_told_with_what_is_known(session: SandboxSession) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with listening() as events, pytest.raises(KeyboardInterrupt):
        session.execute([HELLO | {"name": "a"}, shell("echo x; sleep 30", "b")],
                        on_output=lambda step, *_: interrupt() if step == "b" else None)  # fmt: skip
    ((_, _, task, partial, error),) = events
    assert isinstance(error, KeyboardInterrupt)
    assert [step.name for step in partial.steps] == ["a"]
    assert len(task.steps) == 2


def test_a_listener_that_fails_does_not_break_the_session(
    session: SandboxSession, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Listener):
        def task_finished(self, *_: object) -> None:
            raise ZeroDivisionError

    with Broken():
        assert session.run("true").ok
    assert "a session listener failed" in caplog.text


def test_each_phase_is_logged_and_no_secret_is(toy: ToyBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pytest_arl")
    with SandboxSession("toys", backend="toy") as session:
        session.run("sh", "-c", "exit 3", env={"TOKEN": "hunter2"}, stdin="hunter2")
        session.execute([{"type": "FilePatch", "path": "a", "content": "hunter2"}])
        session.reset()
    for phase in (
        "acquiring a sandbox of pool toys (backend toy)",
        f"{session.name}: ready after",
        f"{session.name}: step 1/1 'sh' starts (sh -c 'exit 3')",
        f"{session.name}: step 1/1 'sh' ended: Failed, exit code 3",
        f"{session.name}: reset in",
        f"{session.name}: closed",
    ):
        assert phase in caplog.text
    assert "hunter2" not in caplog.text


# --- tracebacks ---------------------------------------------------------------------------------

RAISING: list[Callable[[SandboxSession], object]] = [
    lambda s: s.execute([]),
    lambda s: s.execute([{"type": "Command", "command": [3]}]),
    lambda s: s.execute([HELLO], timeout=-1),
    lambda s: s.run("a b"),
    lambda s: s.run("true", env={"A": 1}),  # type: ignore[dict-item] # on purpose
    lambda s: s.run("false").check(),
    lambda s: s.execute([shell("exit 1")]).check(),
    lambda s: bool(s.run("true")),
    lambda s: s.start("no-such"),
    lambda s: s.write("", ""),
    lambda s: s.output("x", "stdout"),
    lambda s: Command(command=[]),
    lambda s: s.create_sandbox(),
    lambda s: SandboxSession(timeout=-1),
    lambda s: SandboxSession(backend="toy", pool_ref="nope").create_sandbox(),
    lambda s: (SandboxSession.__exit__(s, None, None, None), s.run("true")),  # type: ignore[func-returns-value]
    lambda s: s.execute([HELLO]).step("x"),
]


@pytest.mark.parametrize("use", RAISING)
def test_our_frames_are_hidden_in_tracebacks(session: SandboxSession, use: Callable[[SandboxSession], object]) -> None:
    with pytest.raises(Exception) as caught:
        use(session)
    assert caught.value.__cause__ is None
    ours = os.path.join("src", "pytest_arl") + os.sep
    shown = [
        frame
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if ours in frame.f_code.co_filename and "__tracebackhide__" not in frame.f_locals
    ]
    assert [frame.f_code.co_qualname for frame in shown] == []


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
