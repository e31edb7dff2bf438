"""The async twins, under asyncio, trio and anyio on both."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from pytest_arl import SandboxClosed, SandboxSession, UsageError
from tests.toy_backend import ToyBackend, ToySandbox
from tests.waiting import until

Main = Callable[[], Awaitable[Any]]
HELLO: dict[str, Any] = {"name": "hello", "type": "Command", "command": ["echo", "hi"]}


plain_asyncio = False


def with_asyncio(main: Main) -> Any:
    async def run() -> Any:
        return await main()

    global plain_asyncio  # noqa: PLW0603 - one loop at a time
    plain_asyncio = True
    try:
        return asyncio.run(run())
    finally:
        plain_asyncio = False


def with_anyio_asyncio(main: Main) -> Any:
    return anyio.run(main, backend="asyncio")


def with_anyio_trio(main: Main) -> Any:
    return anyio.run(main, backend="trio")


@pytest.fixture(
    params=[with_asyncio, trio.run, with_anyio_asyncio, with_anyio_trio], ids=["asyncio", "trio", "anyio", "anyio-trio"]
)
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    runner: Callable[[Main], Any] = request.param
    return runner


async def cancelled_after(seconds: float, work: Callable[[], Awaitable[object]]) -> bool:
    """Whether ``work`` was cancelled, by asyncio's own means under plain asyncio, and by scopes elsewhere."""
    if plain_asyncio:
        try:
            await asyncio.wait_for(work(), seconds)
        except TimeoutError:
            return True
        return False
    with anyio.move_on_after(seconds) as scope:
        await work()
    return scope.cancelled_caught


@pytest.mark.usefixtures("toy")
def test_every_method_has_its_twin(run: Callable[[Main], Any], tmp_path: Path) -> None:
    (tmp_path / "up").write_text("up")

    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            assert (await session.aexecute([HELLO])).check().stdout == "hi\n"
            assert (await session.arun("sh", "-c", "cat; exit 3", stdin="x")).exit_code == 3
            await session.awrite("a", "é", mode=0o600)
            assert await session.aread("a") == "é".encode()
            assert await session.aread_text("a") == "é"
            await session.acheckpoint()
            await session.aupload(tmp_path / "up", "b")
            await session.adownload("b", tmp_path / "down")
            await session.areset()
            with pytest.raises(FileNotFoundError):
                await session.aread("b")
            long = await session.arun("seq", "5000")
            whole = b"".join([block async for block in session.aoutput(long, "stdout")])
            assert len(whole) == long.stdout_size > len(long.stdout_bytes)
            process = await session.astart("cat")
            await process.awrite("x")
            assert await process.apoll() is None
            await process.aclose_stdin()
            assert (await process.await_exit(5)).stdout == "x"
            sleeper = await session.astart("sleep", "30")
            with pytest.raises(TimeoutError):
                await sleeper.await_exit(0.05)
            await sleeper.akill()
            assert (await sleeper.await_exit()).outcome == "Killed"
        assert not session.is_open
        with pytest.raises(SandboxClosed):
            await session.arun("true")

    run(main)
    assert (tmp_path / "down").read_text() == "up"


