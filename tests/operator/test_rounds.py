"""What no object, and no agent, can do to the rounds of an operator."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster import objects as objects_module
from pytest_arl.cluster.objects import Key, key, uid
from pytest_arl.cluster.pod import LEASE_LABEL, POOL_LABEL, RUN_LABEL, STATUS_ALLOCATED, STATUS_LABEL
from pytest_arl.operator import leases as leases_module
from pytest_arl.operator import lifetimes as lifetimes_module
from pytest_arl.operator import memory_shares as room_module
from pytest_arl.operator import rounds as rounds_module
from pytest_arl.operator.introduction import OLDER_EPOCH, LinkLost
from pytest_arl.operator.jobs import MOST_IN_A_LANE
from pytest_arl.operator.rounds import Rounds
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from tests.operator.api_server import refused
from tests.operator.control_room import Room, leading
from tests.operator.objects import owned_by, pod, sandbox, task

pytestmark = pytest.mark.asyncio

LEASE = "/apis/coordination.k8s.io/v1/namespaces/arl-system/leases/arl-operator"
TOO_LARGE = "etcdserver: request is too large"


class Ended(Exception):
    """The process would have ended."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes of the process."""
    found: list[int] = []
    monkeypatch.setattr(os, "_exit", found.append)
    return found


def lease_of(holder: str, epoch: int) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"metadata": {}, "spec": {"holderIdentity": holder, "leaseTransitions": epoch}})

    return answer


@pytest.mark.parametrize("code", [OLDER_EPOCH, "x older epoch x", ""])
async def test_an_agent_that_speaks_of_a_newer_leader_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, ends: list[int], code: str
) -> None:
    async with leading(monkeypatch) as room:
        room.server.handlers["GET"] = lease_of("me", 7)
        for _ in range(100):
            room.context.heard(LinkLost("the agent refuses the operator: older epoch", code))
        await asyncio.sleep(0.2)
        assert room.server.asked_for("GET", LEASE) == ([LEASE] if code == OLDER_EPOCH else [])
        assert ends == []


@pytest.mark.parametrize(("holder", "epoch"), [("another", 8), ("me", 8)])
async def test_the_lease_itself_is_believed(
    monkeypatch: pytest.MonkeyPatch, ends: list[int], holder: str, epoch: int
) -> None:
    async with leading(monkeypatch) as room:
        room.server.handlers["GET"] = lease_of(holder, epoch)
        room.context.heard(LinkLost("the agent refuses the operator: older epoch", OLDER_EPOCH))
        await room.until(lambda: ends)
        assert ends == [3]


def stray(name: str, sandbox_name: str) -> Any:
    labels = {POOL_LABEL: "x", STATUS_LABEL: STATUS_ALLOCATED}
    return pod(name, labels=labels, ownerReferences=owned_by("Sandbox", "u-gone", name=sandbox_name))


async def test_an_owner_with_the_name_of_a_path_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("..", "../../../../../../healthz", ".", "plain")
    gone = sandbox()
    gone["metadata"]["uid"] = "u-gone"
    async with leading(monkeypatch) as room:
        room.control.begin()
        store = room.context.store
        for number, name in enumerate(names):
            store.put("pods", stray(f"foreign{number}", name))
            claimed = stray(f"claimed{number}", name)
            claimed["metadata"]["annotations"] = store.ours.mark(claimed, gone)
            store.put("pods", claimed)

        async def missing(_request: web.Request) -> web.Response:
            return refused(404, "NotFound")

        room.server.handlers["GET"] = missing
        room.server.handlers["DELETE"] = missing
        room.rounds.once()
        room.rounds.stray_pods()
        await room.until(lambda: len(room.server.asked_for("DELETE")) == len(names))
        assert [path.rpartition("/sandboxes/")[2] for path in room.server.asked_for("GET")] == ["plain"]
        assert all("/pods/claimed" in path for path in room.server.asked_for("DELETE"))
        room.rounds.once()


