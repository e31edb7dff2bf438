"""managedFields that somebody has filled are emptied before their object is written to, by a program that answers as an
API server does: it refuses a version that is not the last.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.operator.managed_fields import MOST_NAMES, ManagedFields
from tests.operator.api_server import ApiServer, refused, serving

pytestmark = pytest.mark.asyncio

TASKS = "/apis/arl.infra.io/v1alpha1/namespaces/ns/tasks"


def fields(names: int) -> list[dict[str, Any]]:
    """So many names, two levels and the manager's own five among them."""
    inner: dict[str, dict[str, Any]] = {f"f:{number:05}": {} for number in range(names - 6)}
    return [{"manager": "m", "operation": "Update", "apiVersion": "v", "fieldsV1": {"f:spec": inner}, "time": "t"}]


def body(names: int, uid: str = "u", **more: Any) -> dict[str, Any]:
    meta = {"name": "t", "namespace": "ns", "uid": uid, "resourceVersion": "7", "managedFields": fields(names)}
    return {"metadata": meta | more}


def noted(found: dict[str, Any]) -> ManagedFields:
    its = ManagedFields()
    its.note(found, len(json.dumps(found)))
    return its


@pytest.mark.parametrize("more", [0, 1])
async def test_more_names_than_anybody_needs_are_too_many(more: int) -> None:
    found = body(MOST_NAMES + more)
    assert noted(found).are_crowded("u") is bool(more)
    its = noted({"items": [body(10, "a"), found, body(MOST_NAMES + 1, "b")]})
    assert [its.are_crowded(each) for each in "uab"] == [bool(more), False, True]


async def test_the_shortest_names_are_counted() -> None:
    names: dict[str, dict[str, Any]] = {
        f"f:{chr(32 + number // 95)}{chr(32 + number % 95)}": {} for number in range(MOST_NAMES + 1)
    }
    found = {"metadata": {"uid": "u", "managedFields": [{"fieldsV1": names}]}}
    its = ManagedFields()
    its.note(found, len(json.dumps(found, separators=(",", ":"))))
    assert its.are_crowded("u")


async def test_an_object_that_was_emptied_is_one_like_the_others() -> None:
    its = noted(body(MOST_NAMES + 1))
    its.note(body(3), 100)
    assert not its.are_crowded("u")


@pytest.mark.parametrize(
    "found",
    [
        {"items": [None, 3, {"metadata": None}, {"metadata": {"uid": 5}}]},
        {"items": None},
        {"metadata": {"uid": "u", "managedFields": None}},
        {"metadata": {"uid": "u", "managedFields": [None, 3, {"fieldsV1": None}]}},
    ],
)
async def test_an_answer_of_another_shape_is_none_of_them(found: dict[str, Any]) -> None:
    its = ManagedFields()
    its.note(found, 10**6)
    assert not its.are_crowded("u")


async def test_of_objects_that_come_and_go_so_many_are_remembered() -> None:
    its = ManagedFields()
    large = fields(MOST_NAMES + 1)
    for number in range(10_003):
        its.note({"metadata": {"uid": f"u{number}", "managedFields": large}}, 10**6)
    assert [its.are_crowded(f"u{number}") for number in (0, 2, 3, 10_002)] == [False, False, True, True]


class Stored:
    """One object, as an API server keeps it."""

    def __init__(self, names: int, server: ApiServer) -> None:
        self.body = body(names)
        self.status = 200
        server.handlers |= {"PATCH": self.patch, "GET": self.get}

    async def patch(self, request: web.Request) -> web.Response:
        meta, change = self.body["metadata"], await request.json()
        if "managedFields" in change["metadata"] and self.status != 200:
            return refused(self.status, "Refused")
        if change["metadata"].get("resourceVersion") not in (None, meta["resourceVersion"]):
            return refused(409, "Conflict")
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        if change["metadata"].get("managedFields") == [{}]:
            meta["managedFields"] = []
        elif len(meta["managedFields"]) < 1:
            meta["managedFields"] = fields(10)
        return web.json_response(self.body)

    async def get(self, _request: web.Request) -> web.Response:
        return web.json_response(self.body)


def written(server: ApiServer) -> list[str]:
    """What was asked for, in order: each write, and whether it empties."""
    rows = zip(server.asked, server.bodies, strict=True)
    return [
        "empty" if "managedFields" in sent["metadata"] else path.removeprefix(TASKS)
        for (method, path, _), sent in rows
        if method == "PATCH"
    ]


@pytest.mark.parametrize("more", [0, 1])
async def test_a_status_is_written_to_an_object_that_was_emptied(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    async with serving(monkeypatch) as (server, api):
        stored = Stored(MOST_NAMES + more, server)
        task = await api.get(f"{TASKS}/t")
        await api.write_status("tasks", task, {"state": "Failed"})
        await api.write_status("tasks", stored.body, {"state": "Failed"})
        assert written(server) == ["empty"] * more + ["/t/status"] * 2


@pytest.mark.parametrize("named", [{}, {"resourceVersion": "7"}])
async def test_a_patch_of_a_version_is_one_of_that_which_emptying_made(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    async with serving(monkeypatch) as (server, api):
        Stored(MOST_NAMES + 1, server)
        await api.get(f"{TASKS}/t")
        await api.patch(f"{TASKS}/t", {"metadata": {"uid": "u", **named, "labels": {}}})
        assert written(server) == ["empty", "/t"]
        assert [each["metadata"].get("resourceVersion") for each in server.bodies[1:]] == (
            ["7", "8"] if named else [None, None]
        )


async def test_a_patch_that_empties_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        Stored(MOST_NAMES + 1, server)
        await api.get(f"{TASKS}/t")
        await api.patch(f"{TASKS}/t", {"metadata": {"uid": "u", "managedFields": [{}]}})
        assert written(server) == ["empty"]


@pytest.mark.parametrize("status", [403, 404, 409, 422])
async def test_where_emptying_is_refused_the_write_itself_says_so(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    async with serving(monkeypatch) as (server, api):
        Stored(MOST_NAMES + 1, server).status = status
        await api.write_status("tasks", await api.get(f"{TASKS}/t"), {"state": "Failed"})
        assert written(server) == ["empty", "/t/status"]


async def test_what_a_watch_tells_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        stored = body(MOST_NAMES + 1)

        async def watch(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(json.dumps({"type": "ADDED", "object": stored}).encode() + b"\n")
            return response

        server.handlers["GET"] = watch
        assert [each["type"] async for each in api.watch(TASKS, "7")] == ["ADDED"]
        Stored(MOST_NAMES + 1, server)
        await api.write_status("tasks", stored, {})
        assert written(server) == ["empty", "/t/status"]
