"""The holder's channel, to a real agent; the port-forward is a connection to its port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import AgentError, ChannelLost
from pytest_arl.backends.kubernetes import agent_connection as module
from pytest_arl.backends.kubernetes.agent_connection import AgentConnection
from pytest_arl.backends.kubernetes.api import Api
from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.errors import PermissionDenied
from tests.agent.conftest import bubblewrap  # noqa: F401 - a fixture
from tests.agent.remote_harness import SECRET, Agent, agent_of


class Direct:
    """In a Forward's place: the same socket, without an API server in between."""

    said = "as the node said"

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Ways:
    """What ``open_forward`` gave, and what it is to give."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.opened: list[Direct] = []
        self.error: Exception | None = None

    def __call__(self, _access: object, _namespace: str, _pod: str, _port: int) -> Any:
        if self.error is not None:
            raise self.error
        self.opened.append(Direct(self.address))
        return self.opened[-1]


@pytest.fixture
def agent(bubblewrap: str) -> Iterator[Agent]:  # noqa: F811 - it skips
    with agent_of() as found:
        yield found


@pytest.fixture
def ways(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Ways:
    found = Ways(agent.port)
    monkeypatch.setattr(module, "open_forward", found)
    return found


Make = Callable[..., AgentConnection]


@pytest.fixture
def make(agent: Agent, ways: Ways, api: Api) -> Iterator[Make]:
    boot = agent.operator().boot
    made: list[AgentConnection] = []

    def one(*, secret: bytes = SECRET, mark: bytes | None = None, boot: str = boot) -> AgentConnection:
        made.append(AgentConnection(api, "tests", secret, mark, lambda: ("pod-1", boot)))
        return made[-1]

    yield one
    for each in made:
        each.close()


def busy(channel: Channel) -> bool:
    """Ask it something."""
    with channel.open() as stream:
        stream.send(frames.PING, {})
        return bool(stream.receive(time.monotonic() + 10)[1]["busy"])


def test_without_a_pod_there_is_no_channel_yet(api: Api) -> None:
    """A status of the Sandbox that somebody has written may name none."""
    connection = AgentConnection(api, "tests", SECRET, None, lambda: ("", ""))
    with pytest.raises(ChannelLost, match="no pod"):
        connection.channel()


def test_the_first_use_connects_and_the_next_ones_use_that(make: Make, ways: Ways) -> None:
    holder = make()
    assert ways.opened == []
    channel = holder.channel()
    assert busy(channel) is False
    assert holder.channel() is channel
    assert len(ways.opened) == 1


def test_a_connection_that_broke_is_replaced_by_the_next_use(make: Make, ways: Ways) -> None:
    holder = make()
    channel = holder.channel()
    ways.opened[0].socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ChannelLost, match="as the node said"):
        busy(channel)
    assert busy(holder.channel()) is False
    assert ways.opened[0].closed
    assert len(ways.opened) == 2


def test_a_connection_that_is_given_up_is_closed(make: Make, ways: Ways) -> None:
    holder = make()
    holder.channel()
    holder.drop()
    assert ways.opened[0].closed
    assert busy(holder.channel()) is False


def test_an_agent_that_was_started_anew_is_not_the_sandboxs(make: Make, ways: Ways) -> None:
    with pytest.raises(ChannelLost, match="restarted: its earlier state is lost"):
        make(boot="0" * 32).channel()
    assert ways.opened[0].closed


def test_an_agent_with_the_holders_mark_is_the_sandboxs(agent: Agent, make: Make) -> None:
    agent.operator(holderMark=b"m" * 32)
    assert busy(make(mark=b"m" * 32).channel()) is False


def test_a_process_without_the_mark_on_the_agents_port_is_refused(make: Make, ways: Ways) -> None:
    with pytest.raises(ChannelLost, match="cannot prove that it is the agent"):
        make(mark=b"m" * 32).channel()
    assert ways.opened[0].closed


def test_a_secret_that_is_not_the_holders_is_refused_in_the_agents_words(make: Make, ways: Ways) -> None:
    with pytest.raises((AgentError, ChannelLost), match="not the holder's"):
        make(secret=b"another").channel()
    assert ways.opened[0].closed


def test_an_agent_that_says_nothing_is_given_up(make: Make, ways: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GREETING_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ways.address = silent.getsockname()
        with pytest.raises(ChannelLost, match="has not answered the handshake"):
            make().channel()
    assert ways.opened[0].closed


def test_closing_wakes_waiters_and_is_final(make: Make) -> None:
    holder = make()
    channel = holder.channel()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            with channel.open() as stream:
                stream.receive(time.monotonic() + 60)
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    holder.close()
    holder.close()
    waiting.join(10)
    assert [type(error) for error in errors] == [ChannelLost]
    with pytest.raises(ChannelLost, match="the sandbox is closed"):
        holder.channel()


def test_a_port_forward_that_is_not_allowed_names_the_rule(make: Make, ways: Ways) -> None:
    ways.error = Refused(
        403, "Forbidden", 'pods "pod-1" is forbidden: User "u" cannot create resource "pods/portforward"'
    )
    with pytest.raises(PermissionDenied, match="port-forward to pod pod-1"):
        make().channel()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("a port-forward to pod pod-1 could not be opened: refused"), "could not be opened"),
        (Refused(404, "NotFound", 'pods "pod-1" not found'), "refused a port-forward: pods"),
    ],
)
def test_a_port_forward_that_fails_is_a_connection_that_is_lost(
    make: Make, ways: Ways, error: Exception, said: str
) -> None:
    ways.error = error
    with pytest.raises(ChannelLost, match=said):
        make().channel()