async def test_a_task_whose_status_cannot_be_written_holds_up_no_round_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds_module, "_NOT_FOUND_SECONDS", 0.0)
    async with leading(monkeypatch) as room:
        room.control.begin()
        poison, fine = task("poison"), task("fine")
        written: list[str] = []

        async def patch(request: web.Request) -> web.Response:
            name = request.path.split("/")[-2]
            written.append(name)
            if name == "poison":
                return refused(500, "InternalError", TOO_LARGE)
            meta = {**fine["metadata"], "resourceVersion": "999999"}
            return web.json_response({**fine, "metadata": meta, "status": (await request.json())["status"]})

        room.server.handlers["PATCH"] = patch
        room.server.handlers["POST"] = lambda _: _later(web.json_response({}, status=201))
        for each in (poison, fine):
            room.context.store.put("tasks", each)
        for _ in range(20):
            began = time.monotonic()
            room.rounds.once()
            assert time.monotonic() - began < 1
            await asyncio.sleep(0.02)
        await room.until(lambda: not room.context.store.all("tasks"))
        assert written.count("fine") == 1
        assert written.count("poison") == 3  # with output, without it, the shortest: and then never again
        await room.until(lambda: room.server.asked_for("POST", "/events"))
        event = room.server.bodies[[each[0] for each in room.server.asked].index("POST")]
        assert (event["reason"], event["involvedObject"]["name"]) == ("StatusRefused", "poison")
        room.rounds.once()
        await asyncio.sleep(0.1)
        assert written.count("poison") == 3


async def test_what_waits_for_the_api_server_holds_up_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        room.control.begin()
        stuck = asyncio.Event()

        async def never(_request: web.Request) -> web.Response:
            await stuck.wait()
            return web.json_response({})

        room.server.handlers["PATCH"] = never
        for number in range(30):
            room.context.store.put("tasks", task(f"t{number}"))
        await _round(room)
        await room.until(lambda: room.server.asked_for("PATCH"))
        for _ in range(5):
            await _round(room)
        paths = room.server.asked_for("PATCH")
        assert len(paths) == len(set(paths))  # one write of each at a time
        stuck.set()


async def test_an_object_that_is_not_understood_stops_no_round_and_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        odd, other = sandbox("odd"), sandbox("other")
        for body in (odd, other):
            room.control.event("sandboxes", False, body)
        room.control.begin()
        keeper = room.control.sandboxes[Key("ns", "odd")][0]
        assert keeper.sandbox.body is not None
        keeper.sandbox.body["spec"]["maxLifetimeSeconds"] = "soon"
        other_keeper = room.control.sandboxes[Key("ns", "other")][0]
        assert other_keeper.sandbox.body is not None
        other_keeper.sandbox.body["spec"]["maxLifetimeSeconds"] = 1
        deleted: list[str] = []

        async def delete(request: web.Request) -> web.Response:
            deleted.append(request.path.rpartition("/")[2])
            return web.json_response({})

        room.server.handlers["DELETE"] = delete
        room.server.handlers["PATCH"] = lambda _: _later(refused(404, "NotFound"))
        room.server.handlers["POST"] = lambda _: _later(web.json_response({}, status=201))
        await _round(room)
        await room.until(lambda: deleted == ["other"])
        await room.until(lambda: room.server.asked_for("POST", "/events"))
        assert room.context.jobs.resting(("lifetime", keeper.sandbox.uid))
        for kept, _ in room.control.sandboxes.values():
            kept.sandbox.wake.set()


async def test_rounds_that_no_longer_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "_DEAD_SECONDS", 0.3)
    monkeypatch.setattr(rounds_module, "_ROUND_SECONDS", 0.05)
    async with leading(monkeypatch) as room:
        running = asyncio.ensure_future(room.rounds.run())
        await asyncio.sleep(0.5)
        assert room.rounds.alive

        def broken() -> None:
            raise RuntimeError("no round")

        monkeypatch.setattr(room.rounds, "once", broken)
        await room.until(lambda: not room.rounds.alive)
        monkeypatch.undo()
        await room.until(lambda: room.rounds.alive)
        running.cancel()


async def _round(room: Room) -> None:
    began = time.monotonic()
    room.rounds.once()
    assert time.monotonic() - began < 1
    await asyncio.sleep(0)


async def _later(answer: web.Response) -> web.Response:
    return answer


async def test_a_namespace_that_is_listed_again_slowly_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "_ROUND_SECONDS", 0.01)
    monkeypatch.setattr(rounds_module, "_RESYNC_SECONDS", 0.05)
    async with leading(monkeypatch, namespaces=["slow", "quick", "not served"]) as room:
        listed: list[str | None] = []

        async def resync(namespace: str | None) -> None:
            listed.append(namespace)
            if namespace == "slow":
                await asyncio.Event().wait()

        for namespace in ("slow", "quick"):
            room.control.begin(namespace)
        running = asyncio.ensure_future(Rounds(room.control, resync).run())
        await room.until(lambda: listed.count("quick") == 5)
        assert listed.count("slow") == 1
        assert "not served" not in listed
        running.cancel()


