"""One session used by many threads: its callers are served in order; others are not kept waiting."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_arl import SandboxLost, SandboxSession, UsageError
from tests.toy_backend import ToyBackend, ToySandbox
from tests.waiting import until


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_callers_are_served_in_their_order(session: SandboxSession) -> None:
    threads = [in_thread(lambda: session.run("sleep", "0.2"))]
    assert until(lambda: session._tasks._turns._inside)
    for number in range(6):
        threads.append(in_thread(lambda number=number: session.run("sh", "-c", f"echo {number} >> log")))  # type: ignore[misc] # bound on purpose
        assert until(lambda number=number: len(session._tasks._turns._waiting) == number + 1)  # type: ignore[misc] # likewise
    for thread in threads:
        thread.join(10)
    assert session.read_text("log").split() == list("012345")


def test_tasks_of_one_sandbox_never_overlap(session: SandboxSession) -> None:
    script = "mkdir lock || exit 9; sleep 0.01; rmdir lock"
    codes: list[int | None] = []
    threads = [in_thread(lambda: codes.append(session.run("sh", "-c", script).exit_code)) for _ in range(12)]
    for thread in threads:
        thread.join(10)
    assert codes == [0] * 12


@pytest.mark.usefixtures("toy")
def test_sandboxes_run_side_by_side(tmp_path: Path) -> None:
    """Each waits for the other: one after the other, neither would end."""
    meet = "touch $1; while [ ! -e $2 ]; do sleep 0.01; done"
    with SandboxSession(backend="toy", timeout=20) as one, SandboxSession(backend="toy", timeout=20) as other:
        here, there = str(tmp_path / "here"), str(tmp_path / "there")
        codes: list[int | None] = []
        thread = in_thread(lambda: codes.append(one.run("sh", "-c", meet, "-", here, there).exit_code))
        codes.append(other.run("sh", "-c", meet, "-", there, here).exit_code)
        thread.join(20)
    assert codes == [0, 0]


def test_files_are_served_while_a_task_runs(session: SandboxSession) -> None:
    thread = in_thread(lambda: session.run("sh", "-c", "while [ ! -e go ]; do sleep 0.01; done"))
    assert until(lambda: session._tasks._turns._inside)
    session.write("go", "")
    assert session.read("go") == b""
    thread.join(5)
    assert not thread.is_alive()


def test_a_reset_waits_for_its_turn(session: SandboxSession) -> None:
    thread = in_thread(lambda: session.run("sleep", "0.2"))
    assert until(lambda: session._tasks._turns._inside)
    began = time.monotonic()
    session.reset()
    assert time.monotonic() - began > 0.1
    thread.join(5)


def test_an_interrupt_while_waiting_leaves_the_queue_consistent(session: SandboxSession) -> None:
    first = in_thread(lambda: session.run("sleep", "0.5"))
    assert until(lambda: session._tasks._turns._inside)
    later: list[object] = []

    def interrupt() -> None:
        assert until(lambda: len(session._tasks._turns._waiting) == 1)
        later.append(in_thread(lambda: later.append(session.run("echo", "later"))))
        assert until(lambda: len(session._tasks._turns._waiting) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    helper = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.run("touch", "never")
    assert first.is_alive()
    first.join(5)
    helper.join(5)
    assert until(lambda: len(later) == 2)
    assert session.run("ls").stdout == ""
    assert (session._tasks._turns._inside, list(session._tasks._turns._waiting)) == (set(), [])


def test_deleting_ends_the_task_that_runs_and_the_ones_that_wait(session: SandboxSession, toy: ToyBackend) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            session.run("sleep", "30")
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    threads = [in_thread(work)]
    assert until(lambda: any(sandbox._running for sandbox in toy.open))
    threads.append(in_thread(work))
    assert until(lambda: session._tasks._turns._waiting)
    session.delete_sandbox()
    for thread in threads:
        thread.join(5)
    lost, closed = sorted(errors, key=lambda error: type(error).__name__, reverse=True)
    assert isinstance(lost, SandboxLost)
    assert "delete_sandbox() was called while a task ran" in str(lost)
    assert lost.result is not None
    assert "was deleted" in str(closed)


def test_deleting_while_creating_leaves_no_sandbox(toy: ToyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, acquiring = threading.Event(), threading.Event()
    acquire = toy.acquire

    def slowly(request: object) -> ToySandbox:
        acquiring.set()
        go_on.wait(5)
        return acquire(request)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(toy, "acquire", slowly)
    session = SandboxSession(backend="toy")
    errors: list[BaseException] = []

    def create() -> None:
        try:
            session.create_sandbox()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    thread = in_thread(create)
    acquiring.wait(5)
    with pytest.raises(UsageError, match="has its sandbox already"):
        session.create_sandbox()
    session.delete_sandbox()
    go_on.set()
    thread.join(5)
    assert [str(error) for error in errors] == ["default: deleted while it was being created"]
    assert toy.open == []
    assert not session.is_open
