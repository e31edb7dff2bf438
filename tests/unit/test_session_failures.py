"""What goes wrong, who is told of it, and what a traceback shows."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_arl import (
    Command,
    InfrastructureError,
    SandboxLost,
    SandboxSession,
    SandboxTimeout,
    StepResult,
)
from tests.toy_backend import ToyBackend, ToySandbox
from tests.unit.sessions import HELLO, Listener, listening, shell

# --- what goes wrong ---


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


# --- who is told ---


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
        before = session.name
        session.reset()
    assert session.name != before
    for phase in (
        "acquiring a sandbox of pool toys (backend toy)",
        f"{before}: ready after",
        f"{before}: step 1/1 'sh' starts (sh -c 'exit 3')",
        f"{before}: step 1/1 'sh' exited 3 after",
        f"{before}: reset in",
        f", now {session.name}",
        f"{session.name}: closed",
    ):
        assert phase in caplog.text
    assert "hunter2" not in caplog.text


# --- tracebacks ---

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


OURS = os.path.join("src", "pytest_arl") + os.sep


def shown(caught: pytest.ExceptionInfo[BaseException]) -> list[str]:
    """The functions of this package and of this file whose frames pytest shows."""
    entries = [
        entry for entry in caught.traceback.filter(caught) if OURS in str(entry.path) or entry.path == Path(__file__)
    ]
    return [entry.frame.code.name for entry in entries]


@pytest.mark.parametrize("use", RAISING)
def test_our_frames_are_hidden_in_tracebacks(session: SandboxSession, use: Callable[[SandboxSession], object]) -> None:
    with pytest.raises(Exception) as caught:
        use(session)
    assert caught.value.__cause__ is None
    assert shown(caught) == ["test_our_frames_are_hidden_in_tracebacks", "<lambda>"]


RAISING_LATER: list[Callable[[SandboxSession], Awaitable[object]]] = [
    lambda s: s.acreate_sandbox(),
    lambda s: s.aexecute([]),
    lambda s: s.aexecute([HELLO], timeout=-1),
    lambda s: s.arun("a b"),
    lambda s: s.astart("no-such"),
    lambda s: s.awrite("", ""),
    lambda s: s.aread(""),
    lambda s: s.aread_text("\0"),
    lambda s: s.aupload("/not/there", ""),
    lambda s: s.adownload("", ""),
    lambda s: anext(s.aoutput("x", "stdout")),
    lambda s: SandboxSession(backend="toy").areset(),
    lambda s: SandboxSession(backend="toy").acheckpoint(),
    lambda s: SandboxSession(backend="toy", pool_ref="nope").acreate_sandbox(),
]


@pytest.mark.parametrize("use", RAISING_LATER)
def test_our_frames_are_hidden_in_tracebacks_of_async_code(
    session: SandboxSession, use: Callable[[SandboxSession], Awaitable[object]]
) -> None:
    async def main() -> None:
        await use(session)

    with pytest.raises(Exception) as caught:
        asyncio.run(main())
    assert shown(caught) == ["test_our_frames_are_hidden_in_tracebacks_of_async_code", "main"]


def fail(*_: object) -> Any:
    raise ZeroDivisionError


def test_a_callback_that_fails_is_shown(session: SandboxSession) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        session.execute([HELLO], on_output=fail)
    assert shown(caught) == ["test_a_callback_that_fails_is_shown", "fail"]


def test_a_callback_of_async_code_that_fails_is_shown(session: SandboxSession) -> None:
    async def main() -> None:
        await session.aexecute([HELLO], on_output=fail)

    with pytest.raises(ZeroDivisionError) as caught:
        asyncio.run(main())
    assert shown(caught) == ["test_a_callback_of_async_code_that_fails_is_shown", "main", "fail"]


def test_steps_that_fail_as_they_are_read_are_shown(session: SandboxSession) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        session.execute(fail(number) for number in range(3))
    assert shown(caught) == ["test_steps_that_fail_as_they_are_read_are_shown", "<genexpr>", "fail"]


def test_each_step_is_logged_as_it_ends_not_when_all_have(
    session: SandboxSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pytest_arl")
    told: list[str] = []

    def look(name: str, _stream: str, _data: bytes) -> None:
        if name == "second":
            told.append(caplog.text)

    session.execute(
        [
            {"name": "first", "type": "Command", "command": ["true"]},
            {"name": "second", "type": "Command", "command": ["sh", "-c", "echo 1; exit 4"]},
            {"name": "third", "type": "Command", "command": ["true"]},
        ],
        on_output=look,
    )
    assert "step 1/3 'first' succeeded" in told[0]
    assert "step 2/3 'second' starts" in told[0]
    assert "'second' exited" not in told[0]
    assert "step 2/3 'second' exited 4 after" in caplog.text
    assert "step 3/3 'third' was skipped" in caplog.text
    assert "'third' starts" not in caplog.text
