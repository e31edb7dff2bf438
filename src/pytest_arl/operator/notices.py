"""Events of Kubernetes: what went wrong with an object, where ``kubectl describe`` shows it."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import UnsafeName, path
from pytest_arl.cluster.objects import key, uid
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.text.timestamps import now
from pytest_arl.text.untrusted import readable

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi
    from pytest_arl.operator.jobs import Jobs

__all__ = ["Notices"]

_LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 600.0
_MOST_REMEMBERED = 5_000
_MOST_AT_ONCE = 10
"""Events of a namespace on their way; more than these are left out, as they are a help and no promise."""

_MOST_MESSAGE = 1024
"""Characters of an Event's message, by the API server's own rule."""


class Notices:
    """Writes Warnings about objects of ours, each of a kind at most every ten minutes."""

    def __init__(self, api: AsyncApi, jobs: Jobs, identity: str) -> None:
        self._api = api
        self._jobs = jobs
        self._identity = identity[:128]
        self._told: dict[tuple[str, str], float] = {}
        self._on_their_way: Counter[str] = Counter()

    def warn(self, body: Object, reason: str, message: str) -> None:
        """Say of an object what is wrong with it."""
        which, moment = (uid(body), reason), time.monotonic()
        namespace = body["metadata"]["namespace"]
        if moment - self._told.get(which, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return
        if self._on_their_way[namespace] >= _MOST_AT_ONCE:
            return
        self._told.pop(which, None)
        self._told[which] = moment
        if len(self._told) > _MOST_REMEMBERED:
            del self._told[next(iter(self._told))]
        self._on_their_way[namespace] += 1
        _ = self._jobs.start(self._write(body, reason, readable(message, _MOST_MESSAGE)))

    async def _write(self, body: Object, reason: str, message: str) -> None:
        where = key(body)
        moment = now()
        about = {"apiVersion": body.get("apiVersion"), "kind": body.get("kind"), "name": where.name, "uid": uid(body)}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{where.name[:200]}.{secrets.token_hex(8)}", "namespace": where.namespace},
            "involvedObject": {**about, "namespace": where.namespace},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "eventTime": moment,
            "action": "Reconcile",
            "reportingComponent": "arl-operator",
            "reportingInstance": self._identity,
        }
        try:
            await self._api.create(path("events", where.namespace), event)
        except (ApiError, UnsafeName) as error:
            _LOG.info("an Event was not written: %s", error, extra={"data": {"object": "/".join(where)}})
        finally:
            self._on_their_way[where.namespace] -= 1
            if not self._on_their_way[where.namespace]:
                del self._on_their_way[where.namespace]
