"""The queue of a sandbox, under Tasks that somebody keeps changing and agents that lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from pytest_arl.agent import frames
from pytest_arl.cluster.objects import Key, condition, name, uid
from pytest_arl.cluster.pod import LEASE_LABEL, RUN_LABEL, WORKER_LABEL
from pytest_arl.cluster.proof import proof_of
from pytest_arl.operator import patience, task_message
from pytest_arl.operator.patience import MOST_IN_VAIN
from pytest_arl.operator.pod_problems import Problem
from pytest_arl.operator.sandbox_keeper import SandboxKeeper
from pytest_arl.operator.slim import is_cut
from tests.operator.api_server import refused
from tests.operator.control_room import Room, leading
from tests.operator.objects import command, owned_by, sandbox, task

pytestmark = pytest.mark.asyncio

WHERE = Key("ns", "sb")


class Link:
    """A link whose agent ends each Task at once, and knows of none that it was not given."""

    def __init__(self) -> None:
        self.hello = SimpleNamespace(boot="b", pod="p", running=None)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.given: list[str] = []
        self.asked: list[int] = []
        self._on_frame: Any = None

    def open(self, on_frame: Any, _allowed: int = 0) -> int:
        self._on_frame = on_frame
        return 1

    def shut(self, _stream: int) -> None:
        pass

    def send(self, kind: int, _stream: int, value: Any) -> None:
        self.asked.append(kind)
        if kind == frames.ATTACH:
            self._on_frame(frames.ERROR, {"text": "no such task"})
        elif kind == frames.TASK:
            self.given.append(value["id"])
            self._on_frame(frames.STEP, {"i": 0, "outcome": "Succeeded", "code": 0})
            self._on_frame(frames.DONE, {})

    def send_cancel(self, _task: str) -> None:
        pass

    async def ping(self) -> None:
        await asyncio.sleep(0)

    def close(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)


class Server:
    """Statuses as they are written; those of the contended Tasks are changed by somebody else before each."""

    def __init__(self, room: Room, body: Any) -> None:
        self.room = room
        self.objects = {name(body): body}
        self.contended: set[str] = set()
        self.changes: list[Any] = []
        self.filled: Callable[[Any], bool] = lambda _meta: False
        self.ends: list[tuple[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._version = 10_000_000
        room.server.handlers |= {"PATCH": self._patch, "GET": self._get}

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.objects[request.path.split("/")[7]])

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        which, change = request.path.split("/")[7], await request.json()
        body = self.objects[which]
        self._version += 1
        if not request.path.endswith("/status"):
            self.changes.append(change["metadata"])
            meta = {**body["metadata"], "resourceVersion": str(self._version)}
            meta |= change["metadata"]
            if taken := change["metadata"].get("labels"):
                meta["labels"] = {key: each for key, each in body["metadata"]["labels"].items() if key not in taken}
            self.objects[which] = {**body, "metadata": {key: each for key, each in meta.items() if each is not None}}
            return web.json_response(self.objects[which])
        if self.filled(body["metadata"]):
            return refused(500, "InternalError", "etcdserver: request is too large")
        if which in self.contended:
            body["metadata"]["resourceVersion"] = str(self._version)
            return refused(409, "Conflict")
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        said = {**(body.get("status") or {}), **change["status"]}
        meta = {**body["metadata"], "resourceVersion": str(self._version)}
        self.objects[which] = {**body, "metadata": meta, "status": said}
        if body["kind"] == "Task":
            reason = (condition(self.objects[which], "Failed") or {}).get("reason", "")
            self.ends.append((which, f"{said['state']} {reason}".strip()))
        return web.json_response(self.objects[which])

    def put(self, *tasks: Any) -> None:
        for each in tasks:
            self.objects[name(each)] = json.loads(json.dumps(each))
            self.room.context.store.put("tasks", each)


class Scene:
    """A keeper whose sandbox is ready, and what is around it."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch, **spec: Any) -> None:
        self.room, self._monkeypatch = room, monkeypatch
        self.body = sandbox(status={"phase": "Ready", "agentBootID": "b", "podName": "p"}, **spec)
        room.context.store.put("sandboxes", self.body)
        self.server = Server(room, self.body)
        self.keeper = SandboxKeeper(room.context, room.control.pools, self.body, WHERE)
        self.links: list[Link] = []
        self.lasting = 0
        """The first link that does not end at once."""
        monkeypatch.setattr(self.keeper._sandbox_link, "obtain", self._obtain)
        self._run: asyncio.Future[None] | None = None

    async def _obtain(self, _body: Any) -> Any:
        assert len(self.links) < 100, "it is connected to without end"
        link = Link()
        if len(self.links) < self.lasting:
            link.close("the agent went away")
        self.links.append(link)
        return link

    def start(self) -> None:
        self._run = asyncio.ensure_future(self.keeper.run())

    async def until_ended(self, *tasks: Any) -> None:
        wanted = {name(each) for each in tasks}
        await self.room.until(lambda: wanted <= {which for which, _ in self.server.ends})

    async def stop(self) -> None:
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait((self._run,))

    def own(self, which: str, *steps: Any, **more: Any) -> Any:
        """A Task of this sandbox."""
        found = task(which, *steps, **more)
        found["metadata"]["ownerReferences"] = owned_by("Sandbox", uid(self.body), "sb")
        return found


