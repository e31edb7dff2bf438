"""Agents in wrong hands that say anything at all to the real operator: nothing breaks, and their neighbour goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.agent import frames
from pytest_arl.cluster import pod
from pytest_arl.operator import agent_link, patience, sandbox_link, task_runner, task_status
from pytest_arl.operator.async_api import AsyncApi
from pytest_arl.operator.context import Context
from pytest_arl.operator.control import Control
from pytest_arl.operator.election import Leadership, Term
from pytest_arl.operator.keys import Keys
from pytest_arl.operator.progress import Garbled, Progress
from pytest_arl.operator.rounds import Rounds
from pytest_arl.operator.template import Agent
from pytest_arl.operator.watching import Watching
from tests.cluster.hostile import conversations
from tests.cluster.hostile.schema import SCHEMAS, faults
from tests.cluster.hostile.small_cluster import SmallCluster, small_cluster
from tests.cluster.hostile.tenants import agent_pod
from tests.generated import generated
from tests.operator import objects

Json = dict[str, Any]
Value = TypeVar("Value")

DEADLINE = 60.0
"""Seconds until a Task of 0.3 s has ended, with the operator's own patience made short (below): it is 2 s as a rule, but some
machines have one slow processor.
"""

MOST_MEMORY = 24 * 1024**2
"""Bytes more than before that the operator may hold at one time for three hostile agents, each of which may have sent 1.6 MB."""

MOST_STALL = 0.5
"""Seconds of processor time that one agent's word may cost at a time, during which nobody else is served."""

_MOST_TIMES, _MOST_TIMES_LOST = 6.0, 40.0
"""So many times as long the times may become on a slow machine: all within a Task's deadline here. How long an agent is
looked for that was known decides about good ones alone; the operator's own time is longer still.
"""

_SHORT: dict[Any, dict[str, float]] = {
    agent_link: {"_SECONDS": 0.3, "_PONG_SECONDS": 0.5},
    patience: {"_FIRST_PAUSE": 0.02, "_LONGEST_PAUSE": 0.1, "_GRACE_SECONDS": 0.3},
    sandbox_link: {"_GREET_SECONDS": 0.5, "_LOST_SECONDS": 0.5, "_WORDS_SECONDS": 0.2, "_NOT_FOUND_SECONDS": 1.0},
    task_runner: {"_GRACE_SECONDS": 0.3, "_RETRY_SECONDS": 0.05, "_STEP_SECONDS": 0.1},
}


