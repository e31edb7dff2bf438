"""Leases of runs, and Sandboxes that end with them whatever somebody does to either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster.objects import Key, key
from pytest_arl.cluster.pod import LEASE_LABEL, RUN_LABEL
from pytest_arl.operator import leases as leases_module
from pytest_arl.operator.leases import Leases
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from tests.operator.api_server import refused
from tests.operator.control_room import Room, leading
from tests.operator.objects import meta, owned_by, sandbox, task

pytestmark = pytest.mark.asyncio

WHERE = Key("ns", "sb")
TOO_LARGE = "etcdserver: request is too large"


async def test_a_lease_that_a_finalizer_keeps_does_not_keep_its_sandboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes ends what it owns only when it is gone."""
    async with leading(monkeypatch) as room:
        names = {LEASE_LABEL: "arl-l", RUN_LABEL: "r"}
        meta = {"name": "arl-l", "namespace": "ns", "uid": "u-lease", "resourceVersion": "1", "labels": names}
        meta |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/never"]}
        spec = {"holderIdentity": "arl-l", "leaseDurationSeconds": 5}
        lease = {"metadata": meta, "spec": spec}
        room.context.store.put("leases", lease)
        leases = Leases(room.control)
        mine, other = sandbox("mine", owners=owned_by("Lease", "u-lease")), sandbox("other")
        for body in (mine, other):
            body["metadata"] |= {"uid": f"u-{body['metadata']['name']}", "namespace": "ns"}
            room.context.store.put("sandboxes", body)
        keepers = {
            body["metadata"]["name"]: SandboxKeeper(room.context, room.control.pools, body, key(body))
            for body in (mine, other)
        }
        room.control.sandboxes.update({each.sandbox.key: (each, asyncio.Future()) for each in keepers.values()})
        deleted: list[str] = []

        async def delete(where: str, which: str | None = None, version: str | None = None) -> bool:
            deleted.append(f"{where.rpartition('/')[2]} {which}")
            return True

        monkeypatch.setattr(room.context.api, "delete", delete)
        leases.look(lease, 100.0)
        leases.look(lease, 104.0)
        await asyncio.sleep(0.05)
        assert deleted == [], "it may be renewed"
        leases.look(lease, 106.0)
        await room.until(lambda: deleted)
        assert deleted == ["mine u-mine"]


def lease_of(uid: str, renewed: str) -> Any:
    spec = {"holderIdentity": "arl-l", "leaseDurationSeconds": 5, "renewTime": renewed}
    return {"metadata": meta("arl-l", uid=uid), "spec": spec}


FINDS: dict[str, Callable[[int], Any]] = {
    "none": lambda _: None,
    "another of its name": lambda look: lease_of("u-other", str(look)),
    "one that is renewed": lambda look: lease_of("u-lease", str(look)),
    "one that nobody renews": lambda _: lease_of("u-lease", "once"),
}


@pytest.mark.parametrize("finds", FINDS)
async def test_a_sandbox_whose_lease_is_not_seen_ends_unless_that_is_there_and_renewed(
    monkeypatch: pytest.MonkeyPatch, finds: str
) -> None:
    """Kubernetes could not delete it with its Lease, or somebody has taken the label off that."""
    async with leading(monkeypatch) as room:
        clock, looks = [1000.0], 0
        monkeypatch.setattr(leases_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))

        async def answer(_request: web.Request) -> web.Response:
            nonlocal looks
            looks += 1
            found = FINDS[finds](looks)
            return refused(404, "NotFound") if found is None else web.json_response(found)

        async def deleted(_request: web.Request) -> web.Response:
            return web.json_response({})

        room.server.handlers |= {"GET": answer, "DELETE": deleted}
        body = sandbox(owners=owned_by("Lease", "u-lease", name="arl-l"))
        room.context.store.put("sandboxes", body)
        leases = Leases(room.control)
        leases.look_at_holders([body], [], clock[0])
        clock[0] += 19
        leases.look_at_holders([body], [], clock[0])
        await asyncio.sleep(0.05)
        assert looks == 0, "its Lease may not have been seen yet"
        for expected, pause in ((1, 20), (2, 40)):
            clock[0] += pause
            leases.look_at_holders([body], [], clock[0])
            await room.until(lambda expected=expected: looks == expected or room.server.asked_for("DELETE"))  # type: ignore[misc]  # a bound loop variable
            await asyncio.sleep(0.05)
            leases.look_at_holders([body], [], clock[0])  # asked a moment ago
            if finds == "one that nobody renews" and expected == 1:
                assert not room.server.asked_for("DELETE")
        assert bool(room.server.asked_for("DELETE", "/sandboxes/sb")) is (finds != "one that is renewed")


