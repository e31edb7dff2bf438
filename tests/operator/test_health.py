"""What tells a kubelet that the operator lives, under those who mean ill."""

from __future__ import annotations

import asyncio
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


async def test_one_address_does_not_hold_all_connections() -> None:
    port = free_port()
    async with serve(Health(), port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        await asyncio.sleep(0.2)
        closed = sum(reader.at_eof() or reader.exception() is not None for reader, _ in idle)
        assert closed == 32, "eight may wait for their five seconds"
        assert await ask(port) == b"", "nor is another one of that address served"
        assert (await ask(port, "127.0.0.2")).startswith(b"HTTP/1.1 200"), "the kubelet has another"
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.2)
        assert (await ask(port)).startswith(b"HTTP/1.1 200")


async def test_many_answers_one_after_another() -> None:
    port = free_port()
    async with serve(Health(), port):
        for _ in range(50):
            assert (await ask(port)).startswith(b"HTTP/1.1 200")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
