"""Events of others about a pod, for the reason why it does not start.

The API server reads all Events of a namespace to find those of one object, and somebody may have made thousands. So a
namespace has one such question at a time, and then a pause of many times what it took: they are a help and no promise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import path
from pytest_arl.operator.pod_problems import shortened

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.async_api import AsyncApi

__all__ = ["Events"]

_PAUSES = 20
"""Pauses for each second that the API server took: it reads a few Events in some milliseconds."""

_LONGEST_PAUSE = 60.0


class Events:
    """Asks for Events."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api
        self._asking: set[str] = set()
        self._again: dict[str, float] = {}

    async def about(self, which: str, namespace: str) -> list[Object] | None:
        """The Events about an object of that UID; None where the namespace is not to be asked now."""
        if namespace in self._asking or time.monotonic() < self._again.get(namespace, 0.0):
            return None
        self._asking.add(namespace)
        began = time.monotonic()
        try:
            query = f"involvedObject.uid={which}"
            return await self._api.items(path("events", namespace), shortened, fieldSelector=query)
        finally:
            moment = time.monotonic()
            self._again = {each: until for each, until in self._again.items() if until > moment}
            self._again[namespace] = moment + min(_PAUSES * (moment - began), _LONGEST_PAUSE)
            self._asking.discard(namespace)
