"""The way from async code to a session, whose methods block: a thread for each call, under asyncio and trio.

A thread of its own, not the loop's executor: a caller that waits for its turn must not keep others from having theirs.
anyio runs on one of the two. Neither is imported here: a caller that awaits has imported one.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pytest_arl.errors import UsageError
from pytest_arl.session.fair_queue import Abandoned, Cancellation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pytest_arl.backends.base import OnOutput, StreamName

    class _Event(Protocol):
        """The common part of asyncio's and trio's events."""

        def set(self) -> object: ...
        async def wait(self) -> object: ...
        def is_set(self) -> bool: ...


__all__ = ["in_caller", "in_thread", "iterate"]

__tracebackhide__ = True

T = TypeVar("T")

_AGAIN = 0.05
"""Seconds after which a thread that was asked to end is asked again: it may have been between two hooks."""


class _Call(Generic[T]):
    """A call that runs in its thread, and what it came to."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._value: T | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()

    def start(self, done: Callable[[], object]) -> None:
        # The context goes along, so that what a test set there is seen by listeners and callbacks.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, done), name="pytest-arl call", daemon=True).start()

    def _run(self, done: Callable[[], object]) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was awaited
            self._error = error
        finally:
            self._over.set()
            done()

    def press(self, cancellation: Cancellation) -> None:
        """Cancel until the thread is done, from another thread: the coroutine is being closed and may not await."""

        def again() -> None:
            while not self._over.wait(_AGAIN):
                cancellation.cancel()

        threading.Thread(target=again, name="pytest-arl cancel", daemon=True).start()

    def result(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # a traceback that held itself would be a cycle
        return self._value  # type: ignore[return-value] # set where no error was


async def in_thread(function: Callable[[], T], cancellation: Cancellation | None = None, *, leave: bool = False) -> T:
    """Run ``function`` in a thread and await it.

    Cancelling the await calls ``cancellation`` until the thread is done, then lets the cancellation go on; with
    ``leave`` it does not wait for the thread, which then cleans up after itself.
    """
    call = _Call(function)
    loop = _loop()
    done = loop.event()
    call.start(lambda: loop.soon(done.set))
    try:
        await done.wait()
    except BaseException as error:
        if cancellation is not None:
            cancellation.cancel()
            if isinstance(error, GeneratorExit):
                call.press(cancellation)
        if not leave and not isinstance(error, GeneratorExit):
            await loop.until(done, again=cancellation)
        raise
    return call.result()


def in_caller(function: OnOutput | None, cancellation: Cancellation) -> OnOutput | None:
    """A callback that runs in the event loop's thread, where its owner expects it, and blocks its caller meanwhile."""
    if function is None:
        return None
    loop = _loop()

    def relay(step: str, stream: StreamName, data: bytes) -> None:
        done = threading.Event()
        outcome: list[BaseException] = []

        def run() -> None:
            try:
                function(step, stream, data)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
                outcome.append(error)
            finally:
                done.set()

        loop.soon(run)
        while not done.wait(_AGAIN):
            if cancellation.requested:
                raise Abandoned
        if outcome:
            raise outcome.pop()

    return relay


async def iterate(make: Callable[[], Iterator[bytes]]) -> AsyncIterator[bytes]:
    """An iterator that blocks, for ``async for``."""
    iterator = await in_thread(make)
    while True:
        block = await in_thread(lambda: next(iterator, None))
        if block is None:
            return
        yield block


class _Asyncio:
    """asyncio, with or without anyio on top."""

    def __init__(self, asyncio: Any) -> None:
        self._asyncio = asyncio
        self._running = asyncio.get_running_loop()

    def event(self) -> _Event:
        event: _Event = self._asyncio.Event()
        return event

    def soon(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop was closed: nothing awaits the call any more
            self._running.call_soon_threadsafe(function)

    async def until(self, done: _Event, *, again: Cancellation | None) -> None:
        with self._shield():
            while not done.is_set():
                try:
                    await self._asyncio.wait_for(done.wait(), _AGAIN)
                except (TimeoutError, self._asyncio.CancelledError):
                    if again is not None:
                        again.cancel()

    @staticmethod
    def _shield() -> AbstractContextManager[object]:
        # anyio cancels again and again until its scope is left; its own shield is what keeps it from that.
        anyio = sys.modules.get("anyio")
        shield: AbstractContextManager[object] = nullcontext() if anyio is None else anyio.CancelScope(shield=True)
        return shield


class _Trio:
    """trio, with or without anyio on top."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def event(self) -> _Event:
        event: _Event = self._trio.Event()
        return event

    def soon(self, function: Callable[[], object]) -> None:
        with suppress(self._trio.RunFinishedError):  # nothing awaits the call any more
            self._token.run_sync_soon(function)

    async def until(self, done: _Event, *, again: Cancellation | None) -> None:
        with self._trio.CancelScope(shield=True):
            while not done.is_set():
                with self._trio.move_on_after(_AGAIN):
                    await done.wait()
                if again is not None:
                    again.cancel()


def _loop() -> _Asyncio | _Trio:
    """The event loop that runs in this thread."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return _Trio(trio)
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            return _Asyncio(asyncio)
        except RuntimeError:
            pass
    raise UsageError("this must be awaited under asyncio or trio (anyio runs on either)")
