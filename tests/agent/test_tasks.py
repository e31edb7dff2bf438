"""Tasks by id: run at most once, answered again, one at a time; and what the agent keeps of them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.agent_client.messages import task_message
from pytest_arl.agent_client.stream import Stream
from pytest_arl.errors import UsageError
from tests.agent.harness import Sandbox, collect, command, task
from tests.waiting import until


def send(stream: Stream, name: str, *steps: dict[str, Any], live: bool = False, limit: int = 1 << 20) -> None:
    stream.send(frames.TASK, task_message(task(*steps, name=name), limit, live=live))


def answer(stream: Stream) -> tuple[list[dict[str, Any]], bytes]:
    """The steps' results, and all stdout that came beside them."""
    came = collect(stream, frames.DONE, 10)
    results = [value for kind, value in came if kind == frames.STEP]
    return results, b"".join(value[4:] for kind, value in came if kind in {frames.STDOUT, frames.STDOUT_TAIL})


def test_a_task_that_is_asked_for_again_is_answered_and_not_run_again(sandbox: Sandbox) -> None:
    answers = []
    for _ in range(2):
        with sandbox.stream() as stream:
            send(stream, "once", command("sh", "-c", "echo run >> log; echo out; echo err >&2"), command("false"))
            answers.append(answer(stream))

    assert answers[0] == answers[1]
    assert [result["outcome"] for result in answers[0][0]] == ["Succeeded", "Failed"]
    assert sandbox.run("cat", "log").stdout == "run\n"


@pytest.mark.parametrize(("steps", "ran"), [(["true", "true"], 2), (["false", "true"], 1)])
def test_a_brief_client_gets_nothing_after_the_last_result(sandbox: Sandbox, steps: list[str], ran: int) -> None:
    message = task_message(task(*map(command, steps), name="brief"), 1000, live=False, brief=True)
    with sandbox.stream() as stream:
        stream.send(frames.TASK, message)
        kinds = [stream.receive(time.monotonic() + 10)[0] for _ in range(ran)]
        stream.send(frames.PING, {})
        kinds.append(stream.receive(time.monotonic() + 10)[0])
        stream.send(frames.TASK, message | {"id": "none", "steps": []})
        kinds.append(stream.receive(time.monotonic() + 10)[0])

    assert kinds == [frames.STEP] * ran + [frames.PONG, frames.DONE]


def test_the_second_answer_has_long_output_too(sandbox: Sandbox) -> None:
    outputs = []
    for _ in range(2):
        with sandbox.stream() as stream:
            send(stream, "once", command("seq", "300000"), limit=1 << 20)
            outputs.append(answer(stream)[1])

    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 1 << 20


@pytest.mark.parametrize("live", [False, True])
def test_asking_while_it_runs_joins_the_run(sandbox: Sandbox, live: bool) -> None:
    steps = [command("sh", "-c", "seq 1000000; echo run >> log; until [ -e go ]; do sleep 0.01; done; echo end")]
    with sandbox.stream() as lost, sandbox.stream() as stream:
        send(lost, "once", *steps, live=live)
        while "sleep" not in sandbox.processes():
            sandbox.ask(frames.PING, {})  # reads what has come for the lost stream too
        send(stream, "once", *steps, live=live)
        sandbox.handle.write("go", b"", None)
        results, output = answer(stream)

    assert [result["outcome"] for result in results] == ["Succeeded"]
    everything = b"".join(b"%d\n" % n for n in range(1, 1_000_001)) + b"end\n"
    half = 1 << 19
    assert output == (everything if live else everything[:half]) + everything[-half:]
    assert sandbox.run("cat", "log").stdout == "run\n"


def test_joining_a_run_that_printed_much_holds_no_memory(sandbox: Sandbox) -> None:
    steps = [command("sh", "-c", "head -c 150000000 /dev/zero; touch ready; sleep 0.7")]
    with sandbox.stream() as lost, sandbox.stream() as stream:
        send(lost, "once", *steps)
        assert until(lambda: "sleep" in sandbox.processes(), 10)
        before = sandbox.memory()
        send(stream, "once", *steps, live=True)
        peak = before
        while sandbox.processes():
            peak = max(peak, sandbox.memory())
        results, _ = answer(stream)

    assert results[0]["out"] == 150_000_000
    assert peak < before + (6 << 20)


def test_a_sandbox_runs_one_task_at_a_time(sandbox: Sandbox) -> None:
    with sandbox.stream() as one, sandbox.stream() as other:
        send(one, "one", command("sleep", "0.5"))
        send(other, "other", command("touch", "mark"))
        with pytest.raises(AgentError, match="one is running"):
            other.receive(time.monotonic() + 5)
        assert answer(one)[0][0]["outcome"] == "Succeeded"

    assert not sandbox.sh("test -e mark").ok