async def test_a_lease_is_asked_for_once_for_all_its_sandboxes_and_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be of any size and shape, and many Sandboxes may name it."""
    async with leading(monkeypatch) as room:
        leases, asked = Leases(room.control), 0

        async def answer(_request: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            return web.json_response(lease_of("u-lease", str(asked)))

        room.server.handlers["GET"] = answer
        bodies = [sandbox(f"sb{number}", owners=owned_by("Lease", "u-lease", name="arl-l")) for number in range(200)]
        over = sandbox("over", owners=owned_by("Lease", "u-other", name="arl-o"), status={"phase": "Failed"})
        moments = []
        for moment in range(1000):
            before = asked
            leases.look_at_holders([*bodies, over], [], float(moment))
            await room.until(lambda: not room.context.jobs.busy(("holder", ("ns", "arl-l", "u-lease"))))
            moments += [moment] * (asked - before)
        assert moments == [20, 60, 140, 300, 620, 940], "in which pods of the others run"


async def test_a_sandbox_whose_lease_is_seen_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async with leading(monkeypatch) as room:
        leases = Leases(room.control)
        followed = lease_of("u-lease", "now")
        held, free = sandbox("held", owners=owned_by("Lease", "u-lease", name="arl-l")), sandbox("free")
        for moment in (1000.0, 1030.0):
            leases.look_at_holders([held], [followed], moment)
            leases.look_at_holders([free], [], moment)
        leases.look_at_holders([held], [], 1031.0)
        leases.look_at_holders([held], [followed], 1040.0)
        leases.look_at_holders([held], [], 1052.0)
        await asyncio.sleep(0.05)
        assert room.server.asked == []
        leases.look_at_holders([], [], 1053.0)
        assert leases._unseen == {}


async def test_a_lease_holds_sandboxes_of_its_own_namespace_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever makes a Sandbox chooses the UID that it names."""
    async with leading(monkeypatch) as room:
        asked: list[str] = []

        async def answer(request: web.Request) -> web.Response:
            asked.append(request.path.split("/")[5])
            if asked[-1] == "ns":
                return web.json_response(lease_of("u-lease", str(len(asked))))
            return refused(404, "NotFound")

        room.server.handlers |= {"GET": answer, "DELETE": lambda _: _made()}
        mine, other = (sandbox(name, owners=owned_by("Lease", "u-lease", name="arl-l")) for name in ("mine", "other"))
        other["metadata"]["namespace"] = "elsewhere"
        followed = lease_of("u-lease", "now")
        for body in (mine, other):
            room.context.store.put("sandboxes", body)
        leases = Leases(room.control)
        for moment in (1000.0, 1030.0):
            leases.look_at_holders([mine, other], [followed], moment)
        await room.until(lambda: room.server.asked_for("DELETE"))
        assert asked == ["elsewhere"], "what is followed in one namespace is not followed in another"
        for moment in (1000.0, 1030.0):
            leases.look_at_holders([mine, other], [], 1000.0 + moment)
        await room.until(lambda: "ns" in asked)
        await asyncio.sleep(0.05)
        assert not room.server.asked_for("DELETE", "/sandboxes/mine"), "it has a Lease that is renewed"


async def _made() -> web.Response:
    return web.json_response({})


def kept(room: Room, **more: Any) -> SandboxKeeper:
    """A Sandbox that the operator keeps, with a pod and a Task that waits."""
    body = sandbox(**more, status={"phase": "Ready", "podName": "p"})
    room.context.store.put("sandboxes", body)
    keeper = SandboxKeeper(room.context, room.control.pools, body, key(body))
    room.control.sandboxes[WHERE] = keeper, asyncio.get_running_loop().create_future()
    room.control._by_uid[keeper.sandbox.uid] = keeper
    room.context.store.owned.setdefault(keeper.sandbox.uid, {})["p"] = {"metadata": meta("p")}
    return keeper


@pytest.mark.parametrize("refilled", [False, True])
async def test_a_sandbox_that_is_filled_until_it_cannot_be_deleted_ends_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, refilled: bool
) -> None:
    async with leading(monkeypatch) as room:
        keeper = kept(room, maxLifetimeSeconds=1)
        room.context.store.put("tasks", task("waits"))
        full, changes, ends = [True], [], []

        async def get(request: web.Request) -> web.Response:
            return web.json_response(room.context.store.get("sandboxes", WHERE) or {})

        async def patch(request: web.Request) -> web.Response:
            change = await request.json()
            if request.path.endswith("/tasks/waits/status"):
                ends.append(change["status"]["state"])
                return web.json_response({**task("waits"), "status": change["status"]})
            if request.path.endswith("/status"):
                return refused(500, "InternalError", TOO_LARGE)
            changes.append(change)
            full[0] = refilled
            return web.json_response(room.context.store.get("sandboxes", WHERE))

        async def delete(request: web.Request) -> web.Response:
            if request.path.endswith("/sandboxes/sb") and full[0]:
                return refused(500, "InternalError", TOO_LARGE)
            return web.json_response({})

        async def never(_body: Any) -> None:
            await asyncio.Event().wait()

        room.server.handlers |= {"GET": get, "PATCH": patch, "DELETE": delete}
        monkeypatch.setattr(keeper._sandbox_link, "obtain", never)
        body = keeper.sandbox.body
        assert body is not None
        room.rounds._lifetime(keeper, body)
        await room.until(lambda: len(changes) == (2 if refilled else 1))
        await room.until(lambda: len(room.server.asked_for("DELETE", "/sandboxes/sb")) == (3 if refilled else 2))
        assert changes[0]["metadata"]["finalizers"] is None
        if refilled:
            await room.until(lambda: keeper._given_up is not None)
            running = asyncio.ensure_future(keeper.run())
            await room.until(lambda: ends and room.server.asked_for("DELETE", "/pods/p"))
            assert ends == ["Failed"]
            running.cancel()
        else:
            await asyncio.sleep(0.05)
            assert keeper._given_up is None