async def test_a_namespace_that_takes_long_to_list_is_listed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "_ROUND_SECONDS", 0.01)
    monkeypatch.setattr(rounds_module, "_RESYNC_SECONDS", 0.02)
    async with leading(monkeypatch, namespaces=["large", "small"]) as room:
        listed: Counter[str | None] = Counter()

        async def resync(namespace: str | None) -> None:
            listed[namespace] += 1
            await asyncio.sleep(0.05 if namespace == "large" else 0)

        for namespace in ("large", "small"):
            room.control.begin(namespace)
        running = asyncio.ensure_future(Rounds(room.control, resync).run())
        await room.until(lambda: listed["small"] == 20)
        assert listed["large"] == 1, "then a second of pause"
        running.cancel()


async def test_a_namespace_whose_tasks_are_deleted_slowly_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would count against the other's quota until none is left for its next Task."""
    async with leading(monkeypatch) as room:
        stuck = asyncio.Event()

        async def delete(request: web.Request) -> web.Response:
            if "/namespaces/slow/" in request.path:
                await stuck.wait()
            return web.json_response({})

        room.server.handlers["DELETE"] = delete
        for namespace, many in (("slow", 30), ("ns", 3)):
            for number in range(many):
                body = task(f"t{number}", ttlSecondsAfterFinished=0)
                body["metadata"]["namespace"] = namespace
                body["status"] = {"state": "Succeeded", "completionTime": "2026-01-01T00:00:00Z"}
                room.context.store.put("tasks", body)
        room.rounds.once()
        await room.until(lambda: len(room.server.asked_for("DELETE", "/namespaces/ns/tasks/")) == 3)
        assert len(room.server.asked_for("DELETE", "/namespaces/slow/tasks/")) == 4
        stuck.set()
        await room.until(lambda: len(room.server.asked_for("DELETE")) == 33)


async def test_a_finished_task_that_a_finalizer_keeps_is_deleted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else thousands of them were deleted, and read, anew each minute."""
    async with leading(monkeypatch) as room:
        kept = task("kept")
        kept["spec"]["ttlSecondsAfterFinished"] = 0
        kept["status"] = {"state": "Succeeded", "completionTime": "2026-01-01T00:00:00Z"}
        room.context.store.put("tasks", kept)
        room.server.handlers["DELETE"] = lambda _: _later(web.json_response({}))
        for _ in range(10):
            room.rounds.once()
            await asyncio.sleep(0.02)
        assert len(room.server.asked_for("DELETE")) == 1
        room.control.event("tasks", True, kept)
        assert not room.context.store.over


def ended_leases(room: Room, many: int) -> None:
    """So many Leases that are over and kept by a finalizer, and as many Sandboxes that are none of theirs."""
    for number in range(many):
        name = f"arl-l{number}"
        meta: Any = {"name": name, "namespace": "ns", "uid": f"u-{name}", "resourceVersion": "1"}
        meta |= {"labels": {LEASE_LABEL: name, RUN_LABEL: "r"}, "deletionTimestamp": "2026-01-01T00:00:00Z"}
        room.context.store.put("leases", {"metadata": meta, "spec": {"holderIdentity": name}})
        body = sandbox(f"sb{number}", keepAlive=True, owners=owned_by("Deployment", "d", controller=False) * 64)
        room.context.store.put("sandboxes", body)
        keeper = SandboxKeeper(room.context, room.control.pools, body, key(body))
        room.control.sandboxes[key(body)] = keeper, asyncio.Future()


async def test_a_round_looks_at_each_object_and_not_at_each_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    for many in (20, 80):
        async with leading(monkeypatch) as room:
            ended_leases(room, many)
            store, count, owner = room.context.store, 0, objects_module.owner
            get = store.get

            def counting(*what: Any, get: Any = get) -> Any:
                nonlocal count
                count += 1
                return get(*what)

            def owning(*what: Any, owner: Any = owner) -> Any:
                nonlocal count
                count += 1
                return owner(*what)

            monkeypatch.setattr(store, "get", counting)
            for module in (rounds_module, leases_module, lifetimes_module, objects_module):
                monkeypatch.setattr(module, "owner", owning, raising=False)
            for moment in (0.0, 1000.0):  # they were seen, and then not renewed
                for lease in store.all("leases"):
                    room.rounds._leases.look(lease, moment)
            count = 0
            for lease in store.all("leases"):
                room.rounds._leases.look(lease, 1000.0)
            room.rounds.once()
            looks.append(count)
            monkeypatch.undo()
    assert looks[1] <= 5 * looks[0], "sixteen times as many where each Lease has all looked at"


async def test_a_pool_that_changes_wakes_its_own_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        woken: list[str] = []
        for number, its in enumerate(["mine", "other", "mine"]):
            room.context.store.put("sandboxes", sandbox(f"sb{number}", poolRef=its))
        monkeypatch.setattr(room.control, "wake_sandbox", lambda where: woken.append(where.name))
        room.control._wake_all_of(Key("ns", "mine"))
        assert woken == ["sb0", "sb2"]
        room.control._wake_all_of(Key("elsewhere", "mine"))
        assert woken == ["sb0", "sb2"]


async def test_of_tasks_that_are_gone_no_round_remembers_that_they_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of them end by an event."""
    async with leading(monkeypatch) as room:
        room.control.begin()
        kept, gone = task("kept"), task("gone")
        for body in (kept, gone):
            room.context.store.put("tasks", body)
        room.rounds.once()
        assert len(room.control.orphans) == 2
        room.context.store.remove("tasks", gone)
        room.rounds.once()
        assert list(room.control.orphans) == [kept["metadata"]["uid"]]


