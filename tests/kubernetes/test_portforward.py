"""The bytes of a port-forward, between a socket pair that is the API server and the socket its user has."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_arl.backends.kubernetes.portforward import Forward

websocket = pytest.importorskip("websocket")

_PORT = (44_000).to_bytes(2, "little")
_TEXT_OF_A_CLOSE = (1000).to_bytes(2, "big")


class Server:
    """The API server's side of a websocket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(10)
        self._reading: Any = websocket.WebSocket(skip_utf8_validation=True)
        self._reading.sock, self._reading.connected = end, True
        for channel in (0, 1):
            self.send(channel, _PORT)

    def send(self, channel: int, data: bytes) -> None:
        self.frame(bytes((channel,)) + data, websocket.ABNF.OPCODE_BINARY)

    def frame(self, payload: bytes, opcode: int, *, final: bool = True) -> None:
        self._end.sendall(websocket.ABNF(int(final), 0, 0, 0, opcode, 0, payload).format())

    def fill(self) -> int:
        """Send for as long as somebody takes it; how many bytes were taken."""
        frame = websocket.ABNF(1, 0, 0, 0, websocket.ABNF.OPCODE_BINARY, 0, b"\0" + bytes(32 * 1024)).format()
        taken, left = 0, memoryview(b"")
        while select.select((), (self._end,), (), 0.5)[1]:
            left = left or memoryview(frame)
            sent = self._end.send(left, socket.MSG_DONTWAIT)
            taken, left = taken + sent, left[sent:]
        return taken

    def receive(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        frame = self._reading.recv_frame()
        return frame.opcode, bytes(frame.data)

    def close(self) -> None:
        self._end.close()

    def is_closed_over_there(self) -> bool:
        return self._end.recv(1) == b""


@pytest.fixture
def ends() -> Iterator[tuple[Server, Forward]]:
    there, here = socket.socketpair()
    connection = websocket.WebSocket(skip_utf8_validation=True)
    connection.sock, connection.connected = here, True
    forward = Forward(connection, websocket.ABNF)
    forward.socket.settimeout(10)
    server = Server(there)
    yield server, forward
    forward.close()
    forward.socket.close()
    server.close()


def read(end: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = end.recv(size - len(found))
        assert piece, f"the end after {len(found)} bytes"
        found += piece
    return found


def test_bytes_of_the_pod_arrive_without_their_frames(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    server.send(0, b"one ")
    server.send(0, b"")
    server.send(0, b"\0\xfftwo")
    assert read(forward.socket, 9) == b"one \0\xfftwo"


def test_bytes_of_the_user_go_to_the_data_channel(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    data = random.Random(1).randbytes(1_000_000)
    sender = threading.Thread(target=forward.socket.sendall, args=(data,))
    sender.start()
    found = b""
    while len(found) < len(data):
        opcode, payload = server.receive()
        assert (opcode, payload[:1]) == (websocket.ABNF.OPCODE_BINARY, b"\0")
        found += payload[1:]
    sender.join()
    assert found == data


def test_both_ways_at_once(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    data = random.Random(2).randbytes(3_000_000)

    def echo() -> None:
        count = 0
        while count < len(data):
            _, payload = server.receive()
            server.send(0, payload[1:])
            count += len(payload) - 1

    threads = [threading.Thread(target=echo), threading.Thread(target=forward.socket.sendall, args=(data,))]
    for thread in threads:
        thread.start()
    assert read(forward.socket, len(data)) == data
    for thread in threads:
        thread.join()


def test_a_slow_reader_makes_the_sender_wait(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    assert 0 < server.fill() < 4_000_000
    assert len(forward.socket.recv(1_000_000)) > 0
    assert server.fill() > 0, "control: it goes on once somebody reads"


def test_what_the_node_says_is_kept_and_ends_it(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    server.send(0, b"last")
    server.send(1, b"connection refused\n")
    assert read(forward.socket, 4) == b"last"
    assert forward.socket.recv(1) == b""
    assert forward.said == "connection refused"


@pytest.mark.parametrize("how", ["a close frame", "the end of the connection"])
def test_an_end_over_there_is_an_end_of_file_here(ends: tuple[Server, Forward], how: str) -> None:
    server, forward = ends
    server.send(0, b"last")
    if how == "a close frame":
        server.frame(_TEXT_OF_A_CLOSE, websocket.ABNF.OPCODE_CLOSE)
    else:
        server.close()
    assert read(forward.socket, 4) == b"last"
    assert forward.socket.recv(1) == b""


def test_an_end_here_is_an_end_over_there(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    forward.close()
    forward.close()
    assert server.is_closed_over_there()


def test_a_ping_is_answered_and_a_pong_is_nothing(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    server.frame(b"there?", websocket.ABNF.OPCODE_PING)
    server.frame(b"", websocket.ABNF.OPCODE_PONG)
    server.send(0, b"data")
    assert read(forward.socket, 4) == b"data"
    assert server.receive() == (websocket.ABNF.OPCODE_PONG, b"there?")


def test_a_message_in_several_frames_is_put_together(ends: tuple[Server, Forward]) -> None:
    server, forward = ends
    server.frame(b"\0one ", websocket.ABNF.OPCODE_BINARY, final=False)
    server.frame(b"two", websocket.ABNF.OPCODE_CONT)
    assert read(forward.socket, 7) == b"one two"


def test_a_forked_child_leaves_it_alone(ends: tuple[Server, Forward], monkeypatch: pytest.MonkeyPatch) -> None:
    server, forward = ends
    monkeypatch.setattr("os.getpid", lambda: 1)
    forward.close()
    monkeypatch.undo()
    server.send(0, b"still there")
    assert read(forward.socket, 11) == b"still there"
