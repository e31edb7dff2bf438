"""What asks the API server, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from pytest_arl.cluster.kinds import UnsafeName, path
from pytest_arl.cluster.objects import MOST_MESSAGE
from pytest_arl.operator import async_api as api_module
from pytest_arl.operator.api_errors import ApiError
from tests.operator.api_server import refused, serving

pytestmark = pytest.mark.asyncio

PODS = "/api/v1/namespaces/ns/pods"


@pytest.mark.parametrize("name", ["..", ".", ""])
async def test_a_name_that_leads_elsewhere_is_no_segment_of_a_path(name: str) -> None:
    with pytest.raises(UnsafeName):
        path("sandboxes", "ns", name)
    with pytest.raises(UnsafeName):
        path("sandboxes", name, "sb")


async def test_a_name_arrives_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):

        async def one(_: web.Request) -> web.Response:
            return web.json_response({"metadata": {}})

        server.handlers["GET"] = one
        for name in ("../../../healthz", "a?watch=1", "a#b", "%2e%2e", "a b"):
            await api.get(path("pods", "ns", name))
            assert server.asked[-1][1:] == (f"{PODS}/{name}", {})


async def test_a_list_comes_in_pages_that_grow_while_they_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        server.objects[PODS] = [{"metadata": {"name": str(number)}} for number in range(200)]
        found = [each["metadata"]["name"] async for page, _ in api.pages(PODS) for each in page]
        assert found == [str(number) for number in range(200)]
        assert [int(query["limit"]) for _, _, query in server.asked] == [16, 32, 64, 128]


async def test_pages_of_large_objects_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        server.objects[PODS] = [{"metadata": {"name": "x" * 1_400_000}} for _ in range(40)]
        assert [len(page) async for page, _ in api.pages(PODS)] == [1] * 40
        assert [int(query["limit"]) for _, _, query in server.asked][:4] == [16, 4, 1, 1]


async def test_no_page_is_read_that_fills_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages grow over small objects, and large ones follow: whoever makes them chooses their names."""
    async with serving(monkeypatch) as (server, api):
        small = [{"metadata": {"name": f"a{number}"}} for number in range(500)]
        large = [{"metadata": {"name": f"z{number}", "annotations": {"a": "<" * 700_000}}} for number in range(20)]
        server.objects[PODS] = small + large
        sizes, names = [], []
        async for page, _ in api.pages(PODS):
            sizes.append(len(json.dumps(page)))
            names += [each["metadata"]["name"] for each in page]
        assert names == [each["metadata"]["name"] for each in small + large]
        assert max(sizes) < 2.1 * 1024**2


async def test_an_object_that_is_longer_than_any_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.operator.async_api._MOST_ANSWER", 100_000)
    async with serving(monkeypatch) as (server, api):
        server.objects[PODS] = [{"metadata": {"name": "x" * 99_000}}]
        assert len(await api.items(PODS)) == 1
        server.objects[PODS] = [{"metadata": {"name": "x" * 100_000}}]
        monkeypatch.setattr("pytest_arl.operator.async_api._FIRST_PAGE", 1)
        with pytest.raises(ApiError, match="exceeds the limit"):
            await api.items(PODS)
        assert len(server.asked) == 2, "it is not asked for again"


async def test_of_a_list_only_so_many_are_kept_and_of_each_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        server.objects[PODS] = [{"metadata": {"name": str(number)}, "spec": "x" * 100} for number in range(1500)]
        found = await api.items(PODS, lambda each: each["metadata"])
        assert [each["name"] for each in found] == [str(number) for number in range(1000)]


async def test_a_status_is_made_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many may wait for their namespace's turn, and each be megabytes."""
    async with serving(monkeypatch) as (server, api):
        stuck, made = asyncio.Event(), []

        async def patch(request: web.Request) -> web.Response:
            await stuck.wait()
            return web.json_response(await request.json())

        def status() -> dict[str, Any]:
            made.append(1)
            return {"state": "Running"}

        server.handlers["PATCH"] = patch
        body = {"metadata": {"namespace": "ns", "name": "t", "uid": "u", "resourceVersion": "1"}}
        writing = [asyncio.ensure_future(api.write_status("tasks", body, status)) for _ in range(50)]
        await asyncio.sleep(0.2)
        assert len(made) == 12
        stuck.set()
        assert all(each["status"] == {"state": "Running"} for each in await asyncio.gather(*writing))


async def test_what_is_too_large_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        for status, message in ((500, "etcdserver: request is too large"), (413, "Request entity too large")):
            answer = refused(status, "Error", message)
            server.handlers["PATCH"] = partial(_later, answer)
            server.asked.clear()
            with pytest.raises(ApiError) as caught:
                await api.patch(PODS, {})
            assert caught.value.too_large
            assert len(server.asked) == 1


async def test_another_error_of_the_servers_own_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        answers = [refused(500, "InternalError", "etcd has no leader"), web.json_response({"metadata": {}})]
        server.handlers["PATCH"] = lambda _: _later(answers.pop(0))
        assert await api.patch(PODS, {}) == {"metadata": {}}
        assert len(server.asked) == 2


