"""Leases of runs: one that its holder lets run out is deleted, and its Sandboxes end with it.

Kubernetes deletes what a Lease owns, once that is gone. Somebody's finalizer may keep the Lease, somebody's bytes may
keep a Sandbox from being deleted, and a Lease without its label is no longer seen: the Sandboxes end all the same.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.cluster.kinds import path
from pytest_arl.cluster.objects import is_name, key, leaving, owner_reference, uid
from pytest_arl.operator import lifetimes
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.sandbox_status import finished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.control import Control

__all__ = ["Leases"]

_LOG = logging.getLogger(__name__)

_UNSEEN_SECONDS, _LONGEST_UNSEEN_SECONDS = 20.0, 320.0
"""Time a Sandbox's Lease may be unknown before the API server is asked for it: Kubernetes deletes a Sandbox within
seconds of its Lease. Between two such questions it is twice as long each time.
"""


class _LeaseRef(NamedTuple):
    """The Lease that a Sandbox names. Its maker chose name and UID: those of another namespace may name the same."""

    namespace: str
    name: str
    uid: str


def _holder(sandbox: Object) -> _LeaseRef | None:
    reference = owner_reference(sandbox, "Lease")
    return None if reference is None else _LeaseRef(key(sandbox).namespace, reference["name"], reference["uid"])


class Leases:
    """Decides when Leases end, and what they hold."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._context = control.context
        self._store = control.context.store
        self._clock = lifetimes.Clock()  # of those that are asked for
        self._unseen: dict[_LeaseRef, tuple[float, float]] = {}
        """The time when a Lease is asked for, and the pause before that."""

    def look(self, lease: Object, moment: float) -> None:
        """Look at a Lease; ``moment`` is monotonic."""
        clock, jobs = self._control.clock, self._context.jobs
        clock.see(uid(lease), lease, moment)
        if not lifetimes.is_of_a_run(lease) or not clock.over(uid(lease), lease, moment):
            return
        if not leaving(lease):
            jobs.once(("lease", uid(lease)), lambda: self._end(lease))
        elif any(not leaving(body) for body in self._held(lease)):
            jobs.once(("lease", uid(lease)), lambda: self._end_held(lease))

    def look_at_holders(self, sandboxes: Iterable[Object], leases: Iterable[Object], moment: float) -> None:
        """Look whether the Leases of these Sandboxes are there; ``leases`` are those that are followed.

        Each is asked for once, however many Sandboxes it has, and less often while the answer stays the same.
        """
        followed = {(key(lease).namespace, uid(lease)) for lease in leases}
        unseen = {
            holder
            for body in sandboxes
            if not leaving(body)
            and not finished(body)
            and (holder := _holder(body)) is not None
            and (holder.namespace, holder.uid) not in followed
        }
        for gone in self._unseen.keys() - unseen:
            del self._unseen[gone]
            self._clock.forget(gone)
        for holder in unseen:
            due, pause = self._unseen.setdefault(holder, (moment + _UNSEEN_SECONDS, _UNSEEN_SECONDS))
            if moment >= due:
                pause = min(2 * pause, _LONGEST_UNSEEN_SECONDS)
                self._unseen[holder] = moment + pause, pause
                lane = "holders", holder.namespace
                self._context.jobs.in_turn(lane, ("holder", holder), partial(self._end_unheld, holder))

    async def _end_unheld(self, holder: _LeaseRef) -> None:
        """End the Sandboxes of a Lease that is gone, or is no longer renewed."""
        if await self._is_renewed(holder):
            return
        held = self._store.of_lease[holder.uid].values()
        for body in [self._store.get("sandboxes", at) for at in held if at.namespace == holder.namespace]:
            if body is not None and not leaving(body) and _holder(body) == holder:
                _LOG.info(
                    "a sandbox has no lease any more and is deleted", extra={"data": {"sandbox": "/".join(key(body))}}
                )
                await self._control.delete_sandbox(body)

    async def _is_renewed(self, holder: _LeaseRef) -> bool:
        if not is_name(holder.name):
            return False
        try:
            lease = await self._context.api.get_large(path("leases", holder.namespace, holder.name))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        if uid(lease) != holder.uid:
            return False
        moment = time.monotonic()
        self._clock.see(holder, lease, moment)
        return not self._clock.over(holder, lease, moment)

    def _held(self, lease: Object) -> list[Object]:
        held = [at for at in self._store.of_lease[uid(lease)].values() if at.namespace == key(lease).namespace]
        return [body for at in held if (body := self._store.get("sandboxes", at)) is not None]

    async def _end_held(self, lease: Object) -> None:
        for body in self._held(lease):
            if not leaving(body):
                await self._control.delete_sandbox(body)

    async def _end(self, lease: Object) -> None:
        where = key(lease)
        _LOG.info("a lease has expired: its sandboxes are deleted", extra={"data": {"lease": "/".join(where)}})
        version = lease["metadata"]["resourceVersion"]
        await self._context.api.delete(path("leases", *where), uid(lease), version)
