"""One Sandbox object in the hands of its keeper: as the store has it, and what is written to its status."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.fields import pool_of
from pytest_arl.cluster.objects import Key, uid
from pytest_arl.operator import sandbox_status

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.context import Context
    from pytest_arl.operator.pod_problems import Problem

__all__ = ["KeptSandbox"]

_LOG = logging.getLogger(__name__)


class KeptSandbox:
    """The Sandbox of that UID.

    Attributes:
        key: its namespace and name. Another Sandbox may have them later.
        wake: set where it is to be looked at.
        began: when the operator first looked at it (monotonic).
    """

    def __init__(self, context: Context, body: Object, where: Key) -> None:
        self._api = context.api
        self._store = context.store
        self.key = where
        self.uid = uid(body)
        self.wake = asyncio.Event()
        self.began = time.monotonic()

    @property
    def body(self) -> Object | None:
        """The Sandbox, while it is this one."""
        found = self._store.get("sandboxes", self.key)
        return found if found is not None and uid(found) == self.uid else None

    @property
    def pool(self) -> Object | None:
        """Its pool."""
        body = self.body
        return None if body is None else self._store.get("warmpools", pool_of(body))

    async def fail(self, why: Problem) -> None:
        """The end by a failure: nothing will run in it any more."""
        body = self.body
        if body is None:
            return
        _LOG.info("sandbox failed", extra=self.data(reason=why.reason, why=why.message))
        await self.write(sandbox_status.failed(body, why))

    async def say(self, status: Object) -> None:
        """Write a status where it says something new."""
        body = self.body
        if body is not None and not sandbox_status.says(body, status):
            await self.write(status)

    async def write(self, status: Object) -> None:
        """Write a status; nothing where the Sandbox is gone already."""
        body = self.body
        if body is not None:
            self._store.put("sandboxes", await self._api.write_status("sandboxes", body, status))

    async def pause(self, seconds: float | None, *others: asyncio.Future[Any]) -> None:
        """Wait until something changes, one of the others is done, or the time is over."""
        woken = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait((woken, *others), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            self.wake.clear()

    def data(self, **more: object) -> dict[str, object]:
        """Fields of a log line."""
        return {"data": {"sandbox": "/".join(self.key), "uid": self.uid, **more}}
