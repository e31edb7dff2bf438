"""Every value of every request, replaced by values of other types and out of range: that request's error, no more."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel_errors import AgentError
from tests.agent.harness import Sandbox, command, sandbox_of

STEP = {
    "type": "Command",
    "argv": [b"true"],
    "timeout": 5.0,
    "cpu": 5.0,
    "cwd": b"/",
    "stdin": b"",
    "background": False,
}
TASK = {"id": "own", "limit": 100, "keep": 100, "live": False, "brief": False, "timeout": 5.0, "steps": [STEP]}

REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "TASK": (frames.TASK, TASK),
    "ATTACH": (frames.ATTACH, {"id": "there", "limit": 100, "live": False, "brief": False}),
    "CANCEL": (frames.CANCEL, {"id": "there"}),
    "FETCH": (frames.FETCH, {"task": "there", "step": 0, "stream": 0, "from": 0, "most": 10}),
    "wait": (frames.PROCESS, {"task": "there", "step": 0, "do": "wait", "limit": 10, "timeout": 0.0}),
    "write": (frames.PROCESS, {"task": "there", "step": 0, "do": "write", "data": b"x", "at": 0}),
    "output": (frames.PROCESS, {"task": "there", "step": 0, "do": "output", "limit": 10}),
    "WRITE": (frames.WRITE, {"path": b"file", "content": b"", "mode": 0o644}),
    "PUT": (frames.PUT, {"path": b"folder", "merge": False}),
    "GET": (frames.GET, {"path": b"/workspace", "data": 10, "size": 10, "entries": 10, "one_filesystem": False}),
    "mark": (frames.RESET, {"do": "mark", "id": 1}),
    "return": (frames.RESET, {"do": "return", "id": 1, "keep": [["there", 0]]}),
}
OPTIONAL = {"keep", "live", "brief", "timeout", "cpu", "cwd", "stdin", "background", "mode", "merge", "one_filesystem"}
WRONG: list[Any] = [
    True, -1, 1 << 62, 2.5, math.nan, math.inf, -math.inf, "", "9" * 100_000, "\udcff", b"", b"\xff" * 100_000,
    [], [1], [[1, 2, 3]], [["there", "0"]], {}, {"": None}, None,
]  # fmt: skip


@pytest.fixture
def sandbox(bubblewrap: str) -> Iterator[Sandbox]:
    with sandbox_of() as sandbox:
        sandbox.execute(command("cat", background=True), name="there")
        yield sandbox


def answer(sandbox: Sandbox, kind: int, request: dict[str, Any]) -> str:
    """The agent's refusal; empty where it answers otherwise, or not at all to what has no answer."""
    with sandbox.stream() as stream:
        stream.send(kind, request)
        if kind in (frames.CANCEL, frames.PUT) or request.get("do") == "wait":  # which may have no answer
            stream.send(frames.PING, {})
        try:
            stream.receive(time.monotonic() + 10)
        except AgentError as error:
            return error.text
    return ""


def variants(request: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for key, right in request.items():
        for value in WRONG:
            if type(value) is not type(right) or value != right:
                yield key, value, {**request, key: value}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_with_any_other_value_is_that_requests_error(sandbox: Sandbox, name: str) -> None:
    kind, request = REQUESTS[name]
    for number, (key, value, changed) in enumerate(variants(request)):
        if name == "TASK" and key != "id":
            changed["id"] = f"own {number}"  # a second request of one id is answered from the record
        said = answer(sandbox, kind, changed)
        shown = f"{key}: {str(value)[:20]} ({type(value).__name__}): {said}"
        assert len(said) < 5000, shown
        if type(value) is not type(request[key]) and not (key in OPTIONAL and value is None):
            assert (type(value) is int and type(request[key]) is float) or said, shown
    assert sandbox.run("true").ok


def test_a_step_with_any_other_value_is_its_tasks_error(sandbox: Sandbox) -> None:
    for number, (key, value, changed) in enumerate(variants(STEP)):
        said = answer(sandbox, frames.TASK, {**TASK, "id": f"own {number}", "steps": [changed]})
        if type(value) is not type(STEP[key]) and not (key in OPTIONAL and value is None):
            assert (type(value) is int and type(STEP[key]) is float) or said, f"{key}: {str(value)[:20]}"
    assert sandbox.run("true").ok


def test_a_wait_until_no_moment_is_refused_and_ends_nothing(sandbox: Sandbox) -> None:
    """A NaN is neither before nor after any moment: no round of the loop would know how long to sleep."""
    for seconds in (math.nan, math.inf, -1.0, True, "1"):
        said = answer(sandbox, *with_("wait", timeout=seconds))
        assert "'timeout' must be a number from 0" in said
    assert answer(sandbox, *with_("wait", timeout=0)) == ""
    assert sandbox.run("true").ok


def with_(name: str, **fields: object) -> tuple[int, dict[str, Any]]:
    kind, request = REQUESTS[name]
    return kind, {**request, **fields}
