"""A cluster in this process: an API server over HTTP that keeps objects in memory, and pods that are ``agents.Player``.

It has what the operator asks of one: lists, merge patches with preconditions, deletion, status subresources that are
checked by the schemas. A pod runs as soon as it is made; its agent listens at an address of its own on loopback.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from pytest_arl.cluster.names import MOST_STATUS_BYTES
from pytest_arl.cluster.pod import POOL_LABEL, STATUS_IDLE, STATUS_LABEL
from tests.cluster.hostile.agents import Player
from tests.cluster.hostile.schema import SCHEMAS, faults

__all__ = ["SmallCluster", "small_cluster"]

Json = dict[str, Any]
Result = TypeVar("Result")
Where = tuple[str, str]
_API = "arl.infra.io/v1alpha1"
_KINDS = {
    "warmpools": (_API, "WarmPool"),
    "sandboxes": (_API, "Sandbox"),
    "tasks": (_API, "Task"),
    "pods": ("v1", "Pod"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "deployments": ("apps/v1", "Deployment"),
    "replicasets": ("apps/v1", "ReplicaSet"),
    "events": ("v1", "Event"),
}


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class SmallCluster:
    """Objects, and what becomes of them.

    Attributes:
        port: where every agent listens.
        scripts: by the name of a Sandbox, what the agent of a pod that is made for it plays.
        invalid: statuses that were refused, with what is wrong with them.
        watch: is told of each change: kind, whether it is gone, the object.
    """

    def __init__(self, config: Path) -> None:
        self.scripts: dict[str, Any] = {}
        self.invalid: list[str] = []
        self.watch: Callable[[str, bool, Json], None] = lambda *_: None
        self.port = 0
        self.players: dict[str, Player] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._config = config
        self._objects: dict[str, dict[Where, Json]] = {kind: {} for kind in _KINDS}
        self._jobs: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._addresses = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # For tests

    def create(self, kind: str, body: Json) -> Json:
        """Make an object."""
        return self._call(lambda: self._create(kind, body))

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """An object as it is."""
        return self._call(lambda: copy.deepcopy(self._objects[kind].get((namespace, name))))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, if it is there."""

        def delete() -> None:
            if (namespace, name) in self._objects[kind]:
                self._delete(kind, (namespace, name))

        self._call(delete)

    def player(self, pod: str) -> Player:
        """The agent in mallory's pod."""
        return self._call(lambda: self.players[self._objects["pods"]["mallory", pod]["metadata"]["uid"]])

    def change(self, kind: str, namespace: str, name: str, change: Json) -> None:
        """Merge a change into an object."""
        self._call(lambda: self._patch(kind, (namespace, name), change, None))

    def idle_pod(self, namespace: str, pool: str, script: Any) -> Json:
        """A pod of the pool's own Deployment, with that agent in it."""
        return self._call(lambda: self._idle_pod(namespace, pool, script))

    def _idle_pod(self, namespace: str, pool: str, script: Any) -> Json:
        deployment = self._objects["deployments"][namespace, pool]
        name = f"{pool}-{next(self._numbers)}"
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": pool, "uid": deployment["metadata"]["uid"]}
        replica_set = self._objects["replicasets"].get((namespace, f"{pool}-5d4f"))
        if replica_set is None:
            its = {
                "name": f"{pool}-5d4f",
                "namespace": namespace,
                "ownerReferences": [owner | {"controller": True}],
            }
            replica_set = self._create("replicasets", {"metadata": its, "spec": {}})
        owner = {"kind": "ReplicaSet", "name": f"{pool}-5d4f", "uid": replica_set["metadata"]["uid"]}
        template = deployment["spec"]["template"]
        meta: Json = {
            "name": name,
            "namespace": namespace,
            "labels": {**template["metadata"].get("labels", {}), POOL_LABEL: pool, STATUS_LABEL: STATUS_IDLE},
            "ownerReferences": [{"apiVersion": "apps/v1", "controller": True, **owner}],
        }
        spec = {key: each for key, each in template["spec"].items() if key != "schedulingGates"}
        return self._create("pods", {"metadata": meta, "spec": spec}, script)

    # The thread

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _call(self, what: Callable[[], Result]) -> Result:
        """Do something there and wait for it."""

        async def do() -> Result:
            return what()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    def _run(self) -> None:
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _close(self) -> None:
        for server in self._servers.values():
            server.close()
        await self._http.cleanup()

    async def _listen(self) -> None:
        application = web.Application(client_max_size=4 * 1024**2)
        application.router.add_route("*", "/{rest:.*}", self._handle)
        runner = self._http = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        (address,) = runner.addresses
        reserved = await asyncio.start_server(lambda *_: None, "127.7.0.0", 0)
        self._servers["reserved"] = reserved
        self.port = reserved.sockets[0].getsockname()[1]
        names = {"cluster": "small", "user": "operator"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "small",
            "contexts": [{"name": "small", "context": names}],
            "clusters": [{"name": "small", "cluster": {"server": f"http://127.0.0.1:{address[1]}"}}],
            "users": [{"name": "operator", "user": {"token": "operator"}}],
        }
        self._config.write_text(json.dumps(config))

    # Objects

    def _create(self, kind: str, body: Json, script: Any = None) -> Json:
        version, name = _KINDS[kind]
        meta = body["metadata"]
        where = meta["namespace"], meta["name"]
        if where in self._objects[kind]:
            raise _Refused(409, "AlreadyExists")
        number = next(self._numbers)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = copy.deepcopy(body) | {"apiVersion": version, "kind": name}
        body["metadata"] |= {"uid": f"uid-{number}", "creationTimestamp": moment, "generation": 1}
        if kind == "pods":
            self._run_pod(body, script)
        self._changed(kind, where, body)
        return copy.deepcopy(body)

    def _run_pod(self, body: Json, script: Any) -> None:
        number = next(self._addresses)
        address = f"127.7.{number // 250 % 250}.{1 + number % 250}"
        owner = (body["metadata"].get("ownerReferences") or [{}])[0]
        if script is None:
            script = self.scripts.get(owner.get("name", ""), {})
        body["spec"].pop("schedulingGates", None)
        body["status"] = {
            "podIP": address,
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": body["metadata"]["creationTimestamp"]}
            ],
        }
        player = self.players[body["metadata"]["uid"]] = Player(body["metadata"]["uid"], script)

        async def serve() -> None:
            self._servers[player.pod] = await asyncio.start_server(player.serve, address, self.port)

        job = self._loop.create_task(serve())  # the pod is ready a moment before its agent listens
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    def _changed(self, kind: str, where: Where, body: Json) -> None:
        body["metadata"]["resourceVersion"] = str(next(self._numbers))
        self._objects[kind][where] = body
        self.watch(kind, False, copy.deepcopy(body))

    def _delete(self, kind: str, where: Where) -> Json:
        body = self._objects[kind].pop(where)
        if kind == "pods":
            server = self._servers.pop(body["metadata"]["uid"], None)
            if server is not None:
                server.close()
            self.players.pop(body["metadata"]["uid"], None)
        body["metadata"]["resourceVersion"] = str(next(self._numbers))
        self.watch(kind, True, copy.deepcopy(body))
        if kind == "sandboxes":  # as the garbage collector does
            for task in [each for each in self._objects["tasks"].values() if self._is_of(each, body)]:
                self._delete("tasks", (where[0], task["metadata"]["name"]))
        return body

    def _is_of(self, body: Json, owner: Json) -> bool:
        references = body["metadata"].get("ownerReferences") or ()
        return any(each["uid"] == owner["metadata"]["uid"] for each in references)

    def _patch(self, kind: str, where: Where, change: Json, sub: str | None) -> Json:
        before = self._objects[kind].get(where)
        if before is None:
            raise _Refused(404, "NotFound")
        meta = change.get("metadata") or {}
        if any(meta.get(key) not in (None, before["metadata"][key]) for key in ("uid", "resourceVersion")):
            raise _Refused(409, "Conflict")
        if sub == "status":
            change = {"status": change.get("status")}
        after: Json = _merged(before, change)
        if sub == "status" and kind in SCHEMAS:
            self._check_status(kind, where, after["status"])
        self._changed(kind, where, after)
        return after

    def _check_status(self, kind: str, where: Where, status: Json) -> None:
        wrong = list(faults(SCHEMAS[kind]["properties"]["status"], status, "status"))
        size = len(json.dumps(status, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if size > MOST_STATUS_BYTES:
            wrong.append(f"status has {size} bytes")
        if wrong:
            self.invalid.append(f"{kind} {'/'.join(where)}: {'; '.join(wrong)[:500]}")
            raise _Refused(422, "Invalid")

    # HTTP

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            raw = await request.read()
            found = self._answer(request, json.loads(raw) if raw else {})
        except _Refused as error:
            body = {"kind": "Status", "reason": error.reason, "message": error.reason}
            return web.json_response(body, status=error.status)
        return web.json_response(found)

    def _answer(self, request: web.Request, body: Json) -> Json:
        parts = [each for each in request.path.split("/") if each]
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = None
        if len(parts) > 1 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        kind, name, sub = [*parts, None, None, None][:3]
        if kind not in _KINDS:
            raise _Refused(404, "NotFound")
        if name is None or namespace is None:
            return self._of_all(request, kind, namespace, body)
        where = namespace, name
        if request.method == "PATCH":
            if kind == "deployments" and where not in self._objects[kind]:
                return self._create(kind, {**body, "metadata": {**body["metadata"], "namespace": namespace}})
            return self._patch(kind, where, body, sub)
        if where not in self._objects[kind]:
            raise _Refused(404, "NotFound")
        there = self._objects[kind][where]
        if request.method == "GET":
            return there
        if request.method == "PUT":
            self._changed(kind, where, body)
            return body
        wanted = (body.get("preconditions") or {}) if body else {}
        if any(there["metadata"][key] != each for key, each in wanted.items()):
            raise _Refused(409, "Conflict")
        return self._delete(kind, where)

    def _of_all(self, request: web.Request, kind: str, namespace: str | None, body: Json) -> Json:
        if request.method == "POST":
            if "dryRun" in request.query:
                return body
            return self._create(kind, {**body, "metadata": {**body["metadata"], "namespace": namespace}})
        items = [each for where, each in self._objects[kind].items() if namespace in (None, where[0])]
        return {"kind": "List", "metadata": {"resourceVersion": str(next(self._numbers))}, "items": items}


def _merged(before: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    after = copy.deepcopy(before) if isinstance(before, dict) else {}
    for key, each in change.items():
        if each is None:
            after.pop(key, None)
        else:
            after[key] = _merged(after.get(key), each)
    return after


@contextmanager
def small_cluster(config: Path) -> Iterator[SmallCluster]:
    """One that runs; ``config`` becomes its kubeconfig."""
    found = SmallCluster(config)
    found.start()
    try:
        yield found
    finally:
        found.stop()
