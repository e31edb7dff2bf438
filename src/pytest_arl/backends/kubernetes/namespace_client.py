"""State that a process shares in one namespace of a cluster: its Lease, its watches, the pools that it knows."""

from __future__ import annotations

import importlib.metadata
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_arl.agent_client.file_transfer import MOST_BYTES
from pytest_arl.backends.kubernetes import object_names
from pytest_arl.backends.kubernetes.lease import Lease
from pytest_arl.backends.kubernetes.refusals import Refused, explained
from pytest_arl.backends.kubernetes.sealing import seal
from pytest_arl.backends.kubernetes.watch import Watch
from pytest_arl.cluster import fields
from pytest_arl.cluster.pod import EXECUTOR_CONTAINER, OPERATOR_LEASE, WORKSPACE
from pytest_arl.cluster.proof import KEY_BYTES, modulus_of
from pytest_arl.errors import BackendUnavailable, PoolNotFound, UsageError
from pytest_arl.pools import KEPT_TIMES
from pytest_arl.text.units import parse_quantity
from pytest_arl.text.untrusted import one_line
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.backends.kubernetes.api import Api

__all__ = ["OPERATOR_NAMESPACE", "NamespaceClient", "Pool"]

OPERATOR_NAMESPACE = "arl-system"
"""The namespace in which `pytest-arl manifests` puts the operator."""
_OUTPUT = 16 * 1024 * 1024
_MOST_OUTPUT = 1 << 50
"""Bound on a pool's value: as much as the operator tells the agent."""
_POOL_SECONDS = 60.0
_NEW_POOL_SECONDS = 2.0
_FIRST_STATUS_SECONDS = 15.0
"""Time for an operator to look at a new pool: it took one second at most, and one that starts anew some more."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pool:
    """Parts of a WarmPool that results and messages need.

    Attributes:
        name: the pool's.
        output: bytes of each stream that a result keeps.
        kept: bytes of one sandbox that this machine keeps over its life.
        isolation: what keeps its sandboxes apart, for the last line of a run.
        limits: the template's value for each limit.
        workspace: where relative paths are.
        task_key: the RSA modulus that its operator can open what is sealed for; None of one that has none.
    """

    name: str
    output: int
    kept: int
    isolation: str
    limits: Mapping[str, str]
    workspace: str
    task_key: int | None = None

    @classmethod
    def read(cls, found: dict[str, Any]) -> Pool:
        """Read a WarmPool; what its template leaves out is left out here. UsageError names a field that is wrong."""
        __tracebackhide__ = True
        spec = found.get("spec") or {}
        sandbox = spec.get("sandbox") or {}
        template = (spec.get("template") or {}).get("spec") or {}
        containers = template.get("containers") or [{}]
        executor = next((each for each in containers if each.get("name") == EXECUTOR_CONTAINER), containers[0])
        bounds = (executor.get("resources") or {}).get("limits") or {}
        limits = {"memory": str(bounds["memory"])} if "memory" in bounds else {}
        workspace = str(sandbox.get("workDir") or WORKSPACE)
        for key, path in (("workspace", workspace), ("tmp", "/tmp"), ("shm", "/dev/shm")):  # noqa: S108 - the pod's
            size = _size_limit(template, executor, path)
            limits |= {key: size} if size else {}
        runtime = template.get("runtimeClassName")
        return cls(
            name=str(found["metadata"]["name"]),
            output=min(_bytes(sandbox, "outputLimit", _OUTPUT), _MOST_OUTPUT),
            kept=_bytes(sandbox, "kept", _usually_kept(limits)),
            isolation=one_line(f"pod+{runtime}", None) if runtime else "pod",
            limits={key: one_line(value, None) for key, value in limits.items()},
            workspace=workspace,
            task_key=modulus_of(fields.task_key(found)),
        )


def _bytes(sandbox: Mapping[str, Any], field: str, default: int) -> int:
    __tracebackhide__ = True
    given = sandbox.get(field)
    if given is None:
        return default
    try:
        return parse_quantity(given)
    except UsageError as error:
        raise UsageError(f"spec.sandbox.{field} {error}") from None


def _usually_kept(limits: Mapping[str, str]) -> int:
    """The default of a pool of this machine, where all that a sandbox can hold is known."""
    try:
        return KEPT_TIMES * (parse_quantity(limits["workspace"]) + parse_quantity(limits["tmp"]))
    except (KeyError, UsageError):  # without a size, or with one such as 1e9, which Kubernetes takes
        return MOST_BYTES


def _size_limit(template: Mapping[str, Any], executor: Mapping[str, Any], path: str) -> str | None:
    mounts = executor.get("volumeMounts") or ()
    name = next((mount.get("name") for mount in mounts if mount.get("mountPath") == path), None)
    volumes = template.get("volumes") or ()
    volume: Mapping[str, Any] = next((each for each in volumes if name and each.get("name") == name), {})
    size = (volume.get("emptyDir") or {}).get("sizeLimit")
    return None if size is None else str(size)


class NamespaceClient:
    """One namespace, as this process uses it. Thread-safe."""

    def __init__(self, api: Api, namespace: str, run: str) -> None:
        self.api = api
        self.namespace = namespace
        self.run = run
        self.worker = object_names.worker_id(os.environ)
        lease = object_names.lease_name(run, self.worker)
        self.labels = object_names.own_labels(run, self.worker, lease, importlib.metadata.version("pytest-arl"))
        self.lease = Lease(api, namespace, lease, self.labels)
        mine = object_names.selector({object_names.LEASE_LABEL: lease})
        self.sandboxes = Watch(api, "sandboxes", namespace, mine)
        self.tasks = Watch(api, "tasks", namespace, mine)
        self.task_key = os.urandom(KEY_BYTES)
        self._sealed: dict[int, str] = {}
        self._lock = threading.Lock()
        self._pools: dict[str, tuple[Pool, float]] = {}

    def pool(self, name: str) -> Pool:
        """A pool by its name, as it was within the last minute. PoolNotFound lists those there are."""
        with self._lock:
            known = self._pools.get(name)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        found = self._read(name)
        deadline = time.monotonic() + _FIRST_STATUS_SECONDS
        while not found.get("status") and time.monotonic() < deadline:
            # Its operator has not seen it yet, and so has published no key: without one, Tasks would have no proof.
            time.sleep(_LOOK_SECONDS)
            found = self._read(name)
        if not found.get("status"):
            raise BackendUnavailable(
                f"no operator has looked at pool {name!r} of namespace {self.namespace!r} for "
                f"{_FIRST_STATUS_SECONDS:.0f} s; without an operator's key, its sandboxes would run Tasks of any user: "
                "`pytest-arl doctor` says whether an operator runs"
            )
        try:
            pool = Pool.read(found)
        except UsageError as error:
            raise BackendUnavailable(f"pool {name!r} of namespace {self.namespace!r}: {error}") from None
        except (AttributeError, LookupError, TypeError) as error:
            raise BackendUnavailable(
                f"pool {name!r} of namespace {self.namespace!r}: spec.template is not a pod template ({error}); "
                f"kubectl -n {self.namespace} describe warmpool {name}"
            ) from None
        with self._lock:
            # A pool that is new has no key yet, nor has one of an operator that knows none.
            known_for = _NEW_POOL_SECONDS if pool.task_key is None else _POOL_SECONDS
            self._pools[name] = (pool, time.monotonic() + known_for)
        return pool

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return self.api.get("warmpools", self.namespace, name)
        except Refused as refused:
            if refused.status == 404 and refused.details.get("name"):
                raise self.no_such_pool(name) from None
            raise explained(refused, f"reading pool {name!r}", self.api.where(self.namespace)) from None

    def sealed_key(self, pool: Pool) -> str | None:
        """``task_key``, for the operator of a pool to read; None where that is one which reads none."""
        modulus = pool.task_key
        if modulus is None:
            return None
        with self._lock:
            if modulus not in self._sealed:
                self._sealed[modulus] = seal(self.task_key, modulus)
            return self._sealed[modulus]

    def no_such_pool(self, name: str) -> PoolNotFound:
        """The error that there is no pool of that name, with those that there are."""
        with self._lock:
            self._pools.pop(name, None)
        try:
            known = self.pools()
        except Refused as refused:
            listed = f"its pools cannot be listed: {refused.message}"
        else:
            listed = hint(name, known) if known else "it has none; kubectl apply -f a WarmPool"
        return PoolNotFound(
            f"there is no pool {name!r} in namespace {self.namespace!r} of {self.api.access.described}; {listed}"
        )

    def pools(self) -> tuple[str, ...]:
        """Names of the pools there are, sorted. Raises Refused."""
        found, _ = self.api.items("warmpools", self.namespace)
        return tuple(sorted(str(each["metadata"]["name"]) for each in found))

    def operator_renewals(self) -> frozenset[str] | None:
        """The latest renewals of the operators that may serve this namespace; None where they are not known."""
        found = set()
        for namespace in (self.namespace, OPERATOR_NAMESPACE):
            try:
                lease = self.api.get("leases", namespace, OPERATOR_LEASE)
                found.add(str((lease.get("spec") or {}).get("renewTime") or ""))
            except Refused as refused:
                if refused.status != 404:
                    return None
        return frozenset(found)

    def close(self) -> None:
        """Let go of everything in this namespace. Idempotent."""
        self.sandboxes.close()
        self.tasks.close()
        self.lease.close()
