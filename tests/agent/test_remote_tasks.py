"""Tasks of an agent that many are connected to: who is told, and what a lost connection changes (nothing)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.agent_client.task_run import TaskRun
from pytest_arl.results import StepResult
from tests.agent.harness import BASE_ENV, command, task
from tests.agent.remote_harness import Agent, Operator, agent_of, results_of
from tests.waiting import until


def attach(channel: Channel, name: str, *steps: dict[str, object], limit: int = 16 << 20) -> list[StepResult]:
    """What an ATTACH for these steps of a task gives."""
    with channel.open() as stream:
        stream.send(frames.ATTACH, {"id": name, "limit": limit, "live": False})
        return results_of(stream, *steps, limit=limit)


def essence(result: StepResult) -> tuple[object, ...]:
    return (
        result.outcome,
        result.exit_code,
        result.stdout_bytes,
        result.stderr_bytes,
        result.stdout_size,
        result.stderr_size,
    )


LOUD = command("sh", "-c", "yes out | head -c 3000000; yes err | head -c 200000 >&2; exit 3")
STEPS = {
    "short": [command("sh", "-c", "echo out; echo err >&2")],
    "several": [
        command("echo", "one"),
        {"type": "FilePatch", "path": "f", "content": "x"},
        command("false"),
        command("true"),
    ],
    "loud": [LOUD],
    "not started": [command("no-such-program")],
    "late": [command("sh", "-c", "echo out; sleep 60", timeout=0.2)],
}


# Attaching


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("limit", [16 << 20, 1000, 100_000])
def test_a_client_that_attaches_afterwards_gets_the_same_as_the_operator(
    agent: Agent, operator: Operator, kind: str, limit: int
) -> None:
    steps = STEPS[kind]
    results = operator.execute(*steps, name="one", limit=limit)

    again = attach(agent.holder_channel(), "one", *steps, limit=limit)

    assert [essence(result) for result in again] == [essence(result) for result in results]


@pytest.mark.parametrize("limits", [(1000, 16 << 20), (16 << 20, 1000), (1000, 3)])
def test_each_client_gets_as_much_output_as_it_keeps(agent: Agent, operator: Operator, limits: tuple[int, int]) -> None:
    for script, whole in (("yes out | head -c 3000000", 3_000_000), ("yes out | head -c 30000", 30_000)):
        step = command("sh", "-c", script)
        name = f"{script} {limits}"
        text = (b"out\n" * 1_000_000)[:whole]
        (mine,) = operator.execute(step, name=name, limit=limits[0])
        (other,) = attach(agent.holder_channel(), name, step, limit=limits[1])

        for result, limit in ((mine, limits[0]), (other, limits[1])):
            head = limit // 2
            wanted = text if whole <= limit else text[:head] + text[whole - (limit - head) :]
            assert result.stdout_bytes == wanted
            assert result.stdout_size == whole


def test_a_client_that_attaches_during_a_step_gets_all_of_its_output(agent: Agent, operator: Operator) -> None:
    step = command(
        "sh", "-c", "head -c 300000 /dev/zero; echo began >&2; while [ ! -e go ]; do sleep 0.01; done; echo end"
    )
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(step, name="one", limit=1000))
        others: list[list[StepResult]] = []
        threads = [
            threading.Thread(target=lambda: others.append(attach(agent.holder_channel(), "one", step)))
            for _ in range(3)
        ]
        sandbox = agent.holder()
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        sandbox.write("go", b"", None)
        (mine,) = results_of(stream, step, limit=1000)
        for thread in threads:
            thread.join(5)

    assert mine.stdout_size == 300_004
    assert len(mine.stdout_bytes) == 1000
    assert [result.stdout_bytes for (result,) in others] == [bytes(300_000) + b"end\n"] * 3
    assert [result.stderr_bytes for (result,) in others] == [b"began\n"] * 3


def test_live_output_comes_as_it_is_printed(agent: Agent, operator: Operator) -> None:
    step = command("sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two")
    sandbox = agent.holder()
    channel = agent.holder_channel()
    seen: list[bytes] = []
    results: list[StepResult] = []

    def on_output(_step: str, _stream: str, data: bytes) -> None:
        seen.append(data)
        sandbox.write("go", b"", None)

    with operator.channel.open() as run, channel.open() as stream:
        run.send(frames.TASK, operator.request(step, name="one"))
        assert until(operator.busy)
        stream.send(frames.ATTACH, {"id": "one", "limit": 16 << 20, "live": True})
        TaskRun(task(step), on_output, results, limit=16 << 20, label=lambda limit: limit).collect(stream)

    assert b"".join(seen) == b"one\ntwo\n"
    assert seen[0] == b"one\n"
    assert results[0].stdout == "one\ntwo\n"


@pytest.mark.parametrize("first", [1000, 16 << 20])
@pytest.mark.parametrize(("size", "limit"), [(30_000, 16 << 20), (30_000, 1000), (3_000_000, 100_000)])
def test_a_watcher_gets_all_of_a_step_that_has_ended(
    agent: Agent, operator: Operator, size: int, limit: int, first: int
) -> None:
    step = command("sh", "-c", f"yes | head -c {size}")
    operator.execute(step, name="one", limit=first)
    seen: list[bytes] = []
    results: list[StepResult] = []
    with agent.holder_channel().open() as stream:
        stream.send(frames.ATTACH, {"id": "one", "limit": limit, "live": True})
        watch = TaskRun(task(step), lambda *said: seen.append(said[2]), results, limit=limit, label=lambda limit: limit)
        watch.collect(stream)

    assert b"".join(seen) == b"y\n" * (size // 2)
    assert len(results[0].stdout_bytes) == min(size, limit)
    assert results[0].stdout_size == size


def test_a_task_that_the_agent_does_not_know_is_said_to_be_unknown(agent: Agent, operator: Operator) -> None:
    with pytest.raises(AgentError, match="no such task"):
        attach(agent.holder_channel(), "none", command("true"))
    assert operator.run("true").ok


def test_a_task_is_run_once_however_often_it_is_sent(agent: Agent, operator: Operator) -> None:
    step = command("sh", "-c", "echo line >> file; sleep 0.2; cat file")
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(step, name="one"))
        second = agent.operator()
        (other,) = second.execute(step, name="one")
        (mine,) = results_of(stream, step)
    (third,) = agent.operator().execute(step, name="one")

    assert [mine.stdout, other.stdout, third.stdout] == ["line\n"] * 3


def test_a_task_that_was_forgotten_is_not_run_again(agent: Agent, operator: Operator) -> None:
    operator.execute(command("sh", "-c", "echo line >> file"), name="first")
    for _ in range(140):
        operator.run("head", "-c", "65536", "/dev/zero")  # 8 MiB of results are kept

    with pytest.raises(AgentError, match="first was run, and its results are no longer kept"):
        operator.execute(command("sh", "-c", "echo line >> file"), name="first")
    with pytest.raises(AgentError, match="no such task: first was forgotten"):
        attach(agent.holder_channel(), "first", command("true"))
    assert operator.sh("cat file").stdout == "line\n"


# Lost connections


def test_a_copy_of_a_task_that_was_proved_is_not_run(agent: Agent, operator: Operator) -> None:
    """The API server gives a copy of a Task a name of its own; the proof of both is one."""
    step = command("sh", "-c", "echo x >> /workspace/runs")
    operator.execute(step, name="original", once="a" * 64)
    for _ in range(2):
        with pytest.raises(AgentError, match="it is a copy"):
            operator.execute(step, name="copy", once="a" * 64)
    assert operator.sh("cat /workspace/runs").stdout == "x\n"

    operator.execute(step, name="original", once="a" * 64)  # asked for again by an operator that lost the answer
    assert operator.sh("cat /workspace/runs").stdout == "x\n"
    operator.execute(step, name="next", once="b" * 64)
    assert operator.sh("cat /workspace/runs").stdout == "x\nx\n"


def break_off(channel: Channel) -> None:
    """As a machine does that is switched off: the agent gets a reset."""
    channel._agent._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    channel._agent._socket.close()


@pytest.mark.parametrize("end", [Channel.close, break_off], ids=["closed", "reset"])
def test_a_task_runs_on_when_its_operator_is_gone(agent: Agent, operator: Operator, end: object) -> None:
    step = command("sh", "-c", "sleep 0.3; yes | head -c 1000000; echo line >> file; cat file >&2")
    with operator.channel.open() as stream:
        stream.send(frames.TASK, operator.request(step, name="one", live=True))
        time.sleep(0.1)
        end(operator.channel)  # type: ignore[operator]  # a function of a channel
    (result,) = agent.operator().execute(step, name="one")

    assert result.stderr == "line\n"
    assert result.stdout_size == 1_000_000
    assert result.stdout_bytes == b"y\n" * 500_000


def test_a_program_does_not_wait_for_a_listener_that_is_gone(agent: Agent, operator: Operator) -> None:
    step = command("sh", "-c", "yes | head -c 50000000; echo done >&2")
    channel = agent.holder_channel()
    with operator.channel.open() as run, channel.open() as stream:
        run.send(frames.TASK, operator.request(step, name="one", limit=1000))
        assert until(operator.busy)
        stream.send(frames.ATTACH, {"id": "one", "limit": 1000, "live": True})  # and reads nothing of it
        time.sleep(0.3)
        break_off(channel)
        (result,) = results_of(run, step, limit=1000)

    assert result.stderr == "done\n"


def test_half_an_upload_leaves_nothing(agent: Agent, operator: Operator) -> None:
    channel = agent.holder_channel()
    with channel.open() as stream:
        stream.send(frames.PUT, {"path": b"folder"})
        stream.send(frames.ENTRY, {"p": b"", "t": "d", "m": 0o755, "at": 0, "n": 0})
        stream.send(frames.ENTRY, {"p": b"file", "t": "f", "m": 0o644, "at": 0, "n": 10})
        stream.send_data(b"12345")
        assert until(lambda: operator.sh("ls -A").stdout)
        break_off(channel)

    assert until(lambda: operator.sh("ls -A").stdout == "")


def test_a_download_that_nobody_takes_any_more_ends(agent: Agent, operator: Operator) -> None:
    operator.sh("head -c 50000000 /dev/zero > large")
    before = len(agent.descriptors())
    channel = agent.holder_channel()
    with channel.open() as stream:
        stream.send(frames.GET, {"path": b"large", "data": 1 << 30, "size": 1 << 30, "entries": 10})
        stream.receive(time.monotonic() + 5)
        assert len(agent.descriptors()) > before + 1
        break_off(channel)

    assert until(lambda: len(agent.descriptors()) == before)


def test_a_background_process_outlives_its_watcher(agent: Agent, operator: Operator) -> None:
    step = command("sh", "-c", "read line; echo got $line", background=True)
    operator.execute(step, name="server")
    first = agent.holder_channel()
    with first.open() as stream:
        stream.send(frames.PROCESS, {"task": "server", "step": 0, "do": "wait", "timeout": None, "limit": 1000})
        time.sleep(0.1)
        break_off(first)
    second = agent.holder()
    second._remember_background(task(step, name="server"))
    process = second.process("server", 0)
    process.write(b"line\n")
    result = process.wait(5)

    assert result is not None
    assert result.stdout == "got line\n"


# What holds locally holds here


def test_the_environment_of_steps_is_the_containers_and_the_operators(agent: Agent) -> None:
    operator = agent.operator(config=AgentConfig(env={"POOL": "has this", "HOME": "/workspace"}))

    said = set(operator.run("env").stdout.splitlines())

    own = {line for line in said if line.startswith("PWD=")}  # bubblewrap's
    assert said - own == {f"PATH={BASE_ENV['PATH']}", "HOME=/workspace", "POOL=has this", "IMAGE=has this"}


def test_a_timeout_ends_the_whole_tree(agent: Agent, operator: Operator) -> None:
    script = "(setsid sh -c 'trap \"\" TERM; sleep 61' &) ; sleep 62"
    began = time.monotonic()
    result = operator.sh(script, timeout=0.3)

    assert result.outcome == "TimedOut"
    assert time.monotonic() - began < 0.8
    assert operator.sh("ps -e -o args | grep -c '[s]leep 6' || true").stdout == "0\n"


def test_a_checkpoint_with_a_living_process_is_returned_to(agent: Agent, operator: Operator) -> None:
    step = command("sh", "-c", "sleep 60", background=True)
    operator.execute(step, name="server")
    sandbox = agent.holder()
    sandbox.write("kept", b"old", None)
    checkpoint = sandbox.checkpoint()
    operator.sh("echo new > kept; touch added")
    sandbox.restore(checkpoint)

    assert operator.sh("ls; cat kept").stdout == "kept\nold"
    checkpoint.close()


def test_output_goes_to_the_folder_for_it(agent: Agent, operator: Operator) -> None:
    result = operator.sh("head -c 20000000 /dev/zero")

    assert result.stdout_size == 20_000_000
    assert agent.memory() < 16_000_000
    assert operator.sh("ls -A /arl-spool").stdout == ""  # its file has no name
    assert len([path for path in agent.descriptors() if path.startswith("/arl-spool/")]) == 1


def test_where_there_is_no_folder_for_output_some_is_kept_in_memory(bubblewrap: str) -> None:
    with agent_of(spool=False) as agent:
        operator = agent.operator()
        assert operator.sh("head -c 20000000 /dev/zero").stdout_size == 20_000_000
        result = operator.sh("head -c 100000000 /dev/zero")

        assert result.stdout_size == 100_000_000
        assert len(result.stdout_bytes) == 16 << 20
        assert operator.run("true").ok


@contextmanager
def agent_in_a_cgroup(folder: Path, **files: str) -> Iterator[Agent]:
    """One that sees these files as its cgroup's, of either version."""
    extra = []
    for name, content in files.items():
        controller, dot, key = name.replace("_", ".", 1).partition(".")
        (folder / name).write_text(content)
        for place in (f"{controller}/", ""):
            extra += ["--bind", str(folder / name), f"/sys/fs/cgroup/{place}{controller}{dot}{key}"]
    with agent_of(extra=tuple(extra)) as agent:
        yield agent


