"""What an agent holds after much work is what it held before."""

from __future__ import annotations

import pytest

from pytest_arl.agent.loop import Loop, Timer
from tests.agent.harness import Sandbox, command
from tests.waiting import until


def test_a_wait_is_never_longer_than_epoll_can_count() -> None:
    loop = Loop.__new__(Loop)  # its making would change how this process handles signals
    loop._timers = [Timer(1e18, lambda: None)]

    assert 0 < loop._timeout() < 2**31 / 1000


def test_timers_that_are_no_longer_wanted_are_let_go(sandbox: Sandbox) -> None:
    process = sandbox.start("true")
    assert process.wait(5) is not None
    for _ in range(500):
        process.wait(3600)
    before = sandbox.memory()
    for _ in range(6000):
        process.wait(3600)

    assert sandbox.memory() < before + 250_000


@pytest.mark.parametrize(
    "work",
    [
        [command("sh", "-c", "echo out; echo err >&2", timeout=3600)],
        [command("no-such-program")],
        [command("true", stdin=b"x")],
        [{"type": "FilePatch", "path": "f", "content": "x"}],
        [command("true", background=True)],
    ],
    ids=["output", "cannot start", "stdin", "patch", "background"],
)
def test_no_kind_of_step_leaves_a_descriptor_or_a_process(sandbox: Sandbox, work: list[dict[str, object]]) -> None:
    before = sandbox.descriptors()
    for _ in range(20):
        sandbox.execute(*work)

    assert until(lambda: sandbox.descriptors() == before)
    assert until(lambda: sandbox.processes() == [])
