"""Contract, "Time": when steps end, and that nothing of them is left then."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.contract.probes import NOISE, living, marked, new_marker, start_python
from tests.contract.trees import TREES
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import SandboxSession, StepResult
    from tests.contract.backends import ContractBackend

PROMISED = 0.5
"""Seconds after its timeout in which a step ends."""
_BYTES_A_SECOND = 2 << 20
"""At which a busy cluster passes output on, at the least; idle it is twenty times as much."""


# 9. Timeouts


def _run_out_of_time(sandbox: SandboxSession, tree: str, marker: str) -> tuple[float, float, StepResult]:
    """Run a tree until its timeout, a longer one where the machine is too busy for it to stand by then; timeout,
    seconds, result.
    """
    for timeout in (0.4, 2.0, 10.0, 60.0):
        began = time.monotonic()
        result = sandbox.run("python3", "-I", "-c", TREES[tree], marker, timeout=timeout)
        took = time.monotonic() - began
        if "ready" in result.stdout:
            break
    return timeout, took, result


def _noise(timeout: float, result: StepResult) -> float:
    """Seconds that a machine which needed so long to start a tree may add to its end, and to bringing its output here."""
    return (NOISE if timeout < 10 else 5 * NOISE) + len(result.stdout_bytes) / _BYTES_A_SECOND


@pytest.mark.parametrize("tree", TREES)
def test_a_step_that_times_out_ends_at_once_with_its_whole_tree(backend: ContractBackend, tree: str) -> None:
    marker = new_marker()
    with backend.open() as sandbox:
        timeout, took, result = _run_out_of_time(sandbox, tree, marker)

        left = living(sandbox)
        if backend.on_this_machine:
            assert marked(marker) == set()
    assert (result.outcome, result.exit_code, result.limit) == ("TimedOut", 124, "timeout")
    assert result.stdout.startswith("ready\n"), "the tree stood by then, and what it said is kept"
    assert took < timeout + PROMISED + _noise(timeout, result)
    assert left == []


@pytest.mark.parametrize("tree", TREES)
def test_the_same_tree_lives_on_where_it_may_and_is_seen(backend: ContractBackend, tree: str) -> None:
    marker = new_marker()
    with backend.open() as sandbox:
        process = start_python(sandbox, TREES[tree], marker)

        # One that forks and exits without end may slip through a single look.
        assert until(lambda: sum(marker in line for line in living(sandbox)) >= 2)
        if backend.on_this_machine:
            assert until(lambda: len(marked(marker)) >= 2)
        process.kill()
        assert until(lambda: living(sandbox) == [])


def test_a_step_times_out_also_when_the_caller_reads_nothing(sandbox: SandboxSession) -> None:
    clock = "import time\nwhile True: print(time.monotonic(), 'x' * 10000, flush=True)"

    def deaf(_step: str, _stream: str, _data: bytes) -> None:
        if not heard:
            heard.append(time.monotonic())
            time.sleep(2.5)

    heard: list[float] = []
    for timeout in (0.3, 3.0, 20.0):  # a slow machine has not started Python by then
        result = sandbox.execute(
            [{"type": "Command", "command": ["python3", "-c", clock], "timeout": timeout}], on_output=deaf
        ).steps[0]
        if heard:
            break

    assert heard, "control: the caller was busy while the step ran"
    assert (result.outcome, result.exit_code) == ("TimedOut", 124)
    assert timeout <= result.duration < timeout + PROMISED + NOISE
    assert result.stdout_size > 0


def test_output_before_the_timeout_is_kept(sandbox: SandboxSession) -> None:
    result = sandbox.run("sh", "-c", "printf out; printf err >&2; sleep 1000", timeout=0.3)

    assert (result.outcome, result.stdout, result.stderr) == ("TimedOut", "out", "err")


def test_a_step_that_is_in_time_is_not_touched_by_its_timeout(sandbox: SandboxSession) -> None:
    result = sandbox.run("sh", "-c", "sleep 0.1; echo done", timeout=30)

    assert (result.outcome, result.stdout) == ("Succeeded", "done\n")
    assert result.duration < 0.1 + NOISE


# 10. Whose timeout it is


@pytest.fixture(scope="module")
def silent(backend: ContractBackend) -> Iterator[Future[StepResult]]:
    """A step that says nothing for longer than any layer might find suspicious."""

    def wait() -> StepResult:
        with backend.open() as sandbox:
            return sandbox.run("sleep", "18")

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait)


@pytest.fixture(scope="module", autouse=True)
def _run_beside_the_others(request: pytest.FixtureRequest) -> None:
    """Start it with this module's first test; the test that asks for it is the last."""
    if any("silent" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("silent")


def test_a_tasks_timeout_bounds_the_task(sandbox: SandboxSession) -> None:
    began = time.monotonic()
    result = sandbox.execute(
        [
            {"type": "Command", "command": ["sleep", "0.3"]},
            {"type": "Command", "command": ["sleep", "1000"]},
            {"type": "Command", "command": ["touch", "never"]},
        ],
        timeout=0.6,
    )
    took = time.monotonic() - began

    assert [step.outcome for step in result.steps] == ["Succeeded", "TimedOut", "Skipped"]
    assert 0.6 <= took < 0.6 + PROMISED + NOISE
    assert result.steps[1].duration < 0.4 + NOISE


def test_a_steps_timeout_bounds_that_step_alone(sandbox: SandboxSession) -> None:
    result = sandbox.execute(
        [
            {"type": "Command", "command": ["sleep", "0.2"], "timeout": 10},
            {"type": "Command", "command": ["sleep", "0.4"]},
            {"type": "Command", "command": ["sleep", "1000"], "timeout": "200ms"},
        ],
        timeout=60,
    )

    assert [step.outcome for step in result.steps] == ["Succeeded", "Succeeded", "TimedOut"]
    assert 0.2 <= result.steps[2].duration < 0.2 + PROMISED + NOISE


def test_a_tasks_timeout_cuts_a_steps_longer_one(sandbox: SandboxSession) -> None:
    step = {"type": "Command", "command": ["sleep", "1000"], "timeout": 100}

    result = sandbox.execute([step], timeout=0.3)

    assert result.steps[0].outcome == "TimedOut"
    assert result.duration < 0.3 + PROMISED + NOISE


def test_a_sessions_timeout_is_the_default_of_its_tasks_and_no_more(backend: ContractBackend) -> None:
    with backend.open(timeout=0.3) as sandbox:
        assert sandbox.run("sleep", "1000").outcome == "TimedOut"
        assert sandbox.execute([{"type": "Command", "command": ["sleep", "0.5"]}], timeout=math.inf).ok


def test_the_next_task_has_its_time_for_itself(sandbox: SandboxSession) -> None:
    assert sandbox.run("sleep", "1000", timeout=0.3).outcome == "TimedOut"
    time.sleep(0.3)
    assert sandbox.run("sleep", "0.4", timeout=30).ok


# 11. Between steps


_LEAVES = """
import os, signal, subprocess, sys, time
for hide in (False, True):
    subprocess.Popen(["sleep", "1000." + sys.argv[1]], start_new_session=hide)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for fd in range(3): os.close(fd)
        while True:
            open("/workspace/haunted", "a").write("x"); time.sleep(0.01)
    os._exit(0)
while not os.path.exists("/workspace/haunted"): time.sleep(0.01)
"""


def test_between_steps_no_process_of_an_earlier_step_is_alive(sandbox: SandboxSession) -> None:
    marker = new_marker()

    result = sandbox.execute(
        [
            {"name": "leaves", "type": "Command", "command": ["python3", "-c", _LEAVES, marker]},
            {"name": "size", "type": "Command", "command": ["stat", "-c", "%s", "haunted"]},
            {"name": "later", "type": "Command", "command": ["sh", "-c", "sleep 0.2; stat -c %s haunted"]},
        ]
    )

    assert result.ok
    assert result.step("size").stdout == result.step("later").stdout, "nobody writes it any more"
    assert living(sandbox) == []


def test_the_same_processes_live_on_where_the_step_said_background(sandbox: SandboxSession) -> None:
    start_python(sandbox, _LEAVES + "\nprint('ready')", new_marker())

    before = int(sandbox.run("stat", "-c", "%s", "haunted").check().stdout)

    assert until(lambda: int(sandbox.run("stat", "-c", "%s", "haunted").stdout) > before)
    assert len(living(sandbox)) >= 3


@pytest.mark.parametrize(
    "tree", ["sessions of their own", "double fork", "deaf to every signal", "stopped", "two hundred"]
)
def test_beside_a_background_process_what_other_steps_leave_dies_and_it_lives(
    backend: ContractBackend, tree: str
) -> None:
    stays, goes = new_marker(), new_marker()
    with backend.open() as sandbox:
        start_python(sandbox, TREES["sessions of their own"], stays)
        _, _, result = _run_out_of_time(sandbox, tree, goes)
        left = "\n".join(living(sandbox))

    assert (result.outcome, "ready" in result.stdout) == ("TimedOut", True)
    assert goes not in left
    assert left.count(stays) == 6


def test_beside_a_background_process_even_endless_forks_end(sandbox: SandboxSession) -> None:
    goes = new_marker()
    stays = start_python(sandbox, "print('ready'); import time; time.sleep(1000)")

    timeout, took, result = _run_out_of_time(sandbox, "fork and exit for ever", goes)

    assert result.outcome == "TimedOut"
    assert took < timeout + PROMISED + NOISE
    assert goes not in "\n".join(living(sandbox))
    # Where they could not be told apart in time both are gone, and that is said.
    ended = stays.poll()
    assert ended is None or ended.outcome == "Killed"


# 12. Interrupts


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_ctrl_c_cancels_the_running_step_in_the_sandbox(backend: ContractBackend, sandbox: SandboxSession) -> None:
    marker, running, seen, sent = new_marker(), threading.Event(), set(), []

    def on_output(_step: str, _stream: str, data: bytes) -> None:
        if b"ready" in data:
            running.set()

    def interrupt() -> None:
        assert running.wait(20)
        time.sleep(0.1)  # so that it finds the caller waiting, not in this test's own code
        seen.update(marked(marker))
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    steps = [
        {"type": "Command", "command": ["python3", "-c", TREES["deaf to every signal"], marker]},
        {"type": "Command", "command": ["touch", "never"]},
    ]
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.execute(steps, on_output=on_output)
    took = time.monotonic() - sent[0]
    thread.join()

    assert took < 2 + 2 * NOISE
    assert not sandbox.run("test", "-e", "never").ok
    assert living(sandbox) == []
    if backend.on_this_machine:
        assert seen, "control: it ran when the interrupt came"
        assert marked(marker) == set()


def test_an_exception_of_on_output_cancels_the_running_step_and_is_raised(
    backend: ContractBackend, sandbox: SandboxSession
) -> None:
    class EnoughError(Exception):
        pass

    def on_output(_step: str, _stream: str, _data: bytes) -> None:
        raise EnoughError

    seconds = 0.5 if backend.on_this_machine else 3
    step = {"type": "Command", "command": ["sh", "-c", f"echo ready; sleep {seconds}; touch late"]}
    with pytest.raises(EnoughError):
        sandbox.execute([step], on_output=on_output)
    time.sleep(seconds + 0.2)

    assert not sandbox.run("test", "-e", "late").ok
    assert living(sandbox) == []
    sandbox.execute([step]).check()
    assert sandbox.run("test", "-e", "late").ok, "control: uninterrupted it gets there"


def test_cancelling_an_await_cancels_the_running_step(sandbox: SandboxSession) -> None:
    async def cancelled() -> float:
        task = asyncio.ensure_future(sandbox.arun("sh", "-c", "touch started; sleep 3; touch late"))
        while "started" not in await asyncio.to_thread(_listing, sandbox):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    def _listing(session: SandboxSession) -> str:
        try:
            session.read("started")
        except FileNotFoundError:
            return ""
        return "started"

    took = asyncio.run(cancelled())

    assert took < PROMISED + NOISE
    time.sleep(3.1)
    assert not sandbox.run("test", "-e", "late").ok
    assert living(sandbox) == []


@pytest.mark.parametrize("_again", range(8))
def test_deleting_the_sandbox_ends_the_running_step(backend: ContractBackend, _again: int) -> None:
    """Several times, for the two threads meet at the same descriptors."""
    marker = new_marker()
    sandbox = backend.open()
    errors = []

    def run() -> None:
        try:
            sandbox.run("sleep", f"1000.{marker}")
        except Exception as error:  # noqa: BLE001 - its class is what is tested
            errors.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    if backend.on_this_machine:
        assert until(lambda: marked(marker))
    began = time.monotonic()
    sandbox.delete_sandbox()
    thread.join(20)

    assert errors in (["SandboxLost"], ["SandboxClosed"])
    assert time.monotonic() - began < PROMISED + backend.noise
    if backend.on_this_machine:
        assert marked(marker) == set()


# 10 once more, when the silent one is through


def test_no_default_timeout_hides_in_a_lower_layer(sandbox: SandboxSession, silent: Future[StepResult]) -> None:
    result = silent.result(60)

    assert sandbox.timeout is None
    assert (result.outcome, result.exit_code) == ("Succeeded", 0)
    assert result.duration >= 18
