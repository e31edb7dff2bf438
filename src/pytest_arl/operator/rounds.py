"""Rounds, for all that no event tells: times that are over, leases that nobody renews, stray pods, missed events.

A round looks at one object after the other and only decides; what has to be written or deleted is a job of its own
(jobs.py). So no object, and no namespace, holds up a round.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from pytest_arl.cluster import fields
from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import age, controller, is_name, key, leaving, status_of, uid
from pytest_arl.operator import lifetimes, sandbox_status, task_status
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import write, write_end
from pytest_arl.operator.leases import Leases
from pytest_arl.operator.pod_problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.control import Control
    from pytest_arl.operator.sandbox_keeper import SandboxKeeper
    from pytest_arl.operator.store import Finished

__all__ = ["Rounds"]

_LOG = logging.getLogger(__name__)

_ROUND_SECONDS = 0.5
_LATE_SECONDS = 1.0
_RESYNC_SECONDS, _LONGEST_RESYNC_SECONDS = 60.0, 1200.0
_RESYNC_PAUSES = 20
"""A namespace whose objects take long to list is listed again less often: no event is lost but by a fault."""
_DEAD_SECONDS = 20.0
"""Time without a whole round after which the operator is not ready: what it says of objects is old."""

_NOT_FOUND_SECONDS = 10.0
"""Time for which a Task's Sandbox may be missing: the objects of one apply come in any order."""

_LAST_TASK_SECONDS = 30.0
_ASKED_SECONDS = 600.0
"""Time after which a finished Task that was deleted, and is still there, is deleted again."""
_BUSY_SURPLUS = 200
"""Finished Tasks over the bound that are left alone while the sandbox is busy: deleting costs what running does."""