@pytest_asyncio.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with leading(monkeypatch) as room:
        found = Scene(room, monkeypatch)
        yield found
        await found.stop()


NOT_BASE64 = {"name": "a", "type": "FilePatch", "path": "a", "content": "!", "encoding": "base64"}


@pytest.mark.parametrize("count", [50, 400])
async def test_of_thousands_that_are_refused_one_is_looked_at_in_a_turn_and_each_a_few_times(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    made = looks = 0
    message, busy = task_message.message, scene.room.context.jobs.busy

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal made
        made += 1
        return message(*args, **more)

    def looked(named: Any) -> bool:
        nonlocal looks
        looks += 1
        return busy(named)

    monkeypatch.setattr(task_message, "message", counted)
    monkeypatch.setattr(scene.room.context.jobs, "busy", looked)
    tasks = [scene.own(f"t{number:04}") for number in range(count)]
    for each in tasks:
        each["spec"]["steps"] = [NOT_BASE64]
    scene.server.put(*tasks)
    scene.start()
    most = 0
    async with asyncio.timeout(30):
        while len(scene.server.ends) < count:
            before = made
            await asyncio.sleep(0)
            most = max(most, made - before)
    assert made == count, "control: each was looked at"
    assert most <= 2, "the others have turns between them"
    assert looks <= 10 * count
    assert scene.server.most_at_once <= 4
    assert {how for _, how in scene.server.ends} == {"Failed SpecInvalid"}


@pytest.mark.parametrize("why", ["malformed", "cancelled", "another's", "cancelled and another's"])
async def test_a_task_that_somebody_keeps_changing_holds_up_no_queue(scene: Scene, why: str) -> None:
    bad = [scene.own(f"a{number:02}") for number in range(20)]
    for each in bad:
        if why == "malformed":
            each["spec"]["steps"] = [NOT_BASE64]
        if "cancelled" in why:
            each["spec"]["cancel"] = True
        if "another's" in why:
            each["metadata"]["ownerReferences"] = owned_by("Sandbox", "u-another", "sb")
    good = scene.own("good")
    scene.server.contended = {name(each) for each in bad}
    scene.server.put(*bad, good)
    scene.start()
    await scene.until_ended(good)
    assert scene.server.ends == [("good", "Succeeded")]
    # Nor the ends of others that are refused: those that cannot be written make room.
    late = scene.own("late")
    late["spec"]["steps"] = [NOT_BASE64]
    scene.server.put(late)
    scene.keeper.task_changed(late)
    await scene.until_ended(late)
    assert scene.server.ends == [("good", "Succeeded"), ("late", "Failed SpecInvalid")]
    scene.server.contended.clear()
    await scene.until_ended(*bad)


async def test_a_task_without_a_proof_that_is_cancelled_costs_the_agent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with leading(monkeypatch) as room:
        scene = Scene(room, monkeypatch, holder={"sealedKey": "aa"})
        monkeypatch.setattr(room.context, "opened", lambda _sealed: b"k" * 32)
        cancelled = scene.own("cancelled", cancel=True)
        scene.server.put(cancelled)
        scene.start()
        await scene.until_ended(cancelled)
        assert scene.server.ends == [("cancelled", "Failed NotTheHolders")]
        assert [link.asked for link in scene.links] == [[]]
        await scene.stop()


@pytest.mark.parametrize("read", [True, False])
async def test_tasks_that_are_to_be_read_hold_up_no_queue_of_a_sandbox_that_is_held(
    monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """Anybody can make large ones, and those that come after many in a namespace."""
    async with leading(monkeypatch) as room:
        scene = Scene(room, monkeypatch, holder={"sealedKey": "aa"})
        monkeypatch.setattr(room.context, "opened", lambda _sealed: b"k" * 32)
        gate, reads, most = asyncio.Event(), 0, 0
        get = scene.server._get

        async def slow(request: web.Request) -> web.StreamResponse:
            nonlocal reads, most
            reads += 1
            most = max(most, reads)
            if "/tasks/large" in request.path:
                await gate.wait()
            reads -= 1
            return await get(request)

        room.server.handlers["GET"] = slow
        large = [scene.own(f"large{number:02}", command("s", "x" * 300_000)) for number in range(20)]
        mine, good = scene.own("mine-large", command("s", "x" * 300_000)), scene.own("z-good")
        mine["spec"]["steps"][0]["timeout"] = good["spec"]["steps"][0]["timeout"] = "60s"
        for each in large[1:]:
            each["spec"]["proof"] = "0" * 64
        for each in (mine, good):
            each["spec"]["proof"] = proof_of(b"k" * 32, uid(scene.body), name(each), each["spec"])
        scene.server.put(*large, mine, good)
        assert all(is_cut(each) for each in room.context.store.all("tasks") if name(each) != "z-good"), "control"
        scene.start()
        await scene.until_ended(good)
        assert set(scene.server.ends) <= {("z-good", "Succeeded"), (name(large[0]), "Failed NotTheHolders")}
        assert most <= 4
        if read:
            gate.set()
            await scene.until_ended(mine, *large)
            assert dict(scene.server.ends) == {
                "z-good": "Succeeded",
                "mine-large": "Succeeded",
                **{name(each): "Failed NotTheHolders" for each in large},
            }
            assert scene.links[0].given == [uid(good), uid(mine)], "the others never come to the agent"
            assert not room.server.asked_for("GET", name(large[0])), "it has no proof: that is enough"
        gate.set()
        await scene.stop()


async def test_a_task_that_is_cancelled_before_it_began_ends_so(scene: Scene) -> None:
    cancelled = scene.own("cancelled", cancel=True)
    scene.server.put(cancelled)
    scene.start()
    await scene.until_ended(cancelled)
    assert scene.server.ends == [("cancelled", "Failed Cancelled")]
    assert scene.links[0].asked == [frames.ATTACH]


@pytest.mark.parametrize("count", [8, 9])
async def test_a_result_that_somebody_keeps_from_being_written_holds_up_no_queue_until_there_are_many(
    scene: Scene, count: int
) -> None:
    """A result has its output, and waits in memory."""
    contended, good = [scene.own(f"a{number}") for number in range(count)], scene.own("good")
    scene.server.contended = {name(each) for each in contended}
    scene.server.put(*contended, good)
    scene.start()
    if count <= 8:
        await scene.until_ended(good)
        assert scene.server.ends == [("good", "Succeeded")]
    else:
        await scene.room.until(lambda: len(scene.links) == 1 and len(scene.links[0].given) == count)
        await asyncio.sleep(0.5)
        assert uid(good) not in scene.links[0].given
    scene.server.contended.clear()
    await scene.until_ended(good, *contended)
    assert sorted(scene.links[0].given) == sorted(uid(each) for each in [*contended, good]), "each ran once"


async def test_a_sandbox_that_has_failed_lets_its_pod_go_whoever_changes_its_tasks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []

    async def delete_pod(body: Any) -> None:
        deleted.append(name(body))

    monkeypatch.setattr(scene.room.context, "delete_pod", delete_pod)
    pod = {"metadata": {"name": "p"}}
    scene.room.context.store.owned.setdefault(uid(scene.body), {})["p"] = pod
    first, second = scene.own("a"), scene.own("b")
    scene.server.contended = {"a"}
    scene.server.put(first, second)
    failed = {**scene.body, "metadata": {**scene.body["metadata"], "resourceVersion": "9999999"}}
    scene.room.context.store.put("sandboxes", failed | {"status": {**scene.body["status"], "phase": "Failed"}})
    scene.start()
    await scene.until_ended(second)
    assert deleted[:1] == ["p"]
    assert scene.server.ends == [("b", "Failed SandboxFailed")]
    scene.server.contended.clear()
    await scene.until_ended(first)


@pytest.mark.parametrize(("lasting", "given_up"), [(MOST_IN_VAIN, False), (MOST_IN_VAIN + 1, True)])
async def test_an_agent_whose_links_never_stay_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lasting: int, given_up: bool
) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.001)
    scene.lasting = lasting
    good = scene.own("good")
    scene.start()
    await scene.room.until(lambda: len(scene.links) == MOST_IN_VAIN + 1)
    scene.server.put(good)
    scene.keeper.task_changed(good)
    await scene.until_ended(good)
    assert scene.server.ends == [("good", "Failed SandboxFailed" if given_up else "Succeeded")]
    assert len(scene.links) == MOST_IN_VAIN + 1
    told = condition(scene.server.objects["sb"], "Ready") or {}
    assert (told.get("reason") == "AgentUnreachable") is given_up