class Complaints(logging.Handler):
    """What the operator logs as its own failure."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.found.append(text)


class Operator:
    """The operator of two namespaces in this thread, over a cluster in another one: all of it but kopf's watches."""

    def __init__(self, cluster: SmallCluster) -> None:
        self.cluster = cluster
        self.complaints = Complaints()
        self.exits: list[int] = []
        self.longest = 0.0
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._loop.set_exception_handler(self._broken)
        self._numbers = itertools.count()
        self._ended: dict[tuple[str, str], asyncio.Future[Json]] = {}
        logging.getLogger("pytest_arl.operator").addHandler(self.complaints)
        logging.getLogger("pytest_arl.operator").setLevel(logging.ERROR)  # else it tells of each link

    def _broken(self, _loop: asyncio.AbstractEventLoop, context: Json) -> None:
        self.complaints.found.append(f"{context['message']} {context.get('exception')!r}")

    def run(self, job: Coroutine[Any, Any, Value]) -> Value:
        return self._runner.run(job)

    async def start(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._api = await AsyncApi().__aenter__()
        keys = Keys({"key.pem": pem})
        agent = Agent("agent:1", None, keys.public, b"secret")
        leadership = Leadership(self._api, "system", "operator", 15.0)
        await leadership.acquire()
        term = Term(leadership.identity, leadership.epoch, leadership.confirm)
        self.control = Control(Context(self._api, keys, term, agent), ["victim", "mallory"])
        watching = Watching(self.control)
        await watching.start()
        self.control.begin()
        self._rounds = asyncio.create_task(Rounds(self.control, watching.resync).run())
        loop, control = self._loop, self.control

        def seen(kind: str, gone: bool, body: Json) -> None:
            control.event(kind, gone, body)
            ended = self._ended.get((body["metadata"]["namespace"], body["metadata"]["name"]))
            status = body.get("status", {})
            if kind == "tasks" and ended is not None and not ended.done() and (gone or "completionTime" in status):
                ended.set_result(status)

        def watch(kind: str, gone: bool, body: Json) -> None:
            if kind in ("warmpools", "sandboxes", "tasks", "pods", "leases"):
                loop.call_soon_threadsafe(seen, kind, gone, body)

        self.cluster.watch = watch
        for namespace in ("victim", "mallory"):
            body = objects.pool(replicas=0)
            body["metadata"] = {"name": "pool", "namespace": namespace}
            self.cluster.create("warmpools", body)
        self.sandbox("victim", "good")
        await self.task("victim", "good")

    async def stop(self) -> None:
        self._rounds.cancel()
        self.cluster.watch = lambda *_: None
        for job in asyncio.all_tasks() - {asyncio.current_task()}:
            job.cancel()
        await asyncio.sleep(0.05)
        await self._api.__aexit__()

    def close(self) -> None:
        logging.getLogger("pytest_arl.operator").removeHandler(self.complaints)
        logging.getLogger("pytest_arl.operator").setLevel(logging.NOTSET)
        self._runner.close()

    def sandbox(self, namespace: str, name: str) -> None:
        meta = {"name": name, "namespace": namespace}
        spec = {"poolRef": "pool", "keepAlive": True}
        self.cluster.create("sandboxes", {"metadata": meta, "spec": spec})

    async def task(self, namespace: str, sandbox: str, **spec: Any) -> Json:
        """The status of a Task that has ended."""
        name = f"t{next(self._numbers)}"
        steps = [objects.command("s"), objects.command("s2")] if spec else [objects.command("s")]
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"sandboxRef": sandbox, "steps": steps, **spec},
        }
        ended: asyncio.Future[Json] = self._loop.create_future()
        self._ended[namespace, name] = ended
        self.cluster.create("tasks", body)
        await asyncio.wait((ended,), timeout=DEADLINE)
        del self._ended[namespace, name]
        assert ended.done(), f"a Task in {namespace} did not end: {self.cluster.get('tasks', namespace, name)}"
        self.cluster.delete("tasks", namespace, name)
        return ended.result()

    async def without_pod(self, sandbox: str, how: str) -> Json:
        """How a Task ends whose pod goes after its agent was given it."""
        task = asyncio.ensure_future(self.task("mallory", sandbox, timeout="300s"))
        name = ""
        async with asyncio.timeout(DEADLINE):
            while not name or not self.cluster.player(name).task:
                await asyncio.sleep(0.02)
                name = (self.cluster.get("sandboxes", "mallory", sandbox) or {}).get("status", {}).get("podName", "")
        if how == "deleted":
            self.cluster.delete("pods", "mallory", name)
        else:
            self.cluster.change("pods", "mallory", name, {"status": {"phase": "Failed", "reason": "Evicted"}})
        return await task

    async def meet(self, scripts: list[tuple[bool, Any]]) -> None:
        """Sandboxes with these agents and a Task for each, a neighbour beside them."""
        names = []
        for warm, script in scripts:
            names.append(f"h{next(self._numbers)}")
            self.cluster.scripts[names[-1]] = script
            if warm:
                self.cluster.idle_pod("mallory", "pool", script)
        await asyncio.sleep(0.01)
        for name in names:
            self.sandbox("mallory", name)
        neighbour = asyncio.ensure_future(self._neighbour())
        await asyncio.sleep(0)
        try:
            await asyncio.gather(*(self.task("mallory", name, timeout="300ms") for name in names))
        finally:
            for name in names:
                self.cluster.delete("sandboxes", "mallory", name)
                del self.cluster.scripts[name]
            self._over.set()
            await neighbour

    async def _neighbour(self) -> None:
        self._over = asyncio.Event()
        while not self._over.is_set():
            await self._good()
            await asyncio.sleep(0.02)
        await self._good()

    async def slowest(self) -> float:
        """Seconds that a Task of a good agent takes while memory is traced, which the tests do."""
        took = []
        tracemalloc.start()
        try:
            for _ in range(10):
                began = time.monotonic()
                await self._good()
                took.append(time.monotonic() - began)
        finally:
            tracemalloc.stop()
        return max(took)

    async def _good(self) -> None:
        status = await self.task("victim", "good")
        assert (status.get("state"), status.get("stdout")) == ("Succeeded", "on"), (
            status,
            self.cluster.get("sandboxes", "victim", "good"),
        )


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    config = tmp_path_factory.mktemp("cluster") / "kubeconfig"
    with pytest.MonkeyPatch.context() as patch, small_cluster(config) as cluster:
        patch.setenv("KUBECONFIG", str(config))
        patch.setattr(pod, "PORT", cluster.port)
        found = Operator(cluster)
        patch.setattr(os, "_exit", found.exits.append)
        run = asyncio.events.Handle._run

        def timed(handle: asyncio.events.Handle) -> None:
            began = time.thread_time()
            run(handle)
            if handle._loop is found._loop:  # type: ignore[attr-defined]  # which one of the two it is
                found.longest = max(found.longest, time.thread_time() - began)

        patch.setattr(asyncio.events.Handle, "_run", timed)
        found.run(found.start())
        # A machine on which a good agent takes long is no reason to give that agent up: all agents share one thread, and
        # what hostile ones send keeps it busy for many times as long.
        factor = max(1.0, 40 * found.run(found.slowest()) / _SHORT[agent_link]["_SECONDS"])
        for module, times in _SHORT.items():
            for name, seconds in times.items():
                most = _MOST_TIMES_LOST if name == "_LOST_SECONDS" else _MOST_TIMES
                patch.setattr(module, name, min(factor, most) * seconds)
        yield found
        found.run(found.stop())
        found.close()


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """An allocation of a gigabyte fails here, before it costs this machine anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 1024**3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


_SCRIPTS = st.lists(st.tuples(st.booleans(), conversations.scripts), min_size=1, max_size=3)


@generated(25, shrink=False)
@given(_SCRIPTS)
def test_whatever_agents_say_the_operator_and_their_neighbour_go_on(operator: Operator, scripts: list[Any]) -> None:
    operator.complaints.found.clear()
    operator.exits.clear()
    operator.cluster.invalid.clear()
    operator.longest = 0.0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        operator.run(operator.meet(scripts))
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert operator.exits == [], "an agent's word ended the operator"
    assert operator.complaints.found == []
    assert operator.cluster.invalid == []
    assert most < MOST_MEMORY
    assert operator.longest < MOST_STALL


@pytest.mark.parametrize(
    "script",
    [
        {"task": []},
        {"task": [], "ping": []},
        {"task": [["end"]]},
        {"task": [["noise", bytes(20)]]},
        {"task": [["right", "step", {"i": 1}, []]]},
        {"task": [["right", "step", {}, []], ["end"]]},
        {"task": [["right", "refusal", {"text": "another boot"}, []]]},
        {"task": [["right", "refusal", {"text": "task x is running; one at a time"}, []]]},
        {"task": [["right", "refusal", {"text": {"own": "busy"}}, []]]},
    ],
    ids=["silent", "no pong", "hangs up", "noise", "wrong step", "half", "another boot", "busy", "busy with it"],
)
def test_a_task_ends_though_its_agent_does_so_each_time_that_it_is_asked(operator: Operator, script: Any) -> None:
    operator.run(operator.meet([(False, script)]))


@pytest.mark.parametrize("how", ["deleted", "failed"])
def test_a_task_ends_with_its_pod_though_the_connection_stays(
    operator: Operator, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod's network may go before its processes: nothing on the connection says so."""
    monkeypatch.setattr(agent_link, "_PONG_SECONDS", 4 * DEADLINE)
    monkeypatch.setitem(operator.cluster.scripts, "silent", {"task": [], "ping": []})
    operator.sandbox("mallory", "silent")
    status = operator.run(operator.without_pod("silent", how))
    operator.cluster.delete("sandboxes", "mallory", "silent")

    (failed,) = (each for each in status["conditions"] if each["type"] == "Failed")
    assert failed["reason"] == "SandboxLost"
    assert {"deleted": "PodDeleted", "failed": "Evicted"}[how] in failed["message"]


