"""A turn of the operator's loop that takes long: the Lease is renewed and the kubelet answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.beside import Beside, Pulse
from pytest_arl.operator.election import Leadership, LeadershipLost, Term
from pytest_arl.operator.health import Health, serve
from tests.agent.remote_harness import free_port
from tests.operator.test_election import Leases


def test_the_lease_is_renewed_while_a_turn_takes_longer_than_it_lasts() -> None:
    leases, lost = Leases(), threading.Event()

    async def keep(one: Leadership) -> None:
        try:
            await one.keep()
        except LeadershipLost:
            lost.set()

    async def scene(*, beside: bool) -> int:
        """Count the renewals in a turn of three seconds and the moment after it."""
        with Beside() as other:
            one = Leadership(leases, "ns", "me", 1.5)  # type: ignore[arg-type]  # a server with one Lease
            await one.acquire()
            task = None
            if beside:
                other.start(keep(one))
            else:
                task = asyncio.create_task(keep(one))
            await asyncio.sleep(0.1)
            before = leases.version
            time.sleep(3)  # noqa: ASYNC251 - a turn that takes long
            await asyncio.sleep(0.1)
            if task is not None:
                task.cancel()
            return leases.version - before

    assert asyncio.run(scene(beside=True)) >= 3
    assert not lost.is_set()
    assert asyncio.run(scene(beside=False)) == 0  # the control: in the same loop
    assert lost.is_set()


async def _ask(port: int, answers: list[bytes], asked: threading.Event) -> None:
    def ask() -> None:
        asked.wait(10)
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            answers.append(connection.recv(100))

    await asyncio.to_thread(ask)


def test_a_kubelet_is_answered_while_a_turn_takes_long() -> None:
    async def scene() -> None:
        port, answers, asked = free_port(), list[bytes](), threading.Event()
        with Beside() as beside:
            async with beside.within(serve(Health(), port)):
                asking = asyncio.create_task(_ask(port, answers, asked))
                await asyncio.sleep(0.05)
                asked.set()
                end = time.monotonic() + 10
                while not answers and time.monotonic() < end:
                    time.sleep(0.01)  # noqa: ASYNC251 - a turn that takes long
                assert answers[0].startswith(b"HTTP/1.1 200")
                await asking

    asyncio.run(scene())


@pytest.mark.parametrize(("turn", "code"), [(0.4, 0), (30, 4)])
def test_a_loop_that_is_stuck_ends_the_process_and_one_that_is_slow_does_not(turn: float, code: int) -> None:
    program = f"""
        import asyncio, sys, time
        from pytest_arl.operator.beside import Beside, Pulse

        async def main():
            pulse = Pulse()
            with Beside() as beside:
                beating = asyncio.create_task(pulse.beat())
                beside.start(pulse.watch(4.0))
                await asyncio.sleep(0.1)
                time.sleep({turn})
                await asyncio.sleep(1.5)
                beating.cancel()

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert done.returncode == code, done.stderr


def test_what_goes_wrong_there_is_raised_here() -> None:
    async def scene() -> None:
        port = free_port()
        with Beside() as beside, socket.create_server(("", port)):
            with pytest.raises(OSError, match="in use"):
                async with beside.within(serve(Health(), port)):
                    pytest.fail("the port is taken")
            one = Leadership(Leases(), "ns", "me", 15.0)  # type: ignore[arg-type]  # as above
            with pytest.raises(ApiError):
                await Term.of(one, beside.call).confirm()

    asyncio.run(scene())


def test_what_was_started_there_ends_with_the_block() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with Beside() as beside:
        beside.start(forever())
        time.sleep(0.05)
    assert ended == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "arl-beside"]


def test_a_pulse_grows_old_while_its_loop_is_busy() -> None:
    async def scene() -> None:
        pulse = Pulse()
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0.01)
        young = pulse.age
        time.sleep(1.2)  # noqa: ASYNC251 - a turn that takes long
        assert pulse.age >= 1.2 > young
        beating.cancel()

    asyncio.run(scene())
