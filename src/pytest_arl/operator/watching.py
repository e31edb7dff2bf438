"""Lists and watches of all that the operator decides about.

Written here, as the memory of a list is the question: what is listed is looked at a page at a time, each object is
made slim as it comes, and a second list asks for metadata only. A library that hands out whole lists, or whole
objects to workers of its own (kopf 1.45 keeps each for five seconds), holds as much as tenants care to make.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from pytest_arl.cluster.kinds import KINDS, path
from pytest_arl.cluster.objects import Key, key, uid, version
from pytest_arl.operator.api_errors import ApiError
from pytest_arl.operator.store import FOLLOWED, SELECTED

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.control import Control

__all__ = ["Watching"]

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_START_SECONDS = 5.0
"""Time in which all namespaces are begun with before the operator says that it leads."""
_GONE = 410
_LIST_ATTEMPTS = 5


class Watching:
    """Follows every kind in every namespace that the operator works in.

    Each namespace is listed by itself: what one tenant has made, however much, keeps no other from being served.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._followed = {
            namespace: [Followed(control, kind, namespace) for kind in FOLLOWED] for namespace in control.namespaces
        }
        self._firsts: dict[str | None, asyncio.Future[ApiError | None]] = {}
        self._following: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow every namespace; each is served once all of it was seen. Returns when one of them is, and the
        others are as well or take longer than some seconds. ApiError where none can be listed.
        """
        loop = asyncio.get_running_loop()
        self._firsts = {each: loop.create_future() for each in self._followed}
        self._following = [asyncio.create_task(self._follow(each)) for each in self._followed]
        until = time.monotonic() + _START_SECONDS
        pending = set(self._firsts.values())
        while pending and (time.monotonic() < until or not self._begun):
            seconds = max(0.0, until - time.monotonic()) if self._begun else None
            _, pending = await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not self._begun:
            self.stop()
            raise next(error for each in self._firsts.values() if (error := each.result()) is not None)

    @property
    def _begun(self) -> bool:
        return any(each.done() and each.result() is None for each in self._firsts.values())

    def stop(self) -> None:
        """Follow no longer."""
        for each in self._following:
            each.cancel()

    async def _list(self, namespace: str | None) -> ApiError | None:
        """Begin with a namespace once all of it was listed, and return None; else the error, whatever it was.

        Half a list would make orphans of Tasks whose Sandbox it does not have yet.
        """
        for followed in self._followed[namespace]:
            try:
                await followed.list()
            except Exception as error:  # noqa: BLE001 - whatever is in it keeps no other namespace from being served
                refusal = error if isinstance(error, ApiError) else ApiError(0, "NotUnderstood", repr(error))
                _LOG.error("%s in %s cannot be listed: %s", followed.kind, namespace or "all namespaces", refusal)
                return refusal
        self._control.begin(namespace)
        return None

    async def run(self) -> None:
        """Follow for ever what :meth:`start` has begun with."""
        await asyncio.gather(*self._following)

    async def _follow(self, namespace: str | None) -> None:
        pause = _FIRST_PAUSE
        refusal = await self._list(namespace)
        self._firsts[namespace].set_result(refusal)
        while refusal is not None:
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)
            refusal = await self._list(namespace)
        async with asyncio.TaskGroup() as group:
            for each in self._followed[namespace]:
                group.create_task(each.run())

    async def resync(self, namespace: str | None) -> None:
        """Find what no watch told of a namespace, or of all: compare what is known with metadata of what there is."""
        for each in self._followed[namespace]:
            try:
                await each.compare()
            except ApiError as error:  # the others are looked at all the same
                _LOG.warning("%s could not be listed again: %s", each.kind, error)


class Followed:
    """One kind of objects, in one namespace or in all of them.

    Attributes:
        kind: its plural.
        namespace: None for all of them.
    """

    def __init__(self, control: Control, kind: str, namespace: str | None) -> None:
        self._control = control
        self._api = control.context.api
        self.kind = kind
        self.namespace = namespace
        self._where = path(kind, namespace)
        self._params = {"labelSelector": SELECTED[kind]} if kind in SELECTED else {}
        self._version = ""

    async def list(self) -> None:
        """Look at all that there is."""
        there, listed = await self._there(metadata=False)
        self._version = listed
        self._control.listed(self.kind, there, self.namespace, _number(listed))

    async def compare(self) -> None:
        """Look at what is known, and ask for what is not, or in another version."""
        there, listed = await self._there(metadata=True)
        for where in self._control.listed(self.kind, there, self.namespace, _number(listed)):
            try:
                found = await self._api.get(path(self.kind, *where))
            except ApiError as error:
                if error.status != 404:
                    _LOG.warning("one of the %s was not read again: %s", self.kind, error)
            else:
                self._control.event(self.kind, False, self._complete(found))

    async def _there(self, *, metadata: bool) -> tuple[dict[str, tuple[Key, int]], str]:
        """Key and version of each object by its UID, and the version of the list. Whole objects are events, too."""
        for attempt in range(_LIST_ATTEMPTS):
            there: dict[str, tuple[Key, int]] = {}
            listed = ""
            try:
                async for items, current in self._api.pages(self._where, metadata=metadata, **self._params):
                    listed = current
                    for body in items:
                        there[uid(body)] = key(body), version(body)
                        if not metadata:
                            self._control.event(self.kind, False, self._complete(body))
                    del items  # one page at a time
            except ApiError as error:
                if error.status != _GONE or attempt + 1 == _LIST_ATTEMPTS:
                    raise
            else:
                return there, listed
        raise AssertionError("a list has an end")

    async def run(self) -> None:
        """Follow for ever: from the last version that was seen, by a new list where that is forgotten."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            if not self._version:
                await self._list_again()
            try:
                if self._version:
                    async with aclosing(self._api.watch(self._where, self._version, **self._params)) as events:
                        async for event in events:
                            self._seen(event)
            except ApiError as error:
                if error.status == _GONE:
                    await self._list_again()
                else:
                    _LOG.info("the watch of %s is opened again: %s", self.kind, error)
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _list_again(self) -> None:
        try:
            await self.list()
        except ApiError as error:
            _LOG.warning("%s could not be listed: %s", self.kind, error)

    def _seen(self, event: Object) -> None:
        """One event of the watch. ApiError where it is its end."""
        kind, body = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiError(int(body.get("code") or 0), str(body.get("reason") or ""), str(body.get("message") or ""))
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self._control.event(self.kind, kind == "DELETED", self._complete(body))
        self._version = body["metadata"].get("resourceVersion") or self._version

    def _complete(self, body: Object) -> Object:
        """An item of a list with what only the list says."""
        version, kind = KINDS[self.kind]
        body.setdefault("apiVersion", version)
        body.setdefault("kind", kind)
        return body


def _number(listed: str) -> int:
    return int(listed) if listed.isdecimal() else 0
