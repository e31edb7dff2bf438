"""The agent of a pod under gVisor, with nothing but what a pod has: no cgroup to look at, and the limits of its container."""

from __future__ import annotations

import signal

import pytest

from pytest_arl.agent_client.channel_errors import ChannelLost
from tests.agent.harness import command
from tests.gvisor.listening import agent_of
from tests.gvisor.runsc import Runsc

MI = 1 << 20
_BOMB = "import time\nx = []\nwhile True: x.append(b'x' * (1 << 20)); time.sleep(0.001)"
"""One that an agent which waits for a processor sees in time."""
_HOLD = "x = b'x' * ({} << 20); print(len(x) >> 20)"


def test_a_memory_bomb_is_out_of_memory_and_the_sandbox_goes_on(started: Runsc) -> None:
    with agent_of(started, memory=512 * MI) as agent:
        operator = agent.operator()
        results = operator.execute(command("python3", "-I", "-c", _BOMB), command("true"))

        assert [result.outcome for result in results] == ["OutOfMemory"]
        assert (results[0].limit, results[0].exit_code) == ("memory", 137)
        assert operator.run("echo", "alive").stdout == "alive\n"
        assert operator.run("python3", "-I", "-c", _HOLD.format(256)).stdout == "256\n", "control"


def test_more_processes_than_the_operator_allows_end_the_step(started: Runsc) -> None:
    with agent_of(started) as agent:
        operator = agent.operator()
        bomb = operator.run("python3", "-I", "-c", "import os, time\nfor _ in range(700): os.fork() or time.sleep(60)")

        assert (bomb.outcome, bomb.limit) == ("Killed", "processes")
        assert operator.run("echo", "alive").stdout == "alive\n"


def test_the_node_ends_an_agent_by_sigterm_and_a_step_does_not(started: Runsc) -> None:
    with agent_of(started) as agent:
        operator = agent.operator()

        assert operator.sh("kill -TERM 1; kill -INT 1; kill -HUP 1; echo sent").stdout == "sent\n"
        assert operator.run("echo", "alive").stdout == "alive\n"
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(20)


def test_killing_the_agent_ends_the_connection_and_is_no_result(started: Runsc) -> None:
    with agent_of(started) as agent:
        operator = agent.operator()
        with pytest.raises(ChannelLost):
            operator.execute(command("sh", "-c", "kill -9 1; sleep 60"), command("true"))
        agent.process.wait(20)