@pytest.mark.usefixtures("toy")
def test_the_loop_runs_on_meanwhile(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            assert await cancelled_after(0.1, lambda: session.arun("sleep", "30"))

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 3


def test_cancelling_the_await_cancels_the_task_and_waits_for_it(run: Callable[[Main], Any], toy: ToyBackend) -> None:
    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            (sandbox,) = toy.open
            assert await cancelled_after(0.15, lambda: session.arun("sh", "-c", "sleep 30; touch late"))
            assert sandbox._running is None
            assert sandbox.partial[0].outcome == "Cancelled"
            assert (await session.arun("echo", "next")).stdout == "next\n"

    run(main)


def test_a_cancel_that_came_too_early_is_repeated_and_not_in_a_busy_loop(
    run: Callable[[Main], Any], toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    cancel = ToySandbox.cancel

    def late(sandbox: ToySandbox, task_id: str) -> None:
        calls.append(time.monotonic())
        if calls[-1] - calls[0] > 0.3:
            cancel(sandbox, task_id)

    monkeypatch.setattr(ToySandbox, "cancel", late)

    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            assert await cancelled_after(0.1, lambda: session.arun("sleep", "30"))

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 10
    assert 2 <= len(calls) < 50


def test_cancelling_one_that_waits_lets_nothing_of_it_run(run: Callable[[Main], Any], toy: ToyBackend) -> None:
    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            (sandbox,) = toy.open
            hold = "while [ ! -e go ]; do sleep 0.01; done"
            blocker = threading.Thread(target=lambda: session.run("sh", "-c", hold))
            blocker.start()
            while not sandbox.executed:
                time.sleep(0.005)  # noqa: ASYNC251 - likewise
            assert await cancelled_after(0.05, lambda: session.arun("touch", "never"))
            assert blocker.is_alive()
            session.write("go", "")
            blocker.join()
            assert (await session.arun("ls")).stdout == "go\n"
            assert len(sandbox.executed) == 2

    run(main)


def test_cancelling_a_creation_leaves_no_sandbox(
    run: Callable[[Main], Any], toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = toy.acquire

    go_on = threading.Event()

    def slowly(request: object) -> ToySandbox:
        go_on.wait(20)
        return acquire(request)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(toy, "acquire", slowly)
    session = SandboxSession(backend="toy")

    async def main() -> None:
        assert await cancelled_after(0.05, session.acreate_sandbox)
        assert session._lifecycle._opening

    run(main)
    go_on.set()
    assert until(lambda: not session._lifecycle._opening)
    assert toy.open == []
    assert not session.is_open


def test_a_creation_that_ended_as_it_was_cancelled_leaves_no_sandbox(
    toy: ToyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def done_and_cancelled(function: Callable[[], object], *_: object, **__: object) -> None:
        function()
        raise asyncio.CancelledError

    monkeypatch.setattr("pytest_arl.session.async_methods.in_thread", done_and_cancelled)
    session = SandboxSession(backend="toy")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(session.acreate_sandbox())
    assert len(toy.requests) == 1
    assert toy.open == []


@pytest.mark.usefixtures("toy")
def test_a_block_that_is_cancelled_deletes_its_sandbox(run: Callable[[Main], Any], toy: ToyBackend) -> None:
    async def main() -> None:
        async def block() -> None:
            async with SandboxSession(backend="toy") as session:
                await session.arun("sleep", "30")

        assert await cancelled_after(0.1, block)
        assert toy.open == []

    run(main)


@pytest.mark.usefixtures("toy")
def test_output_is_told_in_the_loops_thread(run: Callable[[Main], Any]) -> None:
    seen: list[tuple[object, ...]] = []

    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            await session.aexecute([HELLO], on_output=lambda *what: seen.append((*what, threading.get_ident())))

    run(main)
    assert seen == [("hello", "stdout", b"hi\n", threading.get_ident())]


@pytest.mark.usefixtures("toy")
def test_what_a_callback_raises_ends_the_task_and_comes_out(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            step = {"type": "Command", "command": ["sh", "-c", "echo x; sleep 30"]}
            with pytest.raises(ZeroDivisionError):
                await session.aexecute([step], on_output=lambda *_: 1 // 0)
            assert (await session.arun("true")).ok

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("toy")
def test_many_may_wait_at_once(run: Callable[[Main], Any]) -> None:
    """More than any pool of threads has: who waits for its turn keeps nobody from having one."""

    async def main() -> None:
        async with SandboxSession(backend="toy") as session, anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(session.awrite, f"f{number}", "")
                group.start_soon(session.arun, "true")

    if run in (with_anyio_asyncio, with_anyio_trio, trio.run):
        run(main)


@pytest.mark.usefixtures("toy")
def test_usage_errors_come_before_any_thread(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with SandboxSession(backend="toy") as session:
            with pytest.raises(UsageError, match=r"arun\(\) takes the words one by one"):
                await session.arun("a b")
            with pytest.raises(UsageError, match="steps is empty"):
                await session.aexecute([])

    run(main)


def test_outside_a_loop_it_says_what_is_missing(session: SandboxSession) -> None:
    with pytest.raises(UsageError, match="awaited under asyncio or trio"):
        session.aread("a").send(None)


def test_a_coroutine_that_is_dropped_is_cancelled(session: SandboxSession, sandbox: ToySandbox) -> None:
    async def main() -> None:
        coroutine = session.arun("sleep", "30")
        coroutine.send(None)
        while not sandbox.executed:
            await asyncio.sleep(0.005)
        coroutine.close()

    began = time.monotonic()
    asyncio.run(main())
    gc.collect()
    assert session.run("echo", "free").stdout == "free\n"
    assert time.monotonic() - began < 5


def test_importing_sessions_imports_no_async_library() -> None:
    program = (
        "import sys, pytest_arl, pytest_arl.session, pytest_arl.hooks\n"
        "print([name for name in ('asyncio', 'trio', 'anyio', 'subprocess', 'pytest') if name in sys.modules])"
    )
    source = Path(__file__).parents[2] / "src"
    process = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(source)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.stdout, process.stderr) == ("[]\n", "")
