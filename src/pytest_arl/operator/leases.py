"""Leases of runs: one that its holder lets run out is deleted, and its Sandboxes end with it.

Kubernetes deletes what a Lease owns, once that is gone. Somebody's finalizer may keep the Lease, somebody's bytes may
keep a Sandbox from being deleted, and a Lease without its label is no longer seen: the Sandboxes end all the same.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pytest_arl.operator import lifetimes
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.endings import delete_sandbox
from pytest_arl.operator.objects import is_name, key, leaving, owner_reference, uid
from pytest_arl.operator.paths import path

if TYPE_CHECKING:
    from pytest_arl.operator.control import Control
    from pytest_arl.operator.objects import Object

__all__ = ["Leases"]

_LOG = logging.getLogger(__name__)

_UNSEEN_SECONDS = 20.0
"""How long a Sandbox's Lease may be unknown before the API server is asked for it, and between two such questions:
Kubernetes deletes a Sandbox within seconds of its Lease.
"""


class Leases:
    """Decides when Leases end, and what they hold."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._store = control.store
        self._unseen: dict[str, float] = {}
        """When the Lease of a Sandbox, by its UID, is asked for."""

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

    def look_at_holder(self, sandbox: Object, seen: set[str], moment: float) -> None:
        """Look whether a Sandbox's Lease is there; ``seen`` are the UIDs of those that are followed."""
        reference = owner_reference(sandbox, "Lease")
        if reference is None or reference["uid"] in seen or leaving(sandbox):
            self._unseen.pop(uid(sandbox), None)
        elif moment >= self._unseen.setdefault(uid(sandbox), moment + _UNSEEN_SECONDS):
            self._unseen[uid(sandbox)] = moment + _UNSEEN_SECONDS
            self._control.jobs.once(("holder", uid(sandbox)), lambda: self._ask_for_holder(sandbox, reference))

    def forget(self, sandboxes: set[str]) -> None:
        """Forget all but these Sandboxes, by UID."""
        for gone in [which for which in self._unseen if which not in sandboxes]:
            del self._unseen[gone]

    async def _ask_for_holder(self, sandbox: Object, reference: Object) -> None:
        """End a Sandbox whose Lease is gone, or is no longer renewed."""
        clock, its = self._control.clock, reference["uid"]
        if is_name(reference["name"]):
            try:
                lease = await self._control.api.get(path("leases", key(sandbox).namespace, reference["name"]))
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                if uid(lease) == its:
                    moment = time.monotonic()
                    clock.see(its, lease, moment)
                    if not clock.over(its, lease, moment):
                        return
        clock.forget(its)
        _LOG.info("a sandbox has no lease any more: it goes", extra={"data": {"sandbox": "/".join(key(sandbox))}})
        await delete_sandbox(self._control, sandbox)

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