MINE = {RUN_LABEL: "r", WORKER_LABEL: "w", LEASE_LABEL: "arl-l"}
FILL = {
    "finalizers": ["example.com/" + "x" * 50],
    "annotations": {"a": "x"},
    "managedFields": [{"manager": "x"}],
    "labels": {**MINE, "example.com/x": "y"},
    "ownerReferences": [*owned_by("Node", "u-n"), *owned_by("Lease", "u-lease")],
}


@pytest.mark.parametrize("by", [*FILL, "nothing that is taken off it"])
async def test_who_waits_for_a_sandbox_that_somebody_filled_is_told_of_its_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    deleted: list[str] = []

    async def delete_pod(body: Any) -> None:
        deleted.append(name(body))

    monkeypatch.setattr(scene.room.context, "delete_pod", delete_pod)
    scene.room.context.store.owned.setdefault(uid(scene.body), {})["p"] = {"metadata": {"name": "p"}}
    full = FILL | ({} if by in FILL else {"generateName": "x"})
    scene.server.objects["sb"] = {**scene.body, "metadata": {**scene.body["metadata"], **full}}
    part, filled = (by, FILL.get(by)) if by in FILL else ("generateName", "x")
    scene.server.filled = lambda meta: meta["name"] == "sb" and meta.get(part) == filled
    scene.room.server.handlers |= {"POST": _made, "DELETE": _made}
    waits, late = scene.own("waits"), scene.own("late")
    scene.server.put(waits)
    monkeypatch.setattr(
        scene.keeper._sandbox_link, "obtain", lambda _body: scene.keeper.sandbox.fail(Problem("OOMKilled", "it ended"))
    )
    scene.start()
    await scene.until_ended(waits)
    await scene.room.until(lambda: scene.server.changes)
    scene.server.put(late)
    scene.keeper.task_changed(late)
    await scene.until_ended(late)
    assert [how for _, how in scene.server.ends] == ["Failed SandboxFailed"] * 2
    assert deleted[:1] == ["p"]
    there = scene.server.objects["sb"]
    if by in FILL:
        await scene.room.until(lambda: scene.server.objects["sb"]["status"]["phase"] == "Failed")
        assert there["metadata"]["labels"] == MINE, "by these its client finds it"
        assert [each["uid"] for each in there["metadata"]["ownerReferences"]] == ["u-lease"]
        assert not scene.room.server.asked_for("DELETE")
    else:
        await scene.room.until(lambda: scene.room.server.asked_for("DELETE", "/sandboxes/sb"))
        assert len(scene.server.changes) == 3


