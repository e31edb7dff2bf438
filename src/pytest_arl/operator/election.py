"""One operator at a time: a Lease, whose transitions are the epoch that agents compare.

A leader that cannot renew stops before another may start: it gives up after two thirds of the lease, by its own
monotonic clock; the other one waits for the whole of it, by its own. Agents refuse an older epoch besides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.kinds import KINDS, path
from pytest_arl.cluster.pod import OPERATOR_LEASE
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.text.timestamps import now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi

__all__ = ["Leadership", "LeadershipLost", "Term", "may_take"]

_LOG = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """Another one may lead by now."""


def may_take(spec: Object, identity: str, unchanged_seconds: float) -> bool:
    """True if a lease is free: nobody's, its holder's predecessor's, or not renewed for as long as it lasts."""
    holder = spec.get("holderIdentity") or ""
    return holder in ("", identity) or unchanged_seconds > float(spec.get("leaseDurationSeconds") or 15)


class Leadership:
    """The lease in the hands of this process, once :meth:`acquire` has returned.

    Attributes:
        identity: of this process.
        epoch: higher than that of every leader before.
    """

    def __init__(self, api: AsyncApi, namespace: str, identity: str, seconds: float) -> None:
        self._api = api
        self._where = path("leases", namespace, OPERATOR_LEASE)
        self._all = path("leases", namespace)
        self._namespace = namespace
        self.identity = identity
        self._seconds = seconds
        self._body: Object = {}
        self._renewed = 0.0
        self.epoch = 0

    async def acquire(self) -> None:
        """Wait until this process leads."""
        seen, since, told = "", time.monotonic(), False
        while True:
            began = time.monotonic()
            try:
                found = await self._api.get(self._where)
            except ApiError as error:
                if error.status != 404:
                    raise
                if await self._write(None, _first_epoch()):
                    break
                continue
            spec = found.get("spec") or {}
            if found["metadata"]["resourceVersion"] != seen:
                seen, since = found["metadata"]["resourceVersion"], began
            if may_take(spec, self.identity, began - since):
                if await self._write(found, int(spec.get("leaseTransitions") or _first_epoch()) + 1):
                    break
                continue
            if not told:
                _LOG.info("standing by: %s leads", spec.get("holderIdentity"))
                told = True
            await asyncio.sleep(min(1.0, self._seconds / 5))
        _LOG.info("leading", extra={"data": {"epoch": self.epoch, "identity": self.identity}})

    async def keep(self) -> None:
        """Renew for ever; LeadershipLost.

        A renewal that failed is tried again every fifteenth of the lease, at most a second: an API server that comes
        back within the two thirds finds its leader still leading.
        """
        while True:
            usual = self._renewed + self._seconds / 4 - time.monotonic()
            await asyncio.sleep(max(usual, min(1.0, self._seconds / 15)))
            left = self._renewed + self._seconds * 2 / 3 - time.monotonic()
            if left <= 0:
                raise LeadershipLost("the lease could not be renewed in time")
            try:
                async with asyncio.timeout(left):
                    if not await self._write(self._body, self.epoch):
                        await self._look()
                        if not await self._write(self._body, self.epoch):
                            raise LeadershipLost("another process writes the lease")
            except TimeoutError:
                raise LeadershipLost("the API server did not take a renewal in time") from None
            except ApiError as error:
                _LOG.warning("the lease was not renewed: %s", error)

    async def confirm(self) -> None:
        """Ask the API server whose the lease is, and nobody else; LeadershipLost where it is not ours."""
        await self._look()

    async def release(self) -> None:
        """Let the next one start at once. A renewal whose answer nobody waited for may have come before it."""
        for attempt in range(2):
            try:
                if attempt:
                    await self._look()
                body = {**self._body, "spec": {**self._body["spec"], "holderIdentity": ""}}
                await self._api.replace(self._where, body, patience=1.0)
            except LeadershipLost:
                return
            except ApiError as error:
                if error.status == 409 and not attempt:
                    continue
                _LOG.warning("the lease was not released: %s", error)
            return

    async def _look(self) -> None:
        """Somebody has written the lease: perhaps it was ourselves, and the answer was lost."""
        found = await self._api.get(self._where)
        spec = found.get("spec") or {}
        if spec.get("holderIdentity") != self.identity or spec.get("leaseTransitions") != self.epoch:
            raise LeadershipLost(f"{spec.get('holderIdentity')} leads")
        self._body = found

    async def _write(self, before: Object | None, epoch: int) -> bool:
        """Write the lease as ours; whether nobody was faster."""
        began, moment = time.monotonic(), now()
        old: dict[str, Any] = {} if before is None else before.get("spec") or {}
        fresh = old.get("leaseTransitions") != epoch
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": moment if fresh else old.get("acquireTime"),
            "renewTime": moment,
            "leaseTransitions": epoch,
        }
        meta = {"name": OPERATOR_LEASE, "namespace": self._namespace} if before is None else before["metadata"]
        body = {"apiVersion": KINDS["leases"].api_version, "kind": KINDS["leases"].name, "metadata": meta, "spec": spec}
        try:
            if before is None:
                self._body = await self._api.create(self._all, body)
            else:
                self._body = await self._api.replace(self._where, body, patience=0)
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        self._renewed, self.epoch = began, epoch
        return True


@dataclass(frozen=True, slots=True)
class Term:
    """The time for which this process leads, as the rest of it knows it.

    Attributes:
        identity: of this process.
        epoch: higher than that of every leader before.
        confirm: asks the API server whose the lease is; LeadershipLost where it is not ours.
    """

    identity: str
    epoch: int
    confirm: Callable[[], Awaitable[None]]

    @classmethod
    def of(cls, leadership: Leadership, call: Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]) -> Term:
        """The election of a leadership whose requests are made in another loop, by ``call``."""
        return cls(leadership.identity, leadership.epoch, lambda: call(leadership.confirm()))


def _first_epoch() -> int:
    """An epoch for a new lease: higher than any forgotten one. Minutes, as it has 31 bits."""
    return int(time.time()) // 60
