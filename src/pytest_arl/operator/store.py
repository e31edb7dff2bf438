"""The operator's view of the cluster: the level that every decision looks at, however the events came.

Filled by lists and by watches, in any order: an older version of an object never replaces a newer one. Of finished
Tasks only what their end needs is kept, of all others what is asked of them (see slim.py), and of a namespace no more
than there is room for (see memory_shares.py).
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.cluster import fields
from pytest_arl.cluster import pod as pods
from pytest_arl.cluster.objects import Key, created, key, name, owner, status_of, uid, version
from pytest_arl.operator.memory_shares import MemoryShares
from pytest_arl.operator.ownership import Maker, Ownership, maker_of
from pytest_arl.operator.slim import slim
from pytest_arl.operator.table import Table
from pytest_arl.text.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pytest_arl.cluster.objects import Object

__all__ = ["FOLLOWED", "SELECTED", "Finished", "Store"]

_MOST_DELETED = 10_000
"""UIDs of objects that are gone: more than come while a list is on its way."""

_MOST_NEWS = 500
"""Objects of a namespace that one list lets be asked for: the rest is found by the next one, a minute later."""

_SMALL = 2 * 1024
"""Weight of an object as most are: one for which there is no room is not asked for."""

_LONGEST_TIME = 64

DEFAULT_TTL_SECONDS = 86400
"""Time after which a finished Task goes that says nothing of it: whoever started it by hand can read it for a day."""

FOLLOWED = ("warmpools", "sandboxes", "tasks", "pods", "leases")
SELECTED = {"pods": pods.POOL_LABEL, "leases": pods.RUN_LABEL}
"""The label by which a kind is followed, which others have as well."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The kept parts of a Task that is over."""

    key: Key
    uid: str
    version: int
    completed: str
    expires: float
    """The time when its ttl is over, in seconds since the epoch."""
    own_ttl: bool
    """True if the Task itself says how long it is kept."""


