"""What the operator knows of the cluster: the level that every decision looks at, however the events came.

Filled by lists and by watches, in any order: an older version of an object never replaces a newer one. Of finished
Tasks only what their end needs is kept, for they may be half a megabyte each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl import pod as pods
from pytest_arl.operator.objects import Key, created, key, name, parse_time, uid, version
from pytest_arl.operator.ownership import Maker, Ownership, maker_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.operator.objects import Object

__all__ = ["KINDS", "Finished", "Store"]

_MOST_DELETED = 10_000
"""UIDs of objects that are gone: more than come while a list is on its way."""

KINDS = ("warmpools", "sandboxes", "tasks", "pods", "leases")


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of a Task that is over."""

    key: Key
    uid: str
    version: int
    completed: str
    expires: float | None
    """When its ttl is over, in seconds since the epoch; None where it has none."""


class Store:
    """Every object of ours, by kind and key, and the ways from one to another.

    Attributes:
        ours: what is known of who made which pod.
        idle: by pool, the pods that its Deployment has made and nobody has claimed, by UID.
        unproven: by pool, pods that say so and of which that is not known, by UID.
        allocated: by pool, the UIDs of the pods in use.
        owned: by UID of a Sandbox, its pods by name.
        open: by Sandbox, its Tasks that are not finished, by UID.
        over: by Sandbox, its finished Tasks by UID.
    """

    def __init__(self, ours: Ownership | None = None) -> None:
        self.ours = ours or Ownership()
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in KINDS}
        self._deleted: dict[str, None] = {}
        self.idle: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self.unproven: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self.allocated: defaultdict[Key, set[str]] = defaultdict(set)
        self.owned: defaultdict[str, dict[str, Object]] = defaultdict(dict)
        self.open: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self.over: defaultdict[Key, dict[str, Finished]] = defaultdict(dict)

    def get(self, kind: str, where: Key) -> Object | None:
        """An object; Tasks only while they are not finished."""
        return self._objects[kind].get(where)

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return list(self._objects[kind].values())

    def put(self, kind: str, body: Object) -> bool:
        """Take note of an object; whether it is news."""
        if uid(body) in self._deleted:
            return False
        where = key(body)
        before = self._objects[kind].get(where)
        if before is not None:
            if uid(before) == uid(body) and version(before) >= version(body):
                return False
            if uid(before) != uid(body):
                self.remove(kind, before)
        if kind == "tasks":
            return self._put_task(where, before, body)
        body["metadata"].pop("managedFields", None)
        if kind == "pods":
            body = _slim(body)
        self._objects[kind][where] = body
        if kind == "pods":
            if before is not None:
                self._unlink_pod(before)
            self._link_pod(body)
        return True

    def remove(self, kind: str, body: Object) -> bool:
        """An object is gone, for good; whether it was known."""
        self._bury(uid(body))
        where = key(body)
        if kind == "tasks":
            sandbox = Key(where.namespace, body["spec"]["sandboxRef"])
            for table in (self.over, self.open):
                table[sandbox].pop(uid(body), None)
                if not table[sandbox]:
                    del table[sandbox]
        known = self._objects[kind].get(where)
        if known is None or uid(known) != uid(body):
            return False
        del self._objects[kind][where]
        if kind == "pods":
            self._unlink_pod(known)
        return True

    def _bury(self, which: str) -> None:
        """Remember that it is gone: a list that was begun before may still have it."""
        self._deleted[which] = None
        if len(self._deleted) > _MOST_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def replace(self, kind: str, bodies: Iterable[Object], namespace: str | None, listed: int) -> list[Object]:
        """What there was of a kind (in a namespace) at the version ``listed``; those that were known and are gone.

        What is newer than the list is not gone: an event was faster.
        """
        there = {}
        for body in bodies:
            there[uid(body)] = body
            self.put(kind, body)
        gone = [
            body
            for where, body in self._objects[kind].items()
            if uid(body) not in there and namespace in (None, where.namespace) and version(body) <= listed
        ]
        for body in gone:
            self.remove(kind, body)
        if kind == "tasks":
            for sandbox, finished in self.over.items():
                if namespace in (None, sandbox.namespace):
                    for task in [each for each in finished.values() if each.uid not in there]:
                        if task.version <= listed:
                            del finished[task.uid]
        return gone

    def tasks(self, sandbox: Key) -> list[Object]:
        """A sandbox's Tasks that are not finished, in the order in which they run."""
        return sorted(self.open.get(sandbox, {}).values(), key=lambda task: (created(task), name(task)))

    def _put_task(self, where: Key, before: Object | None, body: Object) -> bool:
        sandbox = Key(where.namespace, body["spec"]["sandboxRef"])
        status = body.get("status") or {}
        if uid(body) in self.over.get(sandbox, ()):
            return False
        if status.get("state") in ("Succeeded", "Failed"):
            ttl, completed = body["spec"].get("ttlSecondsAfterFinished"), status.get("completionTime") or ""
            ended = None if ttl is None else parse_time(completed)
            expires = None if ended is None else ended + ttl
            self.over[sandbox][uid(body)] = Finished(where, uid(body), version(body), completed, expires)
            self.open[sandbox].pop(uid(body), None)
            self._objects["tasks"].pop(where, None)
            return before is not None
        body["metadata"].pop("managedFields", None)
        self._objects["tasks"][where] = body
        self.open[sandbox][uid(body)] = body
        return True

    def is_idle(self, pod: Object) -> bool:
        """Whether a pod is an idle one of its pool."""
        return uid(pod) in self.idle.get(_pool_of(pod), ())

    def unknown_makers(self, pool: Key) -> list[Maker]:
        """ReplicaSets that pods name which say that they are this pool's, as far as these were not looked up."""
        makers = {maker_of(pod) for pod in self.unproven.get(pool, {}).values()}
        return sorted(maker for maker in makers if maker is not None and not self.ours.knows(maker))

    def sort_again(self, pool: Key) -> list[Object]:
        """Sort a pool's unclaimed pods by what is known now; the idle ones."""
        for pod in [*self.idle.pop(pool, {}).values(), *self.unproven.pop(pool, {}).values()]:
            self._link_pod(pod)
        return list(self.idle.get(pool, {}).values())

    def _link_pod(self, body: Object) -> None:
        pool, sandbox = _pool_of(body), self.ours.sandbox(body)
        if sandbox is not None:
            self.owned[sandbox][name(body)] = body
            self.allocated[pool].add(uid(body))
        elif (body["metadata"].get("labels") or {}).get(pods.STATUS_LABEL) == pods.STATUS_IDLE:
            table = self.idle if self.ours.made_by(pool, body) else self.unproven
            table[pool][uid(body)] = body

    def _unlink_pod(self, body: Object) -> None:
        pool = _pool_of(body)
        self.allocated[pool].discard(uid(body))
        for table in (self.idle, self.unproven):
            table[pool].pop(uid(body), None)
            if not table[pool]:
                del table[pool]
        sandbox = self.ours.sandbox(body)
        if sandbox is not None and sandbox in self.owned:
            self.owned[sandbox].pop(name(body), None)
            if not self.owned[sandbox]:
                del self.owned[sandbox]


def _pool_of(pod: Object) -> Key:
    """The pool that a pod says it is of."""
    labels = pod["metadata"].get("labels") or {}
    return Key(pod["metadata"]["namespace"], labels.get(pods.POOL_LABEL, ""))


def _slim(pod: Object) -> Object:
    """A pod without what nobody asks of it: most of its spec, which is the same for all of a pool."""
    spec, status = pod["spec"], pod.get("status") or {}
    containers = [{key: each[key] for key in ("name", "resources") if key in each} for each in spec["containers"]]
    gates = {"schedulingGates": spec["schedulingGates"]} if spec.get("schedulingGates") else {}
    dropped = ("podIPs", "hostIP", "hostIPs", "qosClass", "startTime", "ephemeralContainerStatuses")
    return {
        **{part: pod[part] for part in ("apiVersion", "kind", "metadata") if part in pod},
        "spec": {"containers": containers, **gates},
        "status": {key: value for key, value in status.items() if key not in dropped},
    }
