"""Links to idle pods, against a program that plays an agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from pytest_arl.agent import frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.cluster import pod
from pytest_arl.operator import idle_links as idle_links_module
from pytest_arl.operator.agent_link import AgentLink
from pytest_arl.operator.idle_links import IdleLinks
from pytest_arl.operator.introduction import OLDER_EPOCH, Claim, Introduction, LinkLost

pytestmark = pytest.mark.asyncio


class Agent:
    """Greets, and takes a holder; or refuses him, or has gone."""

    def __init__(self) -> None:
        self.connections = 0
        self.refuses: str | None = None
        self.holders: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        hello = {"version": frames.VERSION, "boot": "b1", "pid": 1, "nonce": b"n" * 32, "pod": "uid-1"}
        writer.write(frames.message(frames.HELLO, 0, hello))
        parser = frames.Parser()
        while data := await reader.read(65536):
            for _kind, stream, value in parser.feed(data):
                assert isinstance(value, dict)
                holder = value.get("holder")
                if holder is not None:
                    self.holders.append(holder)
                if holder is not None and self.refuses:
                    writer.write(frames.message(frames.ERROR, stream, {"text": self.refuses}))
                else:
                    ready = {"configured": True, "held": holder is not None, "running": None}
                    writer.write(frames.message(frames.READY, stream, ready))
        writer.close()


CLAIM = Claim("h" * 64, b"m" * 32)


class Scene:
    """A idle_links beside an agent."""

    def __init__(self) -> None:
        self.agent = Agent()
        self.jobs: list[asyncio.Task[Any]] = []
        self.refusals: list[LinkLost] = []
        self.idle_links = IdleLinks(
            Introduction(lambda *_: b"signed", lambda *_: [b"m" * 32], 7),
            config=lambda _: AgentConfig(workspace="/workspace"),
            spawn=self._spawn,
            refused=self.refusals.append,
        )

    def _spawn(self, job: Coroutine[Any, Any, Any]) -> None:
        self.jobs.append(asyncio.ensure_future(job))

    async def settle(self) -> None:
        while self.jobs:
            await self.jobs.pop()


def idle(ready: str = "True", **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "uid-1", **meta},
        "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest_asyncio.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene()
    server = await asyncio.start_server(scene.agent.serve, "127.0.0.1", 0)
    monkeypatch.setattr(pod, "PORT", server.sockets[0].getsockname()[1])
    yield scene
    scene.idle_links.keep(set())
    for writer in scene.agent.writers:
        writer.close()
    await asyncio.sleep(0.05)
    server.close()


async def test_a_ready_pod_is_visited_once_and_taken_with_its_holder(scene: Scene) -> None:
    for _ in range(3):
        scene.idle_links.look(idle())
    await scene.settle()
    scene.idle_links.look(idle())
    await scene.settle()
    link = await scene.idle_links.take(idle(), CLAIM)

    assert isinstance(link, AgentLink)
    assert (scene.agent.connections, scene.agent.holders) == (1, ["h" * 64])
    assert link.hello.boot == "b1"
    assert await scene.idle_links.take(idle(), CLAIM) is None, "a link is taken once"
    link.close("over")


@pytest.mark.parametrize(
    "pod_seen",
    [
        idle(ready="False"),
        idle(deletionTimestamp="2026-01-01T00:00:00Z"),
        idle(ownerReferences=[{"kind": "Sandbox", "uid": "s", "name": "s", "apiVersion": "arl.infra.io/v1alpha1"}]),
    ],
    ids=["not ready", "leaving", "claimed"],
)
async def test_other_pods_are_not_visited(scene: Scene, pod_seen: dict[str, Any]) -> None:
    scene.idle_links.look(pod_seen)
    await scene.settle()

    assert scene.agent.connections == 0
    assert await scene.idle_links.take(pod_seen, None) is None


async def test_a_link_that_ended_is_not_handed_out_and_is_opened_anew(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle_links_module, "_FIRST_PAUSE", 0.01)
    scene.idle_links.look(idle())
    await scene.settle()
    scene.agent.writers[0].close()
    for _ in range(100):
        scene.idle_links.look(idle())
        await scene.settle()
        if scene.agent.connections == 2:
            break
        await asyncio.sleep(0.01)
    scene.agent.writers[-1].close()
    await asyncio.sleep(0.05)

    assert scene.agent.connections == 2
    assert await scene.idle_links.take(idle(), None) is None


async def test_silent_agents_of_a_namespace_hold_up_no_visit_to_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = asyncio.Event()

    async def greets_nobody(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(greets_nobody, "127.0.0.2", pod.PORT)
    for number in range(20):
        found = idle(namespace="silent", uid=f"uid-silent-{number}")
        found["status"]["podIP"] = "127.0.0.2"
        scene.idle_links.look(found)
    await asyncio.sleep(0.05)
    scene.idle_links.look(idle())
    async with asyncio.timeout(3):  # a silent one is given up after five
        while not scene.agent.connections:
            await asyncio.sleep(0.01)
    silent.set()
    server.close()
    await scene.settle()


async def test_an_idle_link_is_not_handed_out_if_its_agent_refuses_the_holder(scene: Scene) -> None:
    scene.idle_links.look(idle())
    await scene.settle()
    scene.agent.refuses = "it has another holder"

    assert await scene.idle_links.take(idle(), CLAIM) is None


async def test_a_pod_that_is_claimed_or_gone_during_the_visit_leaves_no_link(scene: Scene) -> None:
    scene.idle_links.look(idle())
    await asyncio.sleep(0)
    scene.idle_links.gone(idle())
    await scene.settle()

    assert await scene.idle_links.take(idle(), CLAIM) is None


async def test_what_no_event_told_is_found_out(scene: Scene) -> None:
    scene.idle_links.look(idle())
    await scene.settle()
    scene.idle_links.keep({"uid-1"})
    scene.idle_links.keep({"uid-2"})

    assert await scene.idle_links.take(idle(), CLAIM) is None


async def test_a_newer_leader_is_heard_of(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frames.message(frames.ERROR, 0, {"text": "older epoch"}))
        writer.close()

    server = await asyncio.start_server(refuses, "127.0.0.1", 0)
    monkeypatch.setattr(pod, "PORT", server.sockets[0].getsockname()[1])
    scene.idle_links.look(idle())
    await scene.settle()

    assert scene.refusals[0].code == OLDER_EPOCH
    server.close()


async def test_an_agent_that_ends_each_link_is_visited_ever_more_rarely(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for passed, connections in ((0.0, 1), (0.49, 1), (0.51, 2), (1.49, 2), (1.52, 3), (3.4, 3), (3.6, 4)):
        # Not the clock of the loop, which has to go on.
        monkeypatch.setattr(idle_links_module, "time", SimpleNamespace(monotonic=lambda passed=passed: 1000.0 + passed))
        for _ in range(10):  # whatever is said of the pod
            scene.idle_links.look(idle())
            await scene.settle()
            for link in scene.idle_links._links.values():
                link.close("as the agent does")
        assert scene.agent.connections == connections, passed
    scene.idle_links.keep(set())
    scene.idle_links.look(idle())
    await scene.settle()
    assert scene.agent.connections == 5, "of pods that are gone nothing is remembered"


async def test_so_many_idle_pods_are_visited_at_a_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    most = under_way = visits = 0

    async def refusing(*_: Any, **_more: Any) -> AgentLink:
        nonlocal most, under_way, visits
        under_way, visits = under_way + 1, visits + 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        raise OSError

    monkeypatch.setattr(AgentLink, "connect", refusing)
    for number in range(40):
        scene.idle_links.look(idle(uid=f"uid-{number}", name=f"p{number}"))
    await scene.settle()
    assert (most, visits) == (8, 40)
