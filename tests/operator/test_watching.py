"""Lists and watches, over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster.objects import Key, uid
from pytest_arl.operator import rounds, watching
from pytest_arl.operator.api_errors import ApiError
from tests.operator.api_server import refused
from tests.operator.control_room import Room, leading
from tests.operator.objects import sandbox, task

pytestmark = pytest.mark.asyncio

SANDBOXES = "/apis/arl.infra.io/v1alpha1/sandboxes"
TASKS = "/apis/arl.infra.io/v1alpha1/tasks"


def names(room: Room, kind: str = "sandboxes") -> list[str]:
    return sorted(each["metadata"]["name"] for each in room.context.store.all(kind))


async def test_what_is_listed_is_followed_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        room.server.objects[SANDBOXES] = [sandbox("one")]
        await room.watching.start()
        assert names(room) == ["one"]
        following = asyncio.ensure_future(room.watching.run())
        await room.until(lambda: SANDBOXES in room.server.events)
        queue = room.server.events[SANDBOXES]
        two = sandbox("two")
        queue.put_nowait({"type": "ADDED", "object": two})
        await room.until(lambda: names(room) == ["one", "two"])
        queue.put_nowait({"type": "DELETED", "object": two})
        queue.put_nowait({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "4711"}}})
        queue.put_nowait(None)
        await room.until(lambda: names(room) == ["one"])

        def watches() -> list[str]:
            asked = [query for _, path, query in room.server.asked if path == SANDBOXES and "watch" in query]
            return [query["resourceVersion"] for query in asked]

        await room.until(lambda: len(watches()) == 2)
        assert watches() == ["1000", "4711"]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def test_a_version_that_is_forgotten_is_a_new_list(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        room.server.objects[SANDBOXES] = [sandbox("one")]
        await room.watching.start()
        following = asyncio.ensure_future(room.watching.run())
        await room.until(lambda: SANDBOXES in room.server.events)
        room.server.objects[SANDBOXES] = [sandbox("other")]
        room.server.version = 10**6
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        room.server.events[SANDBOXES].put_nowait({"type": "ERROR", "object": gone})
        await room.until(lambda: names(room) == ["other"])
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def test_a_list_whose_beginning_is_forgotten_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        room.server.objects[SANDBOXES] = [sandbox(f"sb-{number}") for number in range(40)]
        room.server.expired = True
        await room.watching.start()
        assert len(names(room)) == 40


async def test_a_second_look_asks_for_metadata_and_then_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        old = [task(f"t{number}") for number in range(3)]
        over = task("over", status={"state": "Failed"})
        room.server.objects[TASKS] = [*old, over]
        await room.watching.start()
        young = task("young")
        room.server.objects[TASKS] = [*old[1:], over, young]
        room.server.version = 10**6
        room.server.asked.clear()
        room.server.accepted.clear()

        async def whole(request: Any) -> Any:
            if request.path.endswith("/tasks/young"):
                return web.json_response(young)
            return room.server.page(request)

        room.server.handlers["GET"] = whole
        await room.watching.resync(None)
        assert names(room, "tasks") == ["t1", "t2", "young"]
        lists = [each for each in room.server.accepted if "PartialObjectMetadataList" in each]
        assert len(lists) == 5
        singles = [path for path in room.server.asked_for("GET") if path.endswith(("/young", "/t1", "/t2", "/over"))]
        assert [path.rpartition("/")[2] for path in singles] == ["young"]


async def test_a_second_look_at_a_namespace_asks_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch, namespaces=["a", "b"]) as room:
        await room.watching.start()
        room.server.asked.clear()
        await room.watching.resync("a")
        lists = [path for _, path, query in room.server.asked if "watch" not in query]
        assert len(lists) == 5
        assert all("/namespaces/a/" in path for path in lists)


async def test_one_that_cannot_be_read_again_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        await room.watching.start()
        bad, good = sandbox("bad"), sandbox("good")
        room.server.objects[SANDBOXES] = [bad, good]
        room.server.objects[TASKS] = [task("t")]
        room.server.version = 10**6

        async def answer(request: web.Request) -> web.StreamResponse:
            name = request.path.rpartition("/")[2]
            if name in ("bad", "leases"):
                return refused(403, "Forbidden")
            if name in ("good", "t"):
                return web.json_response(good if name == "good" else room.server.objects[TASKS][0])
            return room.server.page(request)

        room.server.handlers["GET"] = answer
        await room.watching.resync(None)
        assert names(room) == ["good"]
        assert names(room, "tasks") == ["t"]


async def test_an_object_that_is_not_understood_keeps_no_other_from_being_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        broken = sandbox("broken")
        room.server.objects[SANDBOXES] = [sandbox("a"), {**broken, "spec": None}, sandbox("b")]
        room.server.objects[TASKS] = [{**task("x"), "spec": {}}, task("y")]
        await room.watching.start()
        assert {"a", "b"} <= set(names(room))
        assert names(room, "tasks") == ["y"]


async def test_a_finished_task_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        steps = [{"name": "s", "outcome": "Succeeded", "stdout": "x" * 1000}]
        done = {"state": "Succeeded", "completionTime": "2026-01-01T00:00:00Z", "steps": steps}
        room.server.objects[TASKS] = [task(f"t{number}", status=done) for number in range(500)]
        await room.watching.start()
        assert names(room, "tasks") == []
        (kept,) = room.context.store.over.values()
        assert len(kept) == 500
        assert all(not hasattr(each, "__dict__") for each in kept.values())
        assert Key("ns", "t0") in {each.key for each in kept.values()}
        assert {uid(each) for each in room.server.objects[TASKS]} == set(kept)


@pytest.mark.parametrize("how", ["forbidden", "garbled", "without metadata"])
async def test_a_namespace_that_refuses_keeps_no_other_from_being_served(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its administrator may take the operator's rights there, or delete it; somebody may make what cannot be read."""
    async with leading(monkeypatch, namespaces=["closed", "open"]) as room:
        server, refusing = room.server, [True]
        where = "/apis/arl.infra.io/v1alpha1/namespaces/open/sandboxes"
        inside = sandbox("one")
        inside["metadata"]["namespace"] = "open"
        server.objects[where] = [inside]

        async def get(request: web.Request) -> web.StreamResponse:
            if refusing[0] and "/namespaces/closed/" in request.path:
                if how == "without metadata":
                    return web.json_response({"metadata": {}, "items": [{}]})
                return refused(403, "Forbidden") if how == "forbidden" else web.Response(text="{'no': json}")
            return await server._watch(request) if "watch" in request.query else server.page(request)

        server.handlers["GET"] = get
        await room.watching.start()
        assert names(room) == ["one"]
        closed = "/apis/arl.infra.io/v1alpha1/namespaces/closed/sandboxes"
        other = sandbox("two")
        other["metadata"]["namespace"] = "closed"
        server.objects[closed] = [other]
        refusing[0] = False
        following = asyncio.ensure_future(room.watching.run())
        await room.until(lambda: names(room) == ["one", "two"])
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def test_a_namespace_that_takes_long_keeps_no_other_from_being_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tenant's objects may be as many as its quota allows, and each of them large."""
    monkeypatch.setattr(watching, "_START_SECONDS", 0.2)
    monkeypatch.setattr(rounds, "_NOT_FOUND_SECONDS", 0.0)
    async with leading(monkeypatch, namespaces=["full", "quick"]) as room:
        server, held = room.server, asyncio.Event()
        for namespace in ("full", "quick"):
            of = f"/apis/arl.infra.io/v1alpha1/namespaces/{namespace}"
            for where, body in ((f"{of}/sandboxes", sandbox("sb")), (f"{of}/tasks", task("t"))):
                body["metadata"] |= {"namespace": namespace, "uid": f"{where} here"}
                server.objects[where] = [body]

        async def get(request: web.Request) -> web.StreamResponse:
            if request.path.endswith("/namespaces/full/sandboxes"):
                await held.wait()
            return await server._watch(request) if "watch" in request.query else server.page(request)

        server.handlers["GET"] = get
        await room.watching.start()
        assert [room.control.serves(each) for each in ("quick", "full")] == [True, False]
        assert [each.namespace for each in room.control.sandboxes] == ["quick"]
        # A Task that an event was faster with is nobody's orphan meanwhile.
        early = server.objects["/apis/arl.infra.io/v1alpha1/namespaces/full/tasks"][0]
        room.control.event("tasks", False, early)
        room.rounds.once()
        assert not room.control.orphans
        following = asyncio.ensure_future(room.watching.run())
        held.set()
        await room.until(lambda: room.control.serves("full"))
        assert sorted(each.namespace for each in room.control.sandboxes) == ["full", "quick"]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def test_an_operator_of_slow_namespaces_alone_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_START_SECONDS", 0.1)
    async with leading(monkeypatch) as room:
        held = asyncio.Event()

        async def get(request: web.Request) -> web.StreamResponse:
            await held.wait()
            return room.server.page(request)

        room.server.handlers["GET"] = get
        starting = asyncio.ensure_future(room.watching.start())
        await asyncio.sleep(0.3)
        assert not starting.done(), "it would say that it leads"
        held.set()
        await starting
        assert room.control.serves("any")


async def test_where_all_refuse_the_operator_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        room.server.handlers["GET"] = lambda _: _refusal()
        with pytest.raises(ApiError) as caught:
            await room.watching.start()
        assert caught.value.status == 403


async def _refusal() -> web.Response:
    return refused(403, "Forbidden")
