"""Clients of a cluster that are not the tests' own process: with other credentials, another way to it, an end by SIGKILL."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.installation import Installation, Json

__all__ = ["Cutter", "account", "cutter", "cutting", "kubeconfig", "rewritten", "run_client"]


def kubeconfig() -> Json:
    """The context in use, with everything in it."""
    command = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", "-o", "json"]
    found: Json = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def rewritten(path: Path, *, server: str | None = None, token: str | None = None, namespace: str | None = None) -> Path:
    """A kubeconfig that leads to the same cluster another way, or as somebody else."""
    config = kubeconfig()
    cluster = config["clusters"][0]["cluster"]
    if server is not None:
        cluster["tls-server-name"] = cluster.get("tls-server-name") or urlsplit(cluster["server"]).hostname
        cluster["server"] = server
    if token is not None:
        config["users"][0]["user"] = {"token": token}
    if namespace is not None:
        config["contexts"][0]["context"]["namespace"] = namespace
    path.write_text(json.dumps(config))
    return path


def account(found: Installation, name: str, rules: list[Json] | None, *, role: str | None = None) -> str:
    """A service account's token. It has these rules in the namespace, or a ClusterRole, or nothing. Another worker of the
    run may have made it.
    """
    found.make("serviceaccount", name)
    subject = f"{found.namespace}:{name}"
    if rules is not None:
        api = "rbac.authorization.k8s.io/v1"
        found.apply({"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": rules})
        found.make("rolebinding", name, f"--role={name}", f"--serviceaccount={subject}")
    elif role is not None:
        found.make("rolebinding", name, f"--clusterrole={role}", f"--serviceaccount={subject}")
    return found.kubectl("create", "token", name).stdout.strip()


def run_client(
    code: str, *, config: Path | None = None, timeout: float = 120, wrap: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python program as a client of its own."""
    env = {**os.environ, **environ, **({} if config is None else {"KUBECONFIG": str(config)})}
    command = [*wrap, sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)


class Cutter:
    """A way to the API server whose connections a test can cut, or close for a while."""

    def __init__(self, server: socket.socket) -> None:
        parts = urlsplit(kubeconfig()["clusters"][0]["cluster"]["server"])
        self._target = (parts.hostname or "", parts.port or 443)
        self._server = server
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self.closed = False
        self.carried = 0
        self.opened = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.getsockname()[1]}"

    def cut(self) -> int:
        """Cut every connection there is; how many those were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def stop(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.closed:
                client.close()
                continue
            server = socket.create_connection(self._target)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
                self.opened += 1
            threading.Thread(target=self._carry, args=(pair,), daemon=True).start()

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        other = dict((pair, pair[::-1]))
        with suppress(OSError):
            while True:
                for end in select.select(pair, (), ())[0]:
                    data = end.recv(256 * 1024)
                    if not data:
                        raise OSError
                    other[end].sendall(data)
                    self.carried += len(data)
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            end.close()


@contextmanager
def cutter() -> Iterator[Cutter]:
    """A port of this machine that leads to the API server of the kubeconfig in use."""
    with cutting(socket.create_server(("127.0.0.1", 0))) as found:
        yield found


@contextmanager
def cutting(server: socket.socket) -> Iterator[Cutter]:
    """The same by a socket that listens already."""
    found = Cutter(server)
    try:
        yield found
    finally:
        found.stop()