def test_more_processes_than_may_live_end_the_step(bubblewrap: str, tmp_path: Path) -> None:
    """Where the node does not refuse them: a fork bomb."""
    with agent_in_a_cgroup(tmp_path, pids_current="1000\n") as agent:
        operator = agent.operator(config=AgentConfig(env=BASE_ENV, processes=20))
        result = operator.sh("for i in $(seq 40); do sleep 60 & done; wait")
        assert (result.outcome, result.limit) == ("Killed", "processes")
        assert operator.sh("for i in $(seq 10); do sleep 0.2 & done; wait").ok


def test_as_many_threads_as_you_like_may_live(bubblewrap: str, tmp_path: Path) -> None:
    with agent_in_a_cgroup(tmp_path, pids_current="1000\n") as agent:
        operator = agent.operator(config=AgentConfig(env=BASE_ENV, processes=20))
        program = (
            "import _thread, time\nfor _ in range(40): _thread.start_new_thread(time.sleep, (1,))\ntime.sleep(0.3)"
        )
        assert operator.python(program).ok


@pytest.mark.parametrize("file", ["memory_oom_control", "memory_events"])
def test_what_the_kernel_kills_for_memory_is_named(bubblewrap: str, tmp_path: Path, file: str) -> None:
    if file == "memory_oom_control" and b":memory:" not in Path("/proc/self/cgroup").read_bytes():
        pytest.skip("only where the memory controller is of cgroup version 1 is its file looked for")
    with agent_in_a_cgroup(tmp_path, **{file: "oom_kill 0\n"}) as agent:
        operator = agent.operator()
        result = operator.sh("kill -9 $$")
        assert (result.outcome, result.limit) == ("Killed", None)
        step = command("sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; kill -9 $$")
        with operator.channel.open() as stream:
            stream.send(frames.TASK, operator.request(step))
            assert until(operator.busy)
            (tmp_path / file).write_text("oom_kill 1\n")
            agent.holder().write("go", b"", None)
            (result,) = results_of(stream, step)

    assert (result.outcome, result.limit) == ("OutOfMemory", "memory")
