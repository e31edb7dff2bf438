"""The agent's end of a channel, played by a test."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.direct_sandbox import DirectSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FakeAgent:
    """Reads what the host sends; what it answers is the test's to say."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._parser = frames.Parser()
        self._arrived: list[tuple[int, int, Any]] = []

    def receive(self, seconds: float = 5) -> tuple[int, int, Any]:
        """The next frame or message: kind, stream, value."""
        self.socket.settimeout(seconds)
        while not self._arrived:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
            self._arrived += self._parser.feed(data)
        return self._arrived.pop(0)

    def send(self, kind: int, stream: int, value: object) -> None:
        """Send one message."""
        self.send_raw(frames.message(kind, stream, value))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        self.socket.settimeout(5)
        self.socket.sendall(data)

    def hang_up(self) -> None:
        """Close."""
        self.socket.close()


@contextmanager
def agent_and_channel(
    lost: Callable[[], str] = lambda: "", starved: Callable[[], bool] = lambda: False
) -> Iterator[tuple[FakeAgent, Channel]]:
    """Both ends of a channel."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, lost=lost, starved=starved)
    with theirs:
        try:
            yield FakeAgent(theirs), channel
        finally:
            channel.close()


class Server:
    """A fake agent that answers in a thread of its own: ``answers`` gets each message and may send."""

    def __init__(self, agent: FakeAgent, answers: Callable[[FakeAgent, int, int, Any], None]) -> None:
        self.seen: list[tuple[int, int, Any]] = []
        self._agent = agent
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                message = self._agent.receive(30)
                self.seen.append(message)
                self._answers(self._agent, *message)
        except (OSError, EOFError):
            pass


def echo(agent: FakeAgent, kind: int, stream: int, value: Any) -> None:
    """Answer every request with itself, and every ping."""
    if kind == frames.PING:
        agent.send(frames.PONG, stream, {})
    else:
        agent.send(frames.REPLY, stream, value)


@contextmanager
def sandbox_and_agent(
    limit: int = 1000, starved: Callable[[], bool] = lambda: False
) -> Iterator[tuple[DirectSandbox, FakeAgent]]:
    """A sandbox whose agent is a test's."""
    with ExitStack() as keep:
        agent, channel = keep.enter_context(agent_and_channel(starved=starved))

        def replace() -> DirectSandbox:
            raise AssertionError("no fresh sandbox is needed here")

        yield (
            DirectSandbox(
                channel,
                name="box",
                pool_ref="pool",
                isolation="none",
                output_limit=limit,
                on_close=lambda: None,
                kill=agent.hang_up,
                replace=replace,
                limits={"memory": "512Mi"},
            ),
            agent,
        )


def in_thread(work: Callable[[], object]) -> Callable[..., Any]:
    """Start it in a thread; call what this gives to have its result, or its exception raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised again where it is looked at
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def result(seconds: float = 10) -> Any:
        thread.join(seconds)
        assert outcome, "the thread still runs"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result
