"""A namespace with an operator of its own that is a process of this machine, so that a test may kill it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_arl.cluster.pod import PORT
from tests.cluster.installation import images, manifests, missing, pool

__all__ = ["Room", "command", "room"]

Json = dict[str, Any]
_API = "arl.infra.io/v1alpha1"
_PROGRAM = Path(__file__).with_name("faulty_operator.py")


class Room:
    """One namespace, what is in it, and its operator."""

    def __init__(self, namespace: str, log: Path) -> None:
        self.namespace = namespace
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    # The operator

    def start(
        self,
        fault: str = "none",
        count: int = 0,
        identity: str = "first",
        *,
        config: Path | None = None,
        lease_seconds: float = 15,
    ) -> None:
        """Start it, with another kubeconfig where one is given."""
        env = os.environ if config is None else {**os.environ, "KUBECONFIG": str(config)}
        arguments = [
            *("--namespace", self.namespace, "--agent-image", images()["agent"], "--agent-pull-policy", "IfNotPresent"),
            *("--health-port", "0", "--identity", identity, "--lease-seconds", str(lease_seconds)),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), fault, str(count), *arguments], stdout=log, stderr=log, env=env
            )

    def died(self, seconds: float = 60) -> int:
        """How the operator ended by itself."""
        assert self._process is not None
        return self._process.wait(seconds)

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-8000:]

    # Objects

    def kubectl(self, *words: str, text: str | None = None, check: bool = True) -> str:
        argv = ["kubectl", "-n", self.namespace, *words]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *objects: Json) -> None:
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(objects))

    def all(self, kind: str, *words: str) -> list[Json]:
        items: list[Json] = json.loads(self.kubectl("get", kind, *words, "-o", "json"))["items"]
        return items

    def get(self, kind: str, name: str) -> Json | None:
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else None

    def until(self, kind: str, name: str, is_so: Callable[[Json], bool], seconds: float = 60) -> Json:
        """The object once it is so; an object that is not there is an empty one."""
        deadline = time.monotonic() + seconds
        while True:
            body = self.get(kind, name) or {}
            if is_so(body):
                return body
            assert time.monotonic() < deadline, f"{kind} {name} is not so: {json.dumps(body, indent=1)}\n{self.log()}"
            time.sleep(0.1)

    def pool(self, name: str, *, replicas: int = 1, image: str | None = None, **more: Any) -> None:
        self.apply(pool(name, image or images()["python"], replicas=replicas, **more))

    def pool_ready(self, name: str, replicas: int) -> None:
        self.until("warmpool", name, lambda body: body.get("status", {}).get("readyReplicas") == replicas, 120)

    def sandbox(self, name: str, pool_name: str = "python", **spec: Any) -> None:
        self.apply(
            {
                "apiVersion": _API,
                "kind": "Sandbox",
                "metadata": {"name": name},
                "spec": {"poolRef": pool_name, "keepAlive": True, **spec},
            }
        )

    def ready(self, name: str) -> Json:
        body = self.until("sandbox", name, lambda body: body.get("status", {}).get("phase") in ("Ready", "Failed"))
        assert body["status"]["phase"] == "Ready", body["status"]
        return body

    def tasks(self, *bodies: Json) -> None:
        self.kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(bodies)}))

    def finished(self, name: str, seconds: float = 60) -> Json:
        status: Json = self.until("task", name, lambda body: "completionTime" in body.get("status", {}), seconds)[
            "status"
        ]
        return status

    def run(self, sandbox: str, *argv: str) -> Json:
        """The status of one command's task."""
        name = f"{sandbox}-{secrets.token_hex(3)}"
        self.tasks(command(name, sandbox, *argv))
        return self.finished(name)

    def reason(self, name: str) -> str:
        """Why a Sandbox is as it is."""
        body = self.get("sandbox", name) or {}
        found = [each for each in body.get("status", {}).get("conditions", ()) if each["type"] == "Ready"]
        return str(found[0]["reason"]) if found else ""


def command(name: str, sandbox: str, *argv: str, **spec: Any) -> Json:
    """A Task of one Command."""
    steps = [{"name": "s", "type": "Command", "command": list(argv)}]
    return {
        "apiVersion": _API,
        "kind": "Task",
        "metadata": {"name": name},
        "spec": {"sandboxRef": sandbox, "steps": steps, **spec},
    }


@contextlib.contextmanager
def room(log: Path) -> Iterator[Room]:
    """A namespace with a running operator. Skips where there is no cluster, or none whose pods can be reached."""
    if reason := missing():
        pytest.skip(reason)
    definitions = [
        body for body in yaml.safe_load_all(manifests()) if body and body["kind"] == "CustomResourceDefinition"
    ]
    found = Room(f"arl-room-{secrets.token_hex(4)}", log)
    found.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=yaml.safe_dump_all(definitions))
    found.kubectl("create", "namespace", found.namespace)
    try:
        found.start()
        found.pool("python")
        found.pool_ready("python", 1)
        _skip_where_pods_are_out_of_reach(found)
        yield found
    finally:
        found.stop()
        found.kubectl("delete", "sandboxes,warmpools,tasks", "--all", "--wait=false", check=False)
        found.kubectl("delete", "namespace", found.namespace, "--wait=false")


def _skip_where_pods_are_out_of_reach(found: Room) -> None:
    address = found.all("pods")[0]["status"]["podIP"]
    try:
        socket.create_connection((address, PORT), timeout=5).close()
    except OSError as error:
        pytest.skip(
            f"an operator on this machine does not reach pods ({error}); run the tests on a node, as with kind on Linux"
        )
