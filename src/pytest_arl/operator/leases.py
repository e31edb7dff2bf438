"""Leases of runs: one that its holder lets run out is deleted, and its Sandboxes end with it.

Kubernetes deletes what a Lease owns, once that is gone. Somebody's finalizer may keep the Lease, somebody's bytes may
keep a Sandbox from being deleted, and a Lease without its label is no longer seen: the Sandboxes end all the same.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import is_name, key, leaving, owner_reference, uid
from pytest_arl.operator import lifetimes
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import delete_sandbox
from pytest_arl.operator.paths import path
from pytest_arl.operator.sandbox_status import finished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.control import Control

__all__ = ["Leases"]

_LOG = logging.getLogger(__name__)

_UNSEEN_SECONDS, _LONGEST_UNSEEN_SECONDS = 20.0, 320.0
"""How long a Sandbox's Lease may be unknown before the API server is asked for it: Kubernetes deletes a Sandbox within
seconds of its Lease. Between two such questions it is twice as long each time.
"""


class Leases:
    """Decides when Leases end, and what they hold."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._store = control.store
        self._unseen: dict[str, tuple[float, float]] = {}
        """By UID of a Lease, when it is asked for, and the pause before that."""

    def look(self, lease: Object, moment: float) -> None:
        """Look at a Lease; ``moment`` is monotonic."""
        clock, jobs = self._control.clock, self._control.jobs
        clock.see(uid(lease), lease, moment)
        if not lifetimes.is_of_a_run(lease) or not clock.over(uid(lease), lease, moment):
            return
        if not leaving(lease):
            jobs.once(("lease", uid(lease)), lambda: self._end(lease))
        elif any(not leaving(body) for body in self._held(lease)):
            jobs.once(("lease", uid(lease)), lambda: self._end_held(lease))

    def look_at_holders(self, sandboxes: Iterable[Object], seen: set[str], moment: float) -> None:
        """Look whether the Leases of these Sandboxes are there; ``seen`` are the UIDs of those that are followed.

        Each is asked for once, however many Sandboxes it has, and less often while the answer stays the same.
        """
        unseen: dict[str, Object] = {}
        for body in sandboxes:
            reference = owner_reference(body, "Lease")
            if reference is not None and reference["uid"] not in seen and not leaving(body) and not finished(body):
                unseen[reference["uid"]] = {"name": reference["name"], "namespace": key(body).namespace}
        for gone in [its for its in self._unseen if its not in unseen]:
            del self._unseen[gone]
            self._control.clock.forget(gone)
        for its, where in unseen.items():
            asked, pause = self._unseen.setdefault(its, (moment + _UNSEEN_SECONDS, _UNSEEN_SECONDS))
            if moment >= asked:
                pause = min(2 * pause, _LONGEST_UNSEEN_SECONDS)
                self._unseen[its] = moment + pause, pause
                lane = "holders", where["namespace"]
                self._control.jobs.in_turn(lane, ("holder", its), lambda its=its, where=where: self._ask(its, where))  # type: ignore[misc]  # bound loop variables

    async def _ask(self, its: str, where: Object) -> None:
        """End the Sandboxes of a Lease that is gone, or is no longer renewed."""
        if await self._is_renewed(its, where):
            return
        held = self._store.of_lease[its].values()
        for body in [self._store.get("sandboxes", at) for at in held if at.namespace == where["namespace"]]:
            if body is not None and not leaving(body):
                _LOG.info("a sandbox has no lease any more: it goes", extra={"data": {"sandbox": "/".join(key(body))}})
                await delete_sandbox(self._control, body)

    async def _is_renewed(self, its: str, where: Object) -> bool:
        if not is_name(where["name"]):
            return False
        try:
            lease = await self._control.api.get_large(path("leases", where["namespace"], where["name"]))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        moment = time.monotonic()
        self._control.clock.see(its, lease, moment)
        return uid(lease) == its and not self._control.clock.over(its, lease, moment)

    def _held(self, lease: Object) -> list[Object]:
        held = [at for at in self._store.of_lease[uid(lease)].values() if at.namespace == key(lease).namespace]
        return [body for at in held if (body := self._store.get("sandboxes", at)) is not None]

    async def _end_held(self, lease: Object) -> None:
        for body in self._held(lease):
            if not leaving(body):
                await delete_sandbox(self._control, body)

    async def _end(self, lease: Object) -> None:
        where = key(lease)
        _LOG.info("a lease is over: its sandboxes go", extra={"data": {"lease": "/".join(where)}})
        version = lease["metadata"]["resourceVersion"]
        await self._control.api.delete(path("leases", *where), uid(lease), version)
