"""One pool: what it does where the API server refuses its pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster.objects import MOST_MESSAGE, Key, uid
from pytest_arl.operator import pool_deployment as deployment_module
from pytest_arl.operator import pool_keeper as module
from pytest_arl.operator import template
from pytest_arl.operator.pod_problems import Problem
from pytest_arl.operator.pool_keeper import PoolKeeper
from pytest_arl.text.untrusted import readable
from tests.operator.api_server import refused
from tests.operator.control_room import Room, leading
from tests.operator.objects import T0, pool, sandbox

pytestmark = pytest.mark.asyncio

HELD = {"limits": {"memory": "256Mi"}}
QUOTA = Problem("QuotaExceeded", "exceeded quota")


def echo(refuse: Callable[[Any], str] = lambda _: "") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An API server that takes what it is given, but for what ``refuse`` has words for."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if said := refuse(body):
            return refused(422, "Invalid", said)
        meta = {"namespace": "ns", "resourceVersion": "7", "creationTimestamp": T0, **body["metadata"]}
        meta["name"] = meta.get("name") or request.path.rpartition("/")[2]
        return web.json_response({"spec": {"containers": []}, **body, "metadata": {"uid": meta["name"], **meta}})

    return answer


@asynccontextmanager
async def kept(room: Room, *keepers: PoolKeeper) -> AsyncIterator[None]:
    """Pools that are kept for a while."""
    room.server.handlers |= {"POST": echo(), "PATCH": echo(), "GET": missing}
    running = [asyncio.ensure_future(keeper.run()) for keeper in keepers]
    try:
        yield
    finally:
        for each in running:
            each.cancel()


async def missing(_: web.Request) -> web.StreamResponse:
    return refused(404, "NotFound")


def next_generation(body: Any, **container: Any) -> Any:
    found = pool(replicas=0, **container)
    generation = body["metadata"]["generation"] + 1
    found["metadata"] |= {"uid": body["metadata"]["uid"], "name": body["metadata"]["name"], "generation": generation}
    found["metadata"]["resourceVersion"] = str(100_000 + generation)
    return found


class Turns:
    """In which turns of the loop a function of the template's was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *named: str) -> None:
        self.turn = 0
        self.calls: list[tuple[str, int]] = []
        for each in named:
            monkeypatch.setattr(template, each, self._counted(each, getattr(template, each)))

    def _counted(self, named: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append((named, self.turn))
            return found(*arguments)

        return call

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    def of(self, named: str) -> list[int]:
        return [turn for each, turn in self.calls if each == named]


class Clock:
    def __init__(self) -> None:
        self.moment = 100.0

    def monotonic(self) -> float:
        return self.moment


async def test_waiting_claims_try_one_after_another_where_a_pod_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own asked again each second: two hundred who waited made two hundred requests of it."""
    clock = Clock()
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        monkeypatch.setattr(module, "time", clock)
        cold = [f"w{number}" for number in range(200)]
        assert keeper._may_be_made(cold) == cold
        asked = 0
        for _ in range(600):
            tried = keeper._may_be_made(cold)
            asked += len(tried)
            for _ in tried:
                keeper._be_refused(QUOTA)
            assert keeper._refused in (None, QUOTA)
            if keeper._refused is None:
                keeper._be_refused(QUOTA)
            clock.moment += 0.1
        assert 5 <= asked - 200 <= 12, "in a minute"
        assert keeper.why() == QUOTA


async def test_once_a_pod_is_made_the_next_one_tries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        monkeypatch.setattr(module, "time", clock)
        for _ in range(10):
            keeper._be_refused(QUOTA)
        clock.moment += 8
        assert keeper._may_be_made(["a", "b", "c"]) == ["a"]
        assert keeper._may_be_made(["b", "c"]) == [], "the answer is still to come"
        keeper._be_allowed()
        assert keeper._may_be_made(["b", "c"]) == ["b"]
        keeper._be_allowed()
        assert keeper._may_be_made([]) == []
        assert keeper._may_be_made(["d", "e"]) == ["d", "e"], "nobody waits any more: as before"


async def test_who_waits_is_looked_at_once_and_not_by_each_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template of 4,000 containers and sixty who waited held the operator up for ten seconds."""
    looked: list[str] = []

    def counted(what: str) -> None:
        found = getattr(template, what)

        def looks(*arguments: Any) -> Any:
            looked.append(what)
            return found(*arguments)

        monkeypatch.setattr(template, what, looks)

    counted("own_resources")
    counted("resources_for")
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        body = pool(replicas=0, resources={"limits": {"memory": "512Mi"}})
        room.context.store.put("warmpools", body)
        keeper._deployment._valid = "", 0, ""
        monkeypatch.setattr(keeper, "_may_be_made", lambda _cold: [])
        asked = [{"limits": {"memory": each}} for each in ("512Mi", "256Mi")]
        waiters = [keeper.ask(sandbox(f"s{number}", resources=asked[number % 2])) for number in range(100)]
        assert looked.count("own_resources") == 1
        assert looked.count("resources_for") == 200, "at its coming, and in the queue"
        special = {uid(each.sandbox) for each in waiters if keeper._wishes.own_pod(each.sandbox)}
        assert special == {uid(each.sandbox) for each in waiters[1::2]}

        changed = pool(replicas=0, resources={"limits": {"memory": "1Gi"}})
        changed["metadata"] |= {"uid": body["metadata"]["uid"], "generation": 2, "resourceVersion": "99999"}
        assert room.context.store.put("warmpools", changed)
        assert all(keeper._wishes.own_pod(each.sandbox) for each in waiters), "neither is the pool's any more"
        assert looked.count("own_resources") == 2
        for each in waiters:
            keeper.withdraw(each)
        assert keeper._wishes._known == {}


async def test_a_template_is_made_once_in_a_generation_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred who waited, and whose wishes a new template made special, made it two hundred times in one turn."""
    turns = Turns(monkeypatch, "pod_template", "cold_pod")
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        body = pool(replicas=0, resources={"limits": {"memory": "512Mi"}})
        room.context.store.put("warmpools", body)
        async with kept(room, keeper):
            ticking = asyncio.ensure_future(turns.count())
            await room.until(lambda: room.server.asked_for("PATCH", "/deployments/"))
            first = keeper.ask(sandbox("first", resources=HELD))
            await room.until(first.pod.done)
            room.context.store.put("warmpools", next_generation(body, resources={"limits": {"memory": "1Gi"}}))
            keeper.wake.set()
            waiters = [keeper.ask(sandbox(f"s{number}", resources=HELD)) for number in range(60)]
            await room.until(lambda: all(each.pod.done() for each in waiters))
            ticking.cancel()
        assert len(turns.of("pod_template")) == 2, "one for each generation"
        assert len(turns.of("cold_pod")) == 61
        assert len(set(turns.of("cold_pod"))) == 61, "others have their turn between two pods"
        sent = [
            each for each in room.server.bodies if each and each.get("kind") == "Pod" and "name" in each["metadata"]
        ]
        assert {json.dumps(each["spec"]["containers"][1]["resources"]) for each in sent} == {json.dumps(HELD)}


async def test_pools_take_turns_where_all_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each minute all Deployments are compared; twenty large templates were made in one turn."""
    turns = Turns(monkeypatch, "pod_template")
    async with leading(monkeypatch) as room:
        keepers = [
            PoolKeeper(room.context, Key("ns", f"pool{number}"), room.control.wake_sandbox) for number in range(20)
        ]
        for each in keepers:
            body = pool(each.key.name, replicas=0)
            room.context.store.put("warmpools", body)
        async with kept(room, *keepers):
            ticking = asyncio.ensure_future(turns.count())
            await room.until(lambda: len(set(room.server.asked_for("PATCH", "/status"))) == 20)
            for each in keepers:
                each.forget()
            await room.until(lambda: len(room.server.asked_for("PATCH", "/deployments/")) == 40)
            ticking.cancel()
        assert len(turns.of("pod_template")) == 20, "the template has not changed"
        assert len(set(turns.of("pod_template"))) == 20


async def test_nothing_is_made_while_the_latest_template_is_not_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        body = pool(replicas=0)
        room.context.store.put("warmpools", body)
        async with kept(room, keeper):
            await room.until(lambda: room.server.asked_for("PATCH", "/deployments/"))
            bad = next_generation(body, livenessProbe={"exec": {}})
            room.context.store.put("warmpools", bad)
            early = keeper.ask(sandbox("early"))
            keeper.wake.set()
            await room.until(lambda: keeper.why().reason == "TemplateInvalid")
            late = keeper.ask(sandbox("late"))
            before = len(room.server.asked_for("POST", "/pods"))
            for _ in range(5):
                keeper.assign()
                await asyncio.sleep(0.05)
            assert (early.pod.done(), late.pod.done()) == (False, False)
            assert len(room.server.asked_for("POST", "/pods")) == before
            room.context.store.put("warmpools", next_generation(bad))
            keeper.wake.set()
            await room.until(lambda: early.pod.done() and late.pod.done())


async def test_a_refusal_is_made_printable_once_for_all_waiting_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(text: str, length: int) -> str:
        made.append(len(text))
        return readable(text, length)

    monkeypatch.setattr(module, "readable", counted)
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        keeper._be_refused(Problem("PodRefused", "\x01" * 100_000))
        said = [keeper.why() for _ in range(200)]
        assert made == [100_000]
        assert {each.message for each in said} == {readable("\x01" * 100_000, MOST_MESSAGE)}
        assert said[0].message.startswith("\\x01")
        keeper._be_refused(QUOTA)
        assert keeper.why() == QUOTA


def tries(room: Room) -> int:
    """Count the dry runs of a pod."""
    return len([query for method, _, query in room.server.asked if method == "POST" and "dryRun" in query])


async def test_whether_a_template_is_taken_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a template that takes the API server seconds it was asked each minute, and at each change of the size."""
    async with leading(monkeypatch) as room:
        keeper = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)
        body = pool(replicas=0)
        room.context.store.put("warmpools", body)
        async with kept(room, keeper):
            await room.until(lambda: room.server.asked_for("PATCH", "/status"))
            keeper.forget()
            await room.until(lambda: len(room.server.asked_for("PATCH", "/deployments/")) == 2)
            room.context.store.put("warmpools", next_generation(body))
            keeper.wake.set()
            await room.until(lambda: len(room.server.asked_for("PATCH", "/deployments/")) == 3)
            assert tries(room) == 1
            room.context.store.put("warmpools", next_generation(next_generation(body), env=[{"name": "A"}]))
            keeper.wake.set()
            await room.until(lambda: len(room.server.asked_for("PATCH", "/deployments/")) == 4)
            assert tries(room) == 2


async def test_a_refused_template_is_tried_again_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    async with leading(monkeypatch) as room:
        monkeypatch.setattr(deployment_module, "time", clock)
        source = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)._deployment
        room.server.handlers |= {"POST": echo(lambda _: "no such class"), "GET": missing, "PATCH": echo()}
        body = pool(replicas=0)
        for _ in range(60):
            source.forget()
            await source.apply(body)
            clock.moment += 60.0
        assert source.trouble == Problem("TemplateInvalid", "no such class")
        assert 4 <= tries(room) <= 7, "in an hour"
        await source.apply(next_generation(body, env=[{"name": "A"}]))
        assert 5 <= tries(room) <= 8, "another one at once"
        room.server.handlers["POST"] = echo()
        clock.moment += 1800.0
        source.forget()
        await source.apply(next_generation(body, env=[{"name": "A"}]))
        assert source.trouble is None


async def test_where_the_api_server_cannot_answer_there_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    async def late(_: web.Request) -> web.StreamResponse:
        return refused(504, "Timeout")

    async with leading(monkeypatch) as room:
        monkeypatch.setattr(deployment_module, "time", clock)
        source = PoolKeeper(room.context, Key("ns", "pool"), room.control.wake_sandbox)._deployment
        room.server.handlers |= {"POST": late, "GET": missing, "PATCH": echo()}
        body = pool(replicas=0)
        for _ in range(600):
            await source.apply(body)
            assert source.behind
            clock.moment += 0.1
        assert 7 <= tries(room) <= 12, "in a minute"
        room.server.handlers["POST"] = echo()
        clock.moment += 8.0
        await source.apply(body)
        assert (source.behind, source.trouble) == (False, None)


async def test_of_a_namespace_one_template_at_a_time_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}
    most: dict[str, int] = {}
    free = asyncio.Event()
    take = echo()

    async def slow(request: web.Request) -> web.StreamResponse:
        where = request.path
        asked[where] = asked.get(where, 0) + 1
        most[where] = max(most.get(where, 0), asked[where])
        await free.wait()
        asked[where] -= 1
        return await take(request)

    async with leading(monkeypatch) as room:
        room.server.handlers |= {"POST": slow, "GET": missing, "PATCH": echo()}
        applying = []
        for namespace in ("ns", "other"):
            for number in range(5):
                body = pool(f"pool{number}")
                source = PoolKeeper(
                    room.context, Key(namespace, body["metadata"]["name"]), room.control.wake_sandbox
                )._deployment
                applying.append(asyncio.ensure_future(source.apply(body)))
        await room.until(lambda: len(most) == 2)
        free.set()
        await asyncio.gather(*applying)
        assert list(most.values()) == [1, 1]
        assert tries(room) == 10