class Store:
    """Every object of ours, by kind and key, and the ways from one to another.

    Attributes:
        ours: what is known of who made which pod.
        idle: by pool, the pods that its Deployment has made and nobody has claimed, by UID.
        unproven: by pool, pods that say so and of which that is not known, by UID.
        allocated: by pool, the pods in use, by UID.
        owned: by UID of a Sandbox, its pods by name.
        open: by Sandbox, its Tasks that are not finished, by UID.
        over: by Sandbox, its finished Tasks by UID.
        of_lease: by UID of a Lease, the keys of the Sandboxes that it holds, by UID.
        of_pool: by pool, the keys of the Sandboxes that want a pod of it, by UID.
    """

    def __init__(
        self, ours: Ownership | None = None, left_out: Callable[[str, Object], None] = lambda _kind, _body: None
    ) -> None:
        """``left_out`` is told the first object of a kind and namespace for which there is no room."""
        self.ours = ours or Ownership()
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in FOLLOWED}
        self._deleted: dict[str, float] = {}
        self._given_up: dict[str, str] = {}
        self._room = MemoryShares(left_out)
        self.idle: Table[Key, Object] = Table()
        self.unproven: Table[Key, Object] = Table()
        self.allocated: Table[Key, Object] = Table()
        self.owned: Table[str, Object] = Table()
        self.open: Table[Key, Object] = Table()
        self.over: Table[Key, Finished] = Table()
        self.of_lease: Table[str, Key] = Table()
        self.of_pool: Table[Key, Key] = Table()

    def get(self, kind: str, where: Key) -> Object | None:
        """An object; Tasks only while they are not finished."""
        return self._objects[kind].get(where)

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return list(self._objects[kind].values())

    def put(self, kind: str, body: Object) -> bool:
        """Take note of an object; whether it is news."""
        if version(body) <= self._deleted.get(uid(body), -1):
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
        kept = self._room.fit(kind, slim(kind, body))
        if kept is None:
            return False
        if before is not None and uid(before) == uid(kept):
            self._unlink(kind, before)
        self._objects[kind][where] = kept
        self._link(kind, kept)
        return True

    def remove(self, kind: str, body: Object, last: float = math.inf) -> bool:
        """An object is gone, for good but for versions after ``last``; whether it was known."""
        self._bury(uid(body), last)
        where = key(body)
        known = self._objects[kind].get(where)
        if kind == "tasks":
            self._remove_task(where, body)
        self._room.give_back(uid(body))
        if known is None or uid(known) != uid(body):
            return False
        self._objects[kind].pop(where, None)
        self._unlink(kind, known)
        return True

    def _remove_task(self, where: Key, body: Object) -> None:
        sandbox = fields.sandbox_of(body)
        self.over.drop(sandbox, uid(body))
        self._given_up.pop(uid(body), None)
        self._close(sandbox, where, uid(body))

    def _bury(self, which: str, last: float) -> None:
        """Remember that it is gone: a list that was begun before may still have it."""
        self._deleted[which] = last
        if len(self._deleted) > _MOST_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def give_up(self, task: Object) -> None:
        """A Task whose end cannot be written is as good as over: it is not run, nor written about, again."""
        sandbox = fields.sandbox_of(task)
        self._given_up[uid(task)] = sandbox.namespace
        self._close(sandbox, key(task), uid(task))
        self._room.give_back(uid(task))

    def reconcile(
        self, kind: str, there: Mapping[str, tuple[Key, int]], namespace: str | None, listed: int
    ) -> tuple[list[Object], list[Key]]:
        """A list said which objects of a kind (in a namespace) there are: key and version by UID, as of ``listed``.

        Returns those that were known and are gone, then the keys of those that are not known in that version.
        What is newer than the list is not gone: an event was faster.
        """
        mine = [body for where, body in self._objects[kind].items() if namespace in (None, where.namespace)]
        gone = [body for body in mine if uid(body) not in there and version(body) <= listed]
        for body in gone:
            self.remove(kind, body)
        known = {uid(body): version(body) for body in mine}
        if kind == "tasks":
            self._forget_finished(there, namespace, listed)
            for which, its in list(self._given_up.items()):
                if which not in there and namespace in (None, its):
                    del self._given_up[which]
            known |= dict.fromkeys(self._given_up, listed)
            over = [each for at, each in self.over.items() if namespace in (None, at.namespace)]
            known |= {which: listed for finished in over for which in finished}
        return gone, self._news(kind, there, known)

    def _news(self, kind: str, there: Mapping[str, tuple[Key, int]], known: Mapping[str, int]) -> list[Key]:
        """Keys of objects not known in that version; so many of a namespace, and new ones only where there is room."""
        news, asked = [], Counter[str]()
        for which, (where, current) in there.items():
            before = known.get(which, -1)
            if before >= current or current <= self._deleted.get(which, -1) or asked[where.namespace] >= _MOST_NEWS:
                continue
            if before >= 0 or self._room.has(kind, where.namespace, which, _SMALL):
                asked[where.namespace] += 1
                news.append(where)
        return news

    def _forget_finished(self, there: Collection[str], namespace: str | None, listed: int) -> None:
        for sandbox in [each for each in self.over if namespace in (None, each.namespace)]:
            finished = self.over[sandbox]
            for task in [each for each in finished.values() if each.uid not in there and each.version <= listed]:
                self.over.drop(sandbox, task.uid)
                self._room.give_back(task.uid)

    def tasks(self, sandbox: Key) -> list[Object]:
        """A sandbox's Tasks that are not finished, in the order in which they run."""
        return sorted(self.open.get(sandbox, {}).values(), key=lambda task: (created(task), name(task)))

    def _put_task(self, where: Key, before: Object | None, body: Object) -> bool:
        sandbox = fields.sandbox_of(body)
        if uid(body) in self.over.get(sandbox, ()) or uid(body) in self._given_up:
            return False
        if fields.is_over(body):
            ttl = body["spec"].get("ttlSecondsAfterFinished")
            completed = (status_of(body).get("completionTime") or "")[:_LONGEST_TIME]
            ended = parse_timestamp(completed) or time.time()
            expires = ended + (DEFAULT_TTL_SECONDS if ttl is None else ttl)
            self._close(sandbox, where, uid(body))
            finished = Finished(where, uid(body), version(body), completed, expires, ttl is not None)
            if self._room.keep("tasks", body, sum(map(sys.getsizeof, (finished.key.name, completed, uid(body))))):
                self.over.add(sandbox, uid(body), finished)
            return before is not None
        kept = self._room.fit("tasks", slim("tasks", body))
        if kept is None:
            return False
        self._objects["tasks"][where] = kept
        self.open.add(sandbox, uid(kept), kept)
        return True

    def _close(self, sandbox: Key, where: Key, which: str) -> None:
        """A Task waits no more."""
        self.open.drop(sandbox, which)
        known = self._objects["tasks"].get(where)
        if known is not None and uid(known) == which:
            del self._objects["tasks"][where]

    def is_idle(self, pod: Object) -> bool:
        """True if a pod is an idle one of its pool."""
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

    # The ways from one to another

    def _link(self, kind: str, body: Object) -> None:
        if kind == "pods":
            self._link_pod(body)
        elif kind == "sandboxes":
            self.of_pool.add(fields.pool_of(body), uid(body), key(body))
            if (lease := owner(body, "Lease")) is not None:
                self.of_lease.add(lease, uid(body), key(body))

    def _unlink(self, kind: str, body: Object) -> None:
        if kind == "pods":
            self._unlink_pod(body)
        elif kind == "sandboxes":
            self.of_pool.drop(fields.pool_of(body), uid(body))
            if (lease := owner(body, "Lease")) is not None:
                self.of_lease.drop(lease, uid(body))

    def _link_pod(self, body: Object) -> None:
        pool, sandbox = _pool_of(body), self.ours.sandbox(body)
        if sandbox is not None:
            self.owned.add(sandbox, name(body), body)
            self.allocated.add(pool, uid(body), body)
        elif (body["metadata"].get("labels") or {}).get(pods.STATUS_LABEL) == pods.STATUS_IDLE:
            table = self.idle if self.ours.made_by(pool, body) else self.unproven
            table.add(pool, uid(body), body)

    def _unlink_pod(self, body: Object) -> None:
        pool, sandbox = _pool_of(body), self.ours.sandbox(body)
        for table in (self.idle, self.unproven, self.allocated):
            table.drop(pool, uid(body))
        if sandbox is not None:
            self.owned.drop(sandbox, name(body))


def _pool_of(pod: Object) -> Key:
    """The pool that a pod says it is of."""
    labels = pod["metadata"].get("labels") or {}
    return Key(pod["metadata"]["namespace"], labels.get(pods.POOL_LABEL, ""))
