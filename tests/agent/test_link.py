"""How the agent's frames are put into writes: few calls, each stream in its turn."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent.link import Link


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """A link with a lot of room to the peer, and the peer's end."""
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    loop: Any = SimpleNamespace(add=lambda *_: None, modify=lambda *_: None, remove=lambda *_: None)
    with ours, peer:
        yield Link(loop, ours.fileno(), lambda *_: None, lambda _problem: None), peer


def _writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each write from here on."""
    sizes: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr("pytest_arl.agent.link.os.write", counted)
    return sizes


def _received(peer: socket.socket, count: int) -> list[tuple[int, int, object]]:
    parser = frames.Parser()
    found: list[tuple[int, int, object]] = []
    while len(found) < count:
        found += parser.feed(peer.recv(1 << 20))
    return found


def test_many_small_frames_of_a_producer_go_with_few_writes(
    ends: tuple[Link, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, peer = ends
    sizes = _writes(monkeypatch)
    link.send_from(1, (frames.frame(frames.DATA, 1, bytes(100)) for _ in range(1500)))
    link.flush()

    assert len(_received(peer, 1500)) == 1500
    assert len(sizes) <= 6
    assert max(sizes) < 40_000, "another stream would wait for longer ones"


def test_another_stream_has_its_turn_between_two_writes(ends: tuple[Link, socket.socket]) -> None:
    link, peer = ends
    link.send_from(1, (frames.frame(frames.DATA, 1, bytes(1000)) for _ in range(200)))
    link.send(frames.REPLY, 2, {})
    link.flush()

    streams = [stream for _, stream, _ in _received(peer, 201)]
    assert streams.count(1) == 200
    assert 30 < streams.index(2) < 40, "after the first 32 KiB"


def test_a_producer_that_fails_is_answered_after_what_it_had(ends: tuple[Link, socket.socket]) -> None:
    def half() -> Generator[bytes, None, None]:
        yield frames.frame(frames.DATA, 1, b"some")
        raise OSError(5, "Input/output error", b"/workspace/x")

    link, peer = ends
    link.send_from(1, half())
    link.send(frames.REPLY, 1, {"after": 1})
    link.flush()

    kinds = [kind for kind, _, _ in _received(peer, 3)]
    assert kinds == [frames.DATA, frames.ERROR, frames.REPLY]