async def test_of_tasks_without_a_sandbox_a_few_at_a_time_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take the API server long."""
    async with leading(monkeypatch) as room:
        room.control.begin()
        under_way: list[str] = []
        going_on = asyncio.Event()

        async def slowly(request: web.Request) -> web.Response:
            under_way.append(request.path)
            await going_on.wait()
            return refused(404, "NotFound")

        room.server.handlers["PATCH"] = slowly
        for number in range(10):
            room.context.store.put("tasks", task(f"waiting{number}"))
        room.rounds.once()
        await room.until(lambda: len(under_way) >= MOST_IN_A_LANE)
        monkeypatch.setattr("pytest_arl.operator.rounds._NOT_FOUND_SECONDS", 0.0)
        for number in range(10):
            room.context.store.put("tasks", task(f"ending{number}"))
        room.rounds.once()
        await room.until(lambda: len(under_way) >= 2 * MOST_IN_A_LANE)
        await asyncio.sleep(0.1)
        assert len(under_way) == 2 * MOST_IN_A_LANE
        came = next(each for each in room.context.store.all("tasks") if each["metadata"]["name"] == "ending9")
        room.control.sandboxes[Key("ns", "sb")] = object()  # type: ignore[assignment]  # it came while the others were written
        going_on.set()
        await room.until(lambda: not room.context.jobs.busy(("end", uid(came))))
        room.control.sandboxes.clear()
        assert not any("ending9" in each for each in under_way)


async def test_what_is_left_out_for_lack_of_room_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(room_module.MOST, "sandboxes", 32 * 1024)
    async with leading(monkeypatch) as room:
        room.server.handlers["POST"] = lambda _: _later(web.json_response({}, status=201))
        for number in range(100):
            room.control.event("sandboxes", False, sandbox(f"sb{number}"))
        kept = len(room.context.store.all("sandboxes"))
        await room.until(lambda: room.server.asked_for("POST", "/events"))
        assert 5 < kept < 20
        (event,) = filter(None, room.server.bodies)
        assert (event["reason"], event["involvedObject"]["name"]) == ("NamespaceFull", f"sb{kept}")


async def test_a_lease_that_loses_its_label_for_a_moment_is_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch by label says that it is deleted."""
    async with leading(monkeypatch) as room:
        meta: Any = {"name": "arl-l", "namespace": "ns", "uid": "u", "labels": {LEASE_LABEL: "arl-l", RUN_LABEL: "r"}}
        lease = {number: {"metadata": {**meta, "resourceVersion": str(number)}, "spec": {}} for number in (1, 2, 3)}
        room.control.event("leases", False, lease[1])
        room.control.event("leases", True, lease[2])
        assert room.context.store.all("leases") == []
        for old in (1, 2):
            room.control.event("leases", False, lease[old])
        assert room.context.store.all("leases") == [], "a list that was begun before"
        room.control.event("leases", False, lease[3])
        assert len(room.context.store.all("leases")) == 1
        plain = sandbox()
        room.control.event("sandboxes", True, plain)
        room.control.event("sandboxes", False, plain | {"metadata": {**plain["metadata"], "resourceVersion": "99999"}})
        assert room.context.store.all("sandboxes") == []