class Rounds:
    """Goes round all objects for ever. ``resync`` asks the API server for what there is."""

    def __init__(self, control: Control, resync: Callable[[str | None], Awaitable[None]]) -> None:
        self._control = control
        self._context = control.context
        self._store = control.context.store
        self._api = control.context.api
        self._jobs = control.context.jobs
        self._resync = resync
        self._leases = Leases(control)
        self._ended = time.monotonic()
        self._asked: dict[str, float] = {}
        self._due: dict[str | None, float] = {}
        """The time when a namespace is listed again."""

    @property
    def alive(self) -> bool:
        """True if a whole round was made lately."""
        return time.monotonic() - self._ended < _DEAD_SECONDS

    async def run(self) -> None:
        """Run for ever."""
        self._due = dict.fromkeys(self._control.namespaces, time.monotonic() + _RESYNC_SECONDS)
        while True:
            began = time.monotonic()
            await asyncio.sleep(_ROUND_SECONDS)
            late = time.monotonic() - began - _ROUND_SECONDS
            if late > _LATE_SECONDS:
                _LOG.warning("the operator was held up for %.1f s: it needs more CPU", late)
            try:
                self.once()
            except Exception:  # noqa: BLE001 - the end of readiness, and not of the rounds
                _LOG.exception("a round was not finished")
                continue
            self._ended = time.monotonic()
            for namespace, due in self._due.items():
                if time.monotonic() > due and self._control.serves(namespace):
                    self._jobs.once(("resync", namespace), partial(self._look_again, namespace))

    def once(self) -> None:
        """One round."""
        moment = time.monotonic()
        leases = self._store.all("leases")
        self._each("lease", leases, lambda lease: self._leases.look(lease, moment))
        keepers = [keeper for keeper, _ in self._control.sandboxes.values()]
        kept = [(keeper, body) for keeper in keepers if (body := keeper.sandbox.body) is not None]
        self._leases.look_at_holders((body for _, body in kept), leases, moment)
        for keeper, body in kept:
            self._each("lifetime", [body], lambda body, keeper=keeper: self._lifetime(keeper, body))  # type: ignore[misc]  # a bound loop variable
        tasks = self._store.all("tasks")
        there, orphans = set(map(uid, tasks)), self._control.orphans
        for gone in [which for which in orphans if which not in there]:
            del orphans[gone]
        self._each("orphan", tasks, self._orphan)
        self._finished_tasks()

    def _each(self, what: str, bodies: Iterable[Object], look: Callable[[Object], None]) -> None:
        """Look at each; one that is not understood is told of, and left alone for a while."""
        for body in bodies:
            named = what, uid(body)
            if self._jobs.resting(named):
                continue
            try:
                look(body)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
                self._jobs.failed(named, error)
                text = f"the operator does not serve it for a while after an error: {type(error).__name__}: {error}"
                self._context.notices.warn(body, "NotUnderstood", text)

    # Sandboxes

    def _lifetime(self, keeper: SandboxKeeper, body: Object) -> None:
        if leaving(body):
            return
        pool = self._store.get("warmpools", fields.pool_of(body))
        busy = keeper.busy or bool(self._store.open.get(keeper.sandbox.key))
        idle = time.monotonic() - keeper.active
        why = lifetimes.expired(lifetimes.limits_of(body, pool), age=age(body, time.time()), idle=idle, busy=busy)
        if why is not None:
            self._jobs.once(("lifetime", keeper.sandbox.uid), lambda: self._end(keeper, body, Problem(*why)))
        elif keeper.tell_activity(_LAST_TASK_SECONDS):
            self._context.spawn(keeper.write_activity())

    async def _end(self, keeper: SandboxKeeper, body: Object, why: Problem) -> None:
        """Say why, for whoever watches; then delete, whether or not that could be said."""
        _LOG.info("sandbox ends", extra={"data": {"sandbox": "/".join(keeper.sandbox.key), "reason": why.reason}})
        if not sandbox_status.finished(body):
            try:
                await keeper.sandbox.write(sandbox_status.failed(body, why))
            except ApiError as error:
                _LOG.warning("the end of a sandbox was not written: %s", error, extra=keeper.sandbox.data())
        await self._control.delete_sandbox(body)

    # Tasks

    def _orphan(self, task: Object) -> None:
        """A Task whose sandbox is not there."""
        control, which = self._control, uid(task)
        sandbox = fields.sandbox_of(task)
        if not control.serves(sandbox.namespace):
            return
        if sandbox in control.sandboxes:
            control.orphans.pop(which, None)
            return
        text = f"there is no Sandbox {sandbox.name} in namespace {sandbox.namespace}"
        since = control.orphans.setdefault(which, time.monotonic())
        if time.monotonic() - since >= _NOT_FOUND_SECONDS:
            self._jobs.in_turn(("orphans", sandbox.namespace), ("end", which), lambda: self._end_orphan(task, text))
        elif not status_of(task).get("conditions"):
            self._jobs.in_turn(("waiting", sandbox.namespace), ("wait", which), lambda: self._say(task, text))

    async def _say(self, task: Object, text: str) -> None:
        try:
            await write(self._context, task, lambda: task_status.waiting(task, "SandboxNotFound", text))
        except ApiError as error:  # in its lane it would come again, whether or not the Sandbox has come meanwhile
            self._jobs.failed(("orphan", uid(task)), error)

    async def _end_orphan(self, task: Object, text: str) -> None:
        if fields.sandbox_of(task) in self._control.sandboxes:
            return  # it came while others were written
        await write_end(self._context, task, lambda _: task_status.failed(task, "SandboxNotFound", text, time.time()))
        self._control.orphans.pop(uid(task), None)

    def _finished_tasks(self) -> None:
        wall, moment = time.time(), time.monotonic()
        self._asked = {which: at for which, at in self._asked.items() if moment - at < _ASKED_SECONDS}
        for sandbox, tasks in list(self._store.over.items()):
            # Somebody's finalizer may keep one that was deleted.
            finished = {which: each for which, each in tasks.items() if which not in self._asked}
            gone = {each.uid: each for each in finished.values() if wall >= each.expires}
            extra = _BUSY_SURPLUS if self._store.open.get(sandbox) else 0
            for own, bound in ((True, lifetimes.MOST_FINISHED), (False, lifetimes.MOST_FINISHED_BY_HAND)):
                kept = [each for each in finished.values() if each.own_ttl is own]
                if len(kept) > bound + extra:
                    spare = lifetimes.surplus([(each.completed, each.key.name, each.uid) for each in kept], bound)
                    gone |= {which: finished[which] for which in spare}
            for each in gone.values():
                lane = "deletes", sandbox.namespace
                self._jobs.in_turn(lane, ("delete", each.uid), lambda each=each: self._delete(each))  # type: ignore[misc]  # a bound loop variable

    async def _delete(self, task: Finished) -> None:
        """Delete a Task; its event takes it from the store."""
        await self._api.delete(path("tasks", *task.key), task.uid)
        self._asked[task.uid] = time.monotonic()

    # What no event told

    async def _look_again(self, namespace: str | None) -> None:
        began = time.monotonic()
        await self._resync(namespace)
        ended = time.monotonic()
        pause = min(_RESYNC_PAUSES * (ended - began), _LONGEST_RESYNC_SECONDS)
        self._due[namespace] = ended + max(_RESYNC_SECONDS, pause)
        for where, pool in list(self._control.pools.items()):
            if namespace in (None, where.namespace):
                pool.forget()
        self._control.look_at_idle_pods()
        self.stray_pods(namespace)

    def stray_pods(self, namespace: str | None = None) -> None:
        """Find pods in use by nobody, in a namespace or in all."""
        known = {uid(body) for body in self._store.all("sandboxes")}
        pods = [pod for pod in self._store.all("pods") if namespace in (None, key(pod).namespace)]
        self._each("stray", pods, lambda pod: self._stray(pod, known))

    def _stray(self, pod: Object, known: set[str]) -> None:
        ours = self._store.ours
        its = ours.claimed(pod)
        # Without a claim it is nobody's that we know of, whatever its labels say.
        if (
            its is None
            or leaving(pod)
            or not self._control.serves(key(pod).namespace)
            or (its in known and ours.sandbox(pod) is not None)
        ):
            return
        # A claim sets its owner, too: somebody has deleted its Sandbox and orphaned it.
        reference = None if its in known else controller(pod, "Sandbox")
        self._jobs.once(("stray", uid(pod)), lambda: self._end_stray(pod, its, reference))

    async def _end_stray(self, pod: Object, its: str, reference: Object | None) -> None:
        """Delete a pod whose Sandbox is gone, by a look at the API itself."""
        if reference is not None and is_name(reference["name"]):
            try:
                found = await self._api.get(path("sandboxes", pod["metadata"]["namespace"], reference["name"]))
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                if uid(found) == its:
                    return
        await self._context.delete_pod(pod)