def test_the_agent_answers_while_a_step_runs(sandbox: Sandbox) -> None:
    with sandbox.stream() as stream:
        send(stream, "long", command("sleep", "0.5"))
        kind, value = sandbox.ask(frames.PING, {})
        sandbox.handle.write("file", b"content", None)
        assert sandbox.handle.read("file") == b"content"
        assert (kind, value) == (frames.PONG, {"busy": True})
        answer(stream)

    assert sandbox.ask(frames.PING, {}) == (frames.PONG, {"busy": False})


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": [{"type": "Command", "argv": []}]},
        {"steps": [{"type": "Command", "argv": ["text"]}]},
        {"steps": [{"type": "Command", "argv": b"bytes"}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "env": ["A=b"]}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "cwd": 7}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "stdin": "text"}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "timeout": "soon"}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "timeout": -1}]},
        {"steps": [{"type": "Command", "argv": [b"true"], "timeout": float("nan")}]},
        {"steps": [{"type": "Command"}]},
        {"steps": [{"type": "FilePatch", "path": b"p"}]},
        {"steps": [{"type": "FilePatch", "path": b"p", "content": "text"}]},
        {"steps": [{"type": "FilePatch", "path": b"p", "content": b"", "mode": "0644"}]},
        {"steps": [b"no step"]},
        {"steps": None},
        {"timeout": []},
        {"limit": "much"},
        {"id": None, "steps": 3},
    ],
    ids=str,
)
def test_a_request_of_a_wrong_shape_is_refused_and_nothing_of_it_is_run(
    sandbox: Sandbox, wrong: dict[str, Any]
) -> None:
    good = {"type": "Command", "argv": [b"touch", b"mark"]}
    request = {"id": "x", "limit": 100, "steps": [good], **wrong}
    if isinstance(request["steps"], list) and "steps" in wrong:
        request["steps"] = [good, *request["steps"]]
    with pytest.raises(AgentError, match="malformed"):
        sandbox.ask(frames.TASK, request)

    assert not sandbox.sh("test -e mark").ok


@pytest.mark.parametrize(
    "step", [{"argv": [b"a\0b"]}, {"argv": [b"true"], "env": [b"A=\0"]}, {"argv": [b"true"], "env": [b"=x"]}], ids=str
)
def test_what_no_program_can_be_given_is_a_failed_step(sandbox: Sandbox, step: dict[str, Any]) -> None:
    for background in (False, True):
        request = {
            "id": f"x{background}",
            "limit": 100,
            "steps": [{"type": "Command", "background": background, **step}],
        }
        kind, value = sandbox.ask(frames.TASK, request)

        assert (kind, value["outcome"]) == (frames.STEP, "Failed")
        assert value["code"] in {126, 127}
    assert sandbox.run("true").ok


def test_a_mode_that_is_none_is_a_failed_step(sandbox: Sandbox) -> None:
    step = {"type": "FilePatch", "path": b"p", "content": b"", "mode": 2**40}
    kind, value = sandbox.ask(frames.TASK, {"id": "x", "limit": 100, "steps": [step]})

    assert (kind, value["outcome"], value["code"]) == (frames.STEP, "Failed", 1)


def test_a_task_larger_than_a_message_is_a_usage_error(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 1_000_000)
    with pytest.raises(UsageError, match="over the limit"):
        sandbox.execute({"type": "FilePatch", "path": "f", "content": "x" * 1_100_000})

    assert sandbox.run("true").ok


def test_contents_of_a_task_are_let_go_when_it_is_over(sandbox: Sandbox) -> None:
    patch = {"type": "FilePatch", "path": "f", "content": "x" * 20_000_000}
    sandbox.execute(patch)
    before = sandbox.memory()
    for _ in range(5):
        sandbox.execute(patch)

    assert sandbox.memory() < before + 30_000_000


@pytest.mark.parametrize("watched", [False, True])
def test_records_of_old_tasks_are_let_go(sandbox: Sandbox, watched: bool) -> None:
    def watch(_step: str, _stream: str, _data: bytes) -> None:
        pass

    def rounds(number: int) -> None:
        for _ in range(number):
            sandbox.execute(*[command("head", "-c", "60000", "/dev/zero")] * 20, on_output=watch if watched else None)

    rounds(10)
    before = sandbox.memory()
    rounds(15)  # 18 MB of output

    assert sandbox.memory() < before + 3_000_000


def test_a_thousand_tasks_leave_nothing_open_and_little_in_memory(sandbox: Sandbox) -> None:
    for _ in range(200):
        sandbox.run("echo", "x")
    memory, descriptors = sandbox.memory(), sandbox.descriptors()
    for _ in range(1000):
        sandbox.run("echo", "x")

    assert sandbox.descriptors() == descriptors
    assert sandbox.memory() < memory + 2_500_000  # records: about 1 KB each, given up from 8 MB on


def test_requests_of_many_threads_are_all_answered(sandbox: Sandbox) -> None:
    wrong = []

    def work(number: int) -> None:
        for turn in range(20):
            content = f"{number} {turn}".encode() * 1000
            sandbox.handle.write(f"f{number}", content, None)
            if sandbox.handle.read(f"f{number}") != content:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    results = [sandbox.sh("seq 20000") for _ in range(20)]
    for thread in threads:
        thread.join()

    assert wrong == []
    assert {result.stdout_size for result in results} == {108_894}