async def _made(_request: web.Request) -> web.StreamResponse:
    return web.json_response({}, status=201)


class SilentLink(Link):
    """A link whose agent takes a Task and never ends it."""

    def send(self, kind: int, stream: int, value: Any) -> None:
        if kind == frames.TASK:
            self.asked.append(kind)
            self.given.append(value["id"])
        else:
            super().send(kind, stream, value)


@pytest.mark.parametrize("how", ["deleted", "failed", "neither"])
async def test_a_sandbox_that_a_finalizer_keeps_ends_the_task_that_runs_in_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("tests.operator.test_sandbox_keeper.Link", SilentLink)
    control, running = scene.room.control, scene.own("a", command("sleep", "600"))
    scene.server.put(running)
    scene.start()
    await scene.room.until(lambda: bool(scene.links and scene.links[0].given))
    control.sandboxes[WHERE] = scene.keeper, asyncio.get_running_loop().create_future()
    body = json.loads(json.dumps({**scene.body, "status": {**scene.body["status"]}}))
    body["metadata"]["resourceVersion"] = "9999999"
    if how == "deleted":
        body["metadata"] |= {"deletionTimestamp": "2026-11-30T12:00:00Z", "finalizers": ["x.y/z"]}
    elif how == "failed":
        body["status"]["phase"] = "Failed"
    scene.room.context.store.put("sandboxes", body)
    control._keep(body)
    if how == "neither":
        await asyncio.sleep(0.2)
        assert not scene.links[0].lost.done()
    else:
        await scene.until_ended(running)
        assert scene.server.ends[-1] == ("a", "Failed SandboxLost")
        assert len(scene.links) == 1
