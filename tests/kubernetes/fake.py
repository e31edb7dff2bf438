"""A small API server: objects in a dict, watches over them, and faults when a test wants some."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from pytest_arl.settings import Settings

Json = dict[str, Any]
Answer = tuple[int, Json] | None
"""What a test answers in the server's place; None leaves it to the server."""


def status(code: int, reason: str, message: str, **details: Any) -> Json:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


class FakeApi:
    """The server's state. ``intercept`` may answer a request itself; ``requests`` are those that came."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Json]] = []
        self.intercept: Callable[[str, str, Json], Answer] = lambda *_: None
        self.objects: dict[str, Json] = {}
        self.events: list[tuple[str, Json]] = []
        self.version = 100
        self.oldest = 0
        self.changed = threading.Condition()
        self.watches: list[Any] = []

    def put(self, path: str, found: Json) -> Json:
        with self.changed:
            kind = "MODIFIED" if path in self.objects else "ADDED"
            self.version += 1
            found.setdefault("metadata", {}).setdefault("uid", f"uid-{self.version}")
            found["metadata"].setdefault("name", path.rpartition("/")[2])
            found["metadata"]["resourceVersion"] = str(self.version)
            self.objects[path] = found
            self.events.append((kind, json.loads(json.dumps(found))))
            self.changed.notify_all()
            return found

    def remove(self, path: str) -> None:
        with self.changed:
            self.version += 1
            gone = self.objects.pop(path)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self.events.append(("DELETED", gone))
            self.changed.notify_all()

    def break_watches(self) -> None:
        """Cut the connections of all watches."""
        for connection in self.watches:
            with suppress(OSError):
                connection.shutdown(2)
        self.watches.clear()

    def count(self, method: str, ending: str) -> int:
        return sum(1 for found, path, _ in self.requests if found == method and path.endswith(ending))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.api.requests.append((self.command, parts.path, query | {"body": body, "headers": dict(self.headers)}))
        answer = self.api.intercept(self.command, parts.path, query)
        if answer is not None:
            self._answer(*answer)
        elif query.get("watch"):
            self._watch(int(query["resourceVersion"]))
        else:
            self._answer(*self._object(parts.path, body))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - names of the base class

    def _object(self, path: str, body: Json) -> tuple[int, Json]:  # noqa: PLR0911 - one for each case
        api = self.api
        if self.command == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in api.objects:
                return 409, status(409, "AlreadyExists", "is there already")
            return 201, api.put(path, body)
        if path in api.objects:
            wanted = body.get("preconditions", {}).get("uid") or body.get("metadata", {}).get("uid")
            if wanted not in (None, api.objects[path]["metadata"]["uid"]):
                if self.command == "PATCH":
                    return 422, status(422, "Invalid", "metadata.uid: field is immutable")
                return 409, status(409, "Conflict", "Precondition failed: UID in precondition")
            if self.command == "DELETE":
                api.remove(path)
                return 200, {}
            if self.command == "PATCH":
                api.objects[path].setdefault("spec", {}).update(body["spec"])
                return 200, api.put(path, api.objects[path])
            return 200, api.objects[path]
        if path.rpartition("/")[2] in {"sandboxes", "tasks", "warmpools"}:
            items = [found for name, found in api.objects.items() if name.startswith(path + "/")]
            return 200, {"metadata": {"resourceVersion": str(api.version)}, "items": items}
        plural, _, name = path.rpartition("/")
        return 404, status(404, "NotFound", f"{plural.rpartition('/')[2]} {name!r} not found", name=name)

    def _answer(self, code: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _watch(self, version: int) -> None:
        api = self.api
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        api.watches.append(self.connection)
        if version < api.oldest:
            self._send({"type": "ERROR", "object": status(410, "Expired", "too old resource version")})
            self._chunk(b"")
            return
        try:
            while True:
                with api.changed:
                    due = [event for event in api.events if int(event[1]["metadata"]["resourceVersion"]) > version]
                    if not due:
                        api.changed.wait(5)
                for kind, found in due:
                    version = int(found["metadata"]["resourceVersion"])
                    self._send({"type": kind, "object": found})
        except OSError:
            self.close_connection = True

    def _send(self, event: Json) -> None:
        line = json.dumps(event).encode() + b"\n"
        # In two pieces: an event may come in any number of them.
        self._chunk(line[:20])
        self._chunk(line[20:])

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake_api() -> Iterator[tuple[FakeApi, str]]:
    """A server, and its URL."""
    api = FakeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield api, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        api.break_watches()
        thread.join(5)


def kubeconfig(folder: Path, url: str, **context: Any) -> Path:
    """A kubeconfig for it, with the contexts `here` (current) and `elsewhere`."""
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "c", "user": "u", **context}},
                    {"name": "elsewhere", "context": {"cluster": "c", "user": "u", "namespace": "far"}},
                ],
            }
        )
    )
    return path


def settings_for(path: Path | None, **values: Any) -> Settings:
    """Settings as a command line would give them."""
    named = {} if path is None else {"kubeconfig": str(path)}
    return Settings.build(cli={**named, **values}, start_dir=Path("/"))
