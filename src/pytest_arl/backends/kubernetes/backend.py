"""The backend of a cluster: sandboxes out of its WarmPools."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import secrets
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from pytest_arl.backends.kubernetes import object_names, statuses
from pytest_arl.backends.kubernetes.access import import_client
from pytest_arl.backends.kubernetes.api import Api
from pytest_arl.backends.kubernetes.kubernetes_sandbox import KubernetesSandbox
from pytest_arl.backends.kubernetes.manifests import holder_of, sandbox_manifest
from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient, Pool
from pytest_arl.backends.kubernetes.operator_check import LOOK_SECONDS, OperatorCheck
from pytest_arl.backends.kubernetes.refusals import INSTALL, Refused
from pytest_arl.cluster import fields
from pytest_arl.cluster.objects import condition
from pytest_arl.errors import ArlError, BackendUnavailable, SandboxTimeout
from pytest_arl.settings import current
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from pytest_arl.backends.base import AcquireRequest
    from pytest_arl.backends.kubernetes.watch import Mail
    from pytest_arl.settings import Settings

__all__ = ["KubernetesBackend"]

_logger = logging.getLogger("pytest_arl")
_SECRET_BYTES = 32


class KubernetesBackend:
    """Sandboxes on a cluster. See :class:`pytest_arl.backends.base.Backend`.

    Nothing is asked of the cluster before the first :meth:`acquire`; only the client's import begins at once.
    """

    name = "kubernetes"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._api: Api | None = None
        self._clients: dict[str, NamespaceClient] = {}
        self._open: set[KubernetesSandbox] = set()
        self._run = object_names.run_id(os.environ)
        self._closed = False
        import_client()
        _backends.add(self)
        atexit.register(self.close)

    def pools(self) -> tuple[str, ...]:
        """Names of the pools there are in the default namespace, sorted."""
        client = self._client(None)
        found: tuple[str, ...] = client.api.explaining("listing pools", client.namespace, client.pools)
        return found

    def acquire(self, request: AcquireRequest) -> KubernetesSandbox:
        """A ready sandbox."""
        __tracebackhide__ = True
        client = self._client(request.namespace)
        # The Lease first: it also shows a namespace that is not there, which a pool's absence would not.
        owner = client.lease.owner()
        pool = client.pool(request.pool_ref)
        name, secret = object_names.sandbox_name(pool.name), secrets.token_bytes(_SECRET_BYTES)
        mail = client.sandboxes.mail(name)
        made = None
        try:
            made = self._create(client, pool, name, request, secret, owner)
            mail.claim(made)
            self._wait(client, name, request, mail)
        except BaseException:
            client.sandboxes.forget(name)
            self._give_up(client, name, made)
            raise
        sandbox = KubernetesSandbox(
            client,
            pool,
            (name, str(made["metadata"]["uid"])),
            mail,
            secret,
            kept=request.keep_alive,
            marked="sealedKey" in made["spec"]["holder"],
            replace=lambda: self._replace(request),
            on_close=self._forget_sandbox,
        )
        with self._lock:
            closed = self._closed
            self._open.add(sandbox)
        if closed:
            sandbox.close()
            raise BackendUnavailable("the kubernetes backend is closed")
        return sandbox

    def _replace(self, request: AcquireRequest) -> KubernetesSandbox:
        """A sandbox in the place of one that is about to be closed."""
        return self.acquire(dataclasses.replace(request, acquire_timeout=current().value("acquire_timeout")))

    def _client(self, namespace: str | None) -> NamespaceClient:
        with self._lock:
            if self._closed:
                raise BackendUnavailable("the kubernetes backend is closed")
            if self._api is None:
                self._api = Api(self._settings)
                # Before the client's own, which removes the files that it keeps certificates in.
                atexit.unregister(self.close)
                atexit.register(self.close)
            chosen = namespace or current().value("namespace") or self._api.access.namespace
            if chosen not in self._clients:
                self._clients[chosen] = NamespaceClient(self._api, chosen, self._run)
            return self._clients[chosen]

    @staticmethod
    def _create(
        client: NamespaceClient, pool: Pool, name: str, request: AcquireRequest, secret: bytes, owner: dict[str, Any]
    ) -> dict[str, Any]:
        labels = object_names.labels_of(request.labels, client.labels)
        if request.keep_alive:
            labels[object_names.KEPT_LABEL] = "true"
        holder = holder_of(request, client.run, client.worker, secret, client.sealed_key(pool))
        body = sandbox_manifest(name, request, labels, holder, None if request.keep_alive else owner)
        made: dict[str, Any] = client.api.explaining(
            f"creating the Sandbox {name!r}",
            client.namespace,
            lambda: client.api.create("sandboxes", client.namespace, body),
        )
        there = made["spec"].get("holder") or {}
        if any(there.get(key) != holder.get(key) for key in ("secretHash", "sealedKey", "openToAll")):
            raise BackendUnavailable(
                "the custom resources in the cluster are of another version than this client: a Sandbox lost its "
                f"holder; {INSTALL}"
            )
        return made

    def _wait(self, client: NamespaceClient, name: str, request: AcquireRequest, mail: Mail) -> None:
        """Wait until the sandbox is ready. Raises the reason why it cannot be."""
        deadline = time.monotonic() + request.acquire_timeout
        operator_check = OperatorCheck(client, f"Sandbox {name!r}")
        while True:
            number, found = mail.number, mail.latest
            phase = fields.phase(found)
            if phase == "Ready":
                return
            if mail.failure is not None:
                raise type(mail.failure)(str(mail.failure))
            if mail.deleted:
                raise BackendUnavailable(f"Sandbox {name!r} was deleted before it was ready")
            if phase == "Failed":
                raise self._failed(client, name, request, found)
            if not phase and not condition(found, "Ready"):
                operator_check.check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise SandboxTimeout(self._late(client, name, request, found))
            mail.wait(number, min(left, LOOK_SECONDS))

    @staticmethod
    def _failed(client: NamespaceClient, name: str, request: AcquireRequest, found: dict[str, Any] | None) -> ArlError:
        if condition(found, "Ready").get("reason") == "PoolNotFound":
            return client.no_such_pool(request.pool_ref)
        said = statuses.why(found, "Ready") or "it gives no reason"
        return BackendUnavailable(
            f"no sandbox of pool {request.pool_ref!r} in namespace {client.namespace!r}: "
            f"Sandbox {name!r} failed: {said}"
        )

    @staticmethod
    def _late(client: NamespaceClient, name: str, request: AcquireRequest, found: dict[str, Any] | None) -> str:
        phase = fields.phase(found) or "not noted by the operator"
        last = statuses.why(found, "Ready") or "it gives no reason; kubectl describe shows it and its pod's events"
        return (
            f"no sandbox of pool {request.pool_ref!r} in namespace {client.namespace!r} after "
            f"{format_duration(request.acquire_timeout)}: Sandbox {name!r} is {phase}, not yet Ready; {last}"
        )

    @staticmethod
    def _give_up(client: NamespaceClient, name: str, made: dict[str, Any] | None) -> None:
        """Delete a sandbox that is not handed out. ``made``: the object, as far as its creation was answered."""
        uid = None if made is None else str(made["metadata"]["uid"])
        try:
            client.api.delete("sandboxes", client.namespace, name, uid=uid, patience=1.0)
        except (ArlError, Refused) as error:
            _logger.debug("sandbox %s was not deleted, and ends with its Lease: %s", name, error)

    def _forget_sandbox(self, sandbox: KubernetesSandbox) -> None:
        sandbox.held.client.sandboxes.forget(sandbox.name)
        with self._lock:
            self._open.discard(sandbox)

    def close(self) -> None:
        """Close every sandbox that is still open and is not kept, and free everything. Idempotent."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            left, self._open = list(self._open), set()
            clients, self._clients = list(self._clients.values()), {}
        for sandbox in left:
            sandbox.let_go()
        for client in clients:
            if any(sandbox.held.client is client and not sandbox.kept for sandbox in left):
                self._delete_left(client)
            client.close()
        if self._api is not None:
            self._api.close()

    @staticmethod
    def _delete_left(client: NamespaceClient) -> None:
        """All sandboxes of this process at once."""
        mine = f"{object_names.selector({object_names.LEASE_LABEL: client.lease.name})},!{object_names.KEPT_LABEL}"
        try:
            client.api.delete_all("sandboxes", client.namespace, mine)
        except (ArlError, Refused) as error:
            _logger.warning("sandboxes were not deleted, and end with their Lease: %s", error)

    def forget(self) -> None:
        """Leave everything to the parent, in a forked child."""
        self._lock = threading.RLock()
        self._closed = True
        atexit.unregister(self.close)


_backends: weakref.WeakSet[KubernetesBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_backends):
        backend.forget()


os.register_at_fork(after_in_child=_forget_all)