async def test_requests_about_one_namespace_leave_connections_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        stuck = asyncio.Event()

        async def slow(request: web.Request) -> web.Response:
            if "/mallory/" in request.path:
                await stuck.wait()
            return web.json_response({"metadata": {}})

        server.handlers["GET"] = slow
        crowd = [asyncio.ensure_future(api.get(path("pods", "mallory", f"p{number}"))) for number in range(100)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await api.get(path("pods", "victim", "p"))
            await api.get("/readyz")
        assert len(server.asked_for("GET", "mallory")) < 24
        stuck.set()
        await asyncio.gather(*crowd)


async def test_events_come_however_their_bytes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        events = [{"type": "ADDED", "object": {"n": number, "text": "x" * number * 40_000}} for number in range(4)]

        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            data = b"".join(json.dumps(each).encode() + b"\n" for each in events)
            for at in range(0, len(data), 7001):
                await response.write(data[at : at + 7001])
            return response

        server.handlers["GET"] = stream
        assert [each async for each in api.watch(PODS, "7")] == events
        query = server.asked[0][2]
        assert (query["watch"], query["resourceVersion"]) == ("true", "7")


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [30, 2_000, 9_990])
async def test_an_object_that_nests_deep_hides_none_beside_it(monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    async with serving(monkeypatch) as (server, api):
        deep = '{"metadata": {"name": "deep"}, "spec": ' + nested(depth) + "}"
        objects = [deep, '{"metadata": {"name": "plain"}}']

        async def answer(request: web.Request) -> web.Response:
            if "watch" in request.query:
                text = "".join('{"type": "ADDED", "object": ' + each + "}\n" for each in objects)
            else:
                text = '{"metadata": {"resourceVersion": "7"}, "items": [' + ", ".join(objects) + "]}"
            return web.Response(text=text, content_type="application/json")

        server.handlers["GET"] = answer
        listed = [each["metadata"]["name"] async for page, _ in api.pages(PODS) for each in page]
        seen = [each["object"]["metadata"]["name"] async for each in api.watch(PODS, "7")]
        assert listed == seen == ["deep", "plain"]


async def test_an_answer_that_is_none_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same would come again: a start that waited for that would be late for all."""
    async with serving(monkeypatch) as (server, api):
        asked: list[str] = []

        async def answer(request: web.Request) -> web.Response:
            asked.append(request.path)
            return web.Response(text="{'no': json}", content_type="application/json")

        server.handlers["GET"] = answer
        with pytest.raises(ApiError, match="not a JSON object"):
            await api.get(PODS)
        assert len(asked) == 1


@pytest.mark.parametrize("part", [b'"f:a\xff\xfeb"', b'"\\ud800"', b'"\x7f"'])
async def test_bytes_that_no_type_of_the_server_has_checked_hide_nothing(
    monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    """It gives managedFields back as their maker sent them."""
    async with serving(monkeypatch) as (server, api):
        odd = b'{"metadata": {"name": "odd", "managedFields": [{"fieldsV1": {' + part + b": " + b"9" * 5_000 + b"}}]}}"

        async def answer(request: web.Request) -> web.Response:
            if "watch" in request.query:
                text = b'{"type": "ADDED", "object": ' + odd + b"}\n"
            else:
                text = b'{"metadata": {"resourceVersion": "7"}, "items": [' + odd + b"]}"
            return web.Response(body=text, content_type="application/json")

        server.handlers["GET"] = answer
        listed = [each["metadata"]["name"] async for page, _ in api.pages(PODS) for each in page]
        seen = [each["object"]["metadata"]["name"] async for each in api.watch(PODS, "7")]
        assert listed == seen == ["odd"]


async def test_no_more_than_two_large_answers_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.operator.async_api._MOST_PAGE_BYTES", 1_000)
    monkeypatch.setattr("pytest_arl.operator.async_api._FIRST_PAGE", 1)
    async with serving(monkeypatch) as (server, api):
        body = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "x" * 5_000}}]}
        held = most = 0

        async def answer(_request: web.Request) -> web.Response:
            nonlocal held, most
            held += 1
            most = max(most, held)
            await asyncio.sleep(0.02)
            held -= 1
            return web.json_response(body)

        server.handlers["GET"] = answer
        assert [len(found) for found in await asyncio.gather(*(api.items(PODS) for _ in range(8)))] == [1] * 8
        assert most == 2


async def test_an_event_without_an_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.operator.async_api._MOST_ANSWER", 100_000)
    async with serving(monkeypatch) as (server, api):

        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(1000):
                await response.write(b"x" * 1000)
            return response

        server.handlers["GET"] = endless
        with pytest.raises(ApiError, match="cut off"):
            [each async for each in api.watch(PODS, "7")]


async def _later(answer: web.Response, _request: object = None) -> web.Response:
    return answer


TASKS = "/apis/arl.infra.io/v1alpha1/namespaces/ns/tasks"


class Stored:
    """One Task, as an API server keeps it: a status of another version is refused, whatever UID it is for."""

    def __init__(self, name: str, uid: str, version: int) -> None:
        self.body: dict[str, Any] = {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version)}}
        self.meanwhile = 0
        self.written: list[Any] = []

    async def patch(self, request: web.Request) -> web.Response:
        change = await request.json()
        meta = self.body["metadata"]
        if self.meanwhile:
            self.meanwhile -= 1
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        if change["metadata"].get("resourceVersion") not in (None, meta["resourceVersion"]):
            return refused(409, "Conflict", "the object has been modified")
        self.written.append(change["status"])
        return web.json_response(self.body | {"status": change["status"]})

    async def get(self, _request: web.Request) -> web.Response:
        return web.json_response(self.body)


def task_of(uid: str, version: int) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": "t", "uid": uid, "resourceVersion": str(version)}}


async def test_a_status_is_never_anothers_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (server, api):
        anothers = Stored("t", "another", 12)
        server.handlers |= {"PATCH": anothers.patch, "GET": anothers.get}
        with pytest.raises(ApiError) as caught:
            await api.write_status("tasks", task_of("mine", 7), {"state": "Succeeded"})
        assert caught.value.status == 404
        assert anothers.written == []


@pytest.mark.parametrize("others", [0, 1, 7])
async def test_a_status_is_written_after_what_others_write(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    async with serving(monkeypatch) as (server, api):
        stored = Stored("t", "mine", 7)
        stored.meanwhile = others
        server.handlers |= {"PATCH": stored.patch, "GET": stored.get}
        found = await api.write_status("tasks", task_of("mine", 7), {"state": "Succeeded"})
        assert found["status"] == {"state": "Succeeded"}
        assert stored.written == [{"state": "Succeeded"}]
        assert server.asked[0][1] == f"{TASKS}/t/status"


async def test_constant_writes_to_a_task_keep_its_status_out_and_no_queue_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (server, api):
        stored = Stored("t", "mine", 7)
        stored.meanwhile = 1000
        server.handlers |= {"PATCH": stored.patch, "GET": stored.get}
        with pytest.raises(ApiError) as caught:
            await api.write_status("tasks", task_of("mine", 7), {})
        assert (caught.value.status, caught.value.reason) == (0, "Contended")
        assert len(server.asked) <= 16


@pytest.mark.parametrize("size", [MOST_MESSAGE, MOST_MESSAGE + 1, 2_000_000])
async def test_of_a_refusal_so_much_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """It quotes what a tenant wrote into an object."""
    async with serving(monkeypatch) as (server, api):

        async def refuse(_: web.Request) -> web.Response:
            return refused(422, "x" * 1000, "y" * size)

        server.handlers["POST"] = refuse
        with pytest.raises(ApiError) as caught:
            await api.create(PODS, {})
        assert len(caught.value.message) == len(str(caught.value)) == min(size, MOST_MESSAGE)
        assert caught.value.message.endswith("y")
        assert (" ... " in caught.value.message) == (size > MOST_MESSAGE)
        assert len(caught.value.reason) == 128


async def test_a_refusal_is_safe_to_print_and_too_large_wherever_it_says_so() -> None:
    assert ApiError(422, "Invalid", "a\x1b[2J").message == "a\\x1b[2J"
    late = "x" * MOST_MESSAGE + "etcdserver: request is too large"
    assert ApiError(500, "InternalError", late).too_large
    assert not ApiError(500, "InternalError", "x" * MOST_MESSAGE).too_large
    assert not ApiError(422, "Invalid", late).too_large


async def test_an_object_is_no_text_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace's requests wait for each other; two hundred objects of 1.5 MB waited as bytes."""
    made: list[int] = []
    text = api_module._text

    def counted(body: Any) -> bytes:
        made.append(1)
        return text(body)

    monkeypatch.setattr(api_module, "_text", counted)
    async with serving(monkeypatch) as (server, api):
        free = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await free.wait()
            return web.json_response({"metadata": {}})

        server.handlers["POST"] = slow
        asking = [asyncio.ensure_future(api.create(PODS, {})) for _ in range(50)]
        async with asyncio.timeout(10):
            while len(server.asked) < 12:
                await asyncio.sleep(0.01)
        assert len(made) == 12
        free.set()
        await asyncio.gather(*asking)
        assert len(made) == 50


async def test_whether_an_object_would_be_taken_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run may take the server longer than anybody waits; asked again, it takes that again."""
    async with serving(monkeypatch) as (server, api):

        async def late(_: web.Request) -> web.Response:
            return refused(504, "Timeout")

        server.handlers["POST"] = late
        with pytest.raises(ApiError) as caught:
            await api.try_out(PODS, {})
        assert caught.value.status == 504
        assert server.asked == [("POST", PODS, {"dryRun": "All", "fieldValidation": "Strict"})]