def test_an_agent_that_keeps_to_what_is_right_is_believed(operator: Operator) -> None:
    operator.sandbox("mallory", "control")
    status = operator.run(operator.task("mallory", "control"))
    operator.cluster.delete("sandboxes", "mallory", "control")

    assert (status["state"], status["stdout"], status["exitCode"]) == ("Succeeded", "on", 0)


def test_the_program_of_a_pod_plays_its_scripts_a_connection_each() -> None:
    reserved = socket.create_server(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    reserved.close()
    refusal = [["right", "refusal", {"text": "older epoch"}, []]]
    (executor,) = agent_pod("p", "python:3", [{}, {"greeting": refusal}], port=port)["spec"]["containers"]
    program = subprocess.Popen(
        [sys.executable, *executor["command"][1:]], env={"POD_UID": "uid-1"}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "listening\n"
        assert [_first_word(port) for _ in range(3)] == [
            (frames.ERROR, "older epoch"),
            (frames.HELLO, "uid-1"),
            (frames.ERROR, "older epoch"),
        ]
    finally:
        program.kill()
        program.communicate()


def _first_word(port: int) -> tuple[int, str]:
    """What it says to whoever connects."""
    deadline = time.monotonic() + 10
    while True:
        try:
            peer = socket.create_connection(("127.0.0.1", port), timeout=10)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)
    with peer:
        ((kind, _, value),) = frames.Parser().feed(peer.recv(65536))
    assert isinstance(value, dict)
    return kind, value.get("text") or value["pod"]


# The same without a network: thousands of a minute

_FRAMES = st.lists(
    st.one_of(
        conversations.answers("step"),
        conversations.answers("step"),
        conversations.answers("done"),
        conversations.answers("refusal"),
        st.tuples(
            st.integers(frames.STDOUT, frames.STDERR_TAIL),
            st.tuples(st.integers(0, 2), st.binary(max_size=40)).map(
                lambda printed: frames.STEP_INDEX.pack(printed[0]) + printed[1]
            ),
        ),
        st.tuples(st.integers(frames.HELLO, frames.HOLE), conversations.values),
    ),
    max_size=6,
)


@generated(200)
@given(_FRAMES, st.booleans())
def test_whatever_an_agent_says_of_a_task_a_status_of_it_is_valid(said: list[tuple[int, Any]], output: bool) -> None:
    task = objects.task("t", objects.command("s"), objects.command("s2"))
    progress = Progress(task["spec"]["steps"])
    for kind, value in said:
        try:
            progress.take(kind, value)
        except Garbled:
            break
        if progress.done:
            break
    limits = {"memory": "64Mi"}
    statuses = [
        task_status.running(task, progress, 1.8e9, limits),
        task_status.failed(task, "SandboxLost", "it was lost", 1.8e9, progress, output=output, limits=limits),
    ]
    if progress.done and progress.refused is None and progress.ended:
        began, ended = task_runner._times(progress, 1.8e9)
        statuses.append(task_status.result(task, progress, began=began, ended=ended, limits=limits, output=output))
    for status in statuses:
        assert list(faults(SCHEMAS["tasks"]["properties"]["status"], status, "status")) == []
        json.dumps(status, allow_nan=False).encode()
