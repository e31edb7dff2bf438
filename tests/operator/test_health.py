"""What tells a kubelet that the operator lives, under those who mean ill."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from pytest_arl.operator.health import Health, serve
from tests.agent.remote_harness import free_port

pytestmark = pytest.mark.asyncio


async def ask(port: int, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n"], ids=["silent", "half a request"])
async def test_one_address_holds_so_many_connections_and_keeps_none_of_it_from_an_answer(said: bytes) -> None:
    """A kubelet probes the operator from the address that it probes everybody's pods from."""
    port = free_port()
    async with serve(Health(), port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in idle:
            writer.write(said)
        await asyncio.sleep(0.2)
        gone = [reader.at_eof() or reader.exception() is not None for reader, _ in idle]
        assert gone == [True] * 36 + [False] * 64, "the oldest make room"
        for host in ("127.0.0.1", "127.0.0.2"):
            assert (await ask(port, host)).startswith(b"HTTP/1.1 200")
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n", b"POST / HTTP/1.1\r\n", b"\0"])
async def test_what_is_no_probe_is_not_waited_for(said: bytes) -> None:
    port = free_port()
    async with serve(Health(), port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 4) == b""  # it waits 5 s for others
        writer.close()


async def test_many_answers_one_after_another() -> None:
    port = free_port()
    async with serve(Health(), port):
        for _ in range(50):
            assert (await ask(port)).startswith(b"HTTP/1.1 200")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
