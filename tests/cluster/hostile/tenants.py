"""Those who mean ill, as the API server knows them: an account with a role, and a client that sends what it likes."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_arl.agent import frames
from pytest_arl.cluster import pod
from tests.cluster.clients import account, kubeconfig
from tests.cluster.hostile import agents
from tests.cluster.installation import Installation, Json

__all__ = ["Tenant", "agent_pod", "sandbox", "task", "tenant"]

_ARL = "/apis/arl.infra.io/v1alpha1"
_PATHS = {
    "tasks": _ARL,
    "sandboxes": _ARL,
    "warmpools": _ARL,
    "leases": "/apis/coordination.k8s.io/v1",
    "pods": "/api/v1",
}
_MERGE = "application/merge-patch+json"
_ONE_ARGUMENT = 100_000
"""Characters; the kernel takes 131,071."""


@dataclass(slots=True)
class Tenant:
    """One account in one namespace.

    Attributes:
        made: objects that were made.
        asked: requests that were sent.
    """

    namespace: str
    _token: str
    _server: str
    _context: ssl.SSLContext
    made: int = 0
    asked: int = 0
    _here: threading.local = field(default_factory=threading.local)

    def create(self, kind: str, body: Json) -> tuple[int, Json]:
        """Make an object; the status of HTTP and the answer."""
        status, found = self.ask("POST", self._path(kind), body)
        self.made += status == 201
        return status, found

    def patch(self, kind: str, name: str, body: Json) -> tuple[int, Json]:
        return self.ask("PATCH", self._path(kind, name), body, _MERGE)

    def delete(self, kind: str, name: str, **options: Any) -> tuple[int, Json]:
        return self.ask("DELETE", self._path(kind, name), {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def get(self, kind: str, name: str) -> Json:
        status, found = self.ask("GET", self._path(kind, name))
        return found if status == 200 else {}

    def all(self, kind: str) -> list[Json]:
        items: list[Json] = self.ask("GET", self._path(kind))[1].get("items") or []
        return items

    def _path(self, kind: str, name: str = "") -> str:
        return f"{_PATHS[kind]}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def ask(
        self, method: str, path: str, body: Json | None = None, content: str = "application/json"
    ) -> tuple[int, Json]:
        """Any request; 0 where the API server hangs up."""
        self.asked += 1
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content, "Accept": "application/json"}
        for fresh in (False, True):  # one that was idle may have been closed meanwhile
            try:
                peer = self._connection(fresh=fresh)
                peer.request(method, path, data, headers)
                answer = peer.getresponse()
                raw = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self.close()
        else:
            return 0, {}
        try:
            found: Json = json.loads(raw)
        except ValueError:
            found = {"message": raw[:300].decode("utf-8", "replace")}
        return answer.status, found

    def _connection(self, *, fresh: bool) -> http.client.HTTPSConnection:
        found: http.client.HTTPSConnection | None = getattr(self._here, "peer", None)
        if fresh or found is None:
            self.close()
            found = self._here.peer = http.client.HTTPSConnection(self._server, timeout=60, context=self._context)
        return found

    def close(self) -> None:
        """Close this thread's connection."""
        peer = getattr(self._here, "peer", None)
        if peer is not None:
            peer.close()
            self._here.peer = None


def tenant(found: Installation, name: str, *, role: str | None = None, rules: list[Json] | None = None) -> Tenant:
    """An account of a ClusterRole, or of these rules, in the installation's namespace."""
    token = account(found, name, rules, role=role)
    cluster = kubeconfig()["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    return Tenant(found.namespace, token, urlsplit(cluster["server"]).netloc, context)


def task(name: str, sandbox: str, *steps: Json, **spec: Any) -> Json:
    """A Task; of one Command where nothing else is said."""
    chosen = list(steps) or [{"name": "s", "type": "Command", "command": ["true"]}]
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "Task",
        "metadata": {"name": name},
        "spec": {"sandboxRef": sandbox, "steps": chosen, **spec},
    }


def sandbox(name: str, pool: str, **spec: Any) -> Json:
    """A Sandbox."""
    return {
        "apiVersion": "arl.infra.io/v1alpha1",
        "kind": "Sandbox",
        "metadata": {"name": name},
        "spec": {"poolRef": pool, "keepAlive": True, **spec},
    }


_BOOT = """
import sys, types
for name in ("pytest_arl", "pytest_arl.agent", "pytest_arl.agent.frames", "agents"):
    sys.modules[name] = types.ModuleType(name)
frames = sys.modules["pytest_arl.agent"].frames = sys.modules["pytest_arl.agent.frames"]
exec(compile(FRAMES, "frames", "exec"), frames.__dict__)
exec(compile(AGENTS, "agents", "exec"), sys.modules["agents"].__dict__)
print("listening", flush=True)
sys.modules["agents"].main(PORT)
"""


def agent_pod(name: str, image: str, scripts: list[Any], *, port: int = pod.PORT, **meta: Any) -> Json:
    """A pod whose only program plays an agent by these scripts, a connection each."""
    sources = [Path(module.__file__ or "").read_text() for module in (frames, agents)]
    code = _BOOT.replace("PORT", str(port))
    for word, source in zip(("FRAMES", "AGENTS"), sources, strict=True):
        code = code.replace(word, repr(source))
    said = base64.b64encode(frames.encode(scripts)).decode()
    pieces = [said[at : at + _ONE_ARGUMENT] for at in range(0, len(said), _ONE_ARGUMENT)]
    uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    executor = {
        "name": "executor",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code, *pieces],
        "env": [uid],
        "readinessProbe": {
            "tcpSocket": {"port": port},
            "periodSeconds": 1,
        },  # the operator looks at what is ready, once
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **meta},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Always",
            "containers": [executor],
        },
    }
