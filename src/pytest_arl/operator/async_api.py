"""The API server, spoken to directly: JSON in, JSON out, retries of what is safe to ask again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import re
import time
from collections import defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING

import aiohttp
import yarl

from pytest_arl.cluster import json_text
from pytest_arl.cluster.kinds import path
from pytest_arl.operator.api_errors import CONTENDED, GARBLED, AnswerTooLong, ApiError
from pytest_arl.operator.credentials import connection
from pytest_arl.operator.loop_share import LoopShare
from pytest_arl.operator.managed_fields import ManagedFields

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from typing import Self

    import kopf

    from pytest_arl.cluster.objects import Object

__all__ = ["AsyncApi"]

_LOG = logging.getLogger(__name__)

_REQUEST_SECONDS = 20.0
_MOST_CONNECTIONS = 24
"""Each has a buffer of 256 KiB in asyncio's TLS, and the API server is no faster for more of them."""

_MOST_OF_A_NAMESPACE = 12
"""Requests about one namespace at a time: a namespace that keeps the operator busy leaves connections to the others."""

_FIRST_PAGE, _LARGEST_PAGE = 16, 500
_SMALL_PAGE_BYTES, _MOST_PAGE_BYTES = 512 * 1024, 2 * 1024 * 1024
"""Pages grow while they are small; one that is larger than that is read no further, and asked for again in parts. An
object may have 1.5 MB, most have 2 KB; as Python has them, they take up to 40 times as much.
"""

_MOST_ANSWER = 16 * 1024 * 1024
"""Bytes of an object, or of an event of a watch; etcd keeps 1.5 MB, which are six times as much where every character
is escaped.
"""
_MOST_LARGE = 2
"""Answers of more than a page at a time, whoever waits for one."""

_MOST_ITEMS = 1000
"""Most items of a list that is read as a whole."""

_WATCH_SECONDS = 300
_SILENCE_SECONDS = 90.0
"""Silence after which a watch is opened anew: bookmarks come every minute."""

PATIENCE_SECONDS = 30.0
"""Time for which a request is repeated while the API server is away or overloaded."""

_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_AGAIN = {429, 500, 502, 503, 504}
_LONGEST_PAUSE = 5.0

_MOST_CONFLICTS = 8
"""Most conflicts of a status with other writes to its object, one after another."""

_NAMESPACE = re.compile(r"/namespaces/([^/]+)/")

_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class AsyncApi:
    """One session with the API server. Use it as an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_MOST_OF_A_NAMESPACE))
        self._large = asyncio.Semaphore(_MOST_LARGE)
        self._share = LoopShare()
        self._fields = ManagedFields()
        self._info: kopf.ConnectionInfo | None = None
        self._headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._login()
        if self._info is None:
            raise RuntimeError("there is no connection")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._info.as_ssl_context(), limit=_MOST_CONNECTIONS, keepalive_timeout=60
            ),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
        )
        self._watches = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._info.as_ssl_context(), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_SECONDS, sock_read=_SILENCE_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (self._session, self._watches):
            if session is not None:
                await session.close()

    def _login(self) -> None:
        """Read the credentials: tokens of service accounts are replaced while we run."""
        self._info = connection()
        self._headers = self._info.as_http_headers()

    async def get(self, where: str, **params: str) -> Object:
        """An object, or a list with these query parameters."""
        return (await self._ask("GET", where, params=params))[0]

    async def get_large(self, where: str) -> Object:
        """An object of which little is asked, and which somebody may have made as large as may be."""
        return (await self._ask("GET", where, large=True))[0]

    async def items(
        self, where: str, keep: Callable[[Object], Object] = lambda each: each, **params: str
    ) -> list[Object]:
        """The objects of a list, at most 1000. ``keep``: what is kept of each while the others come."""
        found: list[Object] = []
        async with aclosing(self.pages(where, metadata=False, **params)) as pages:
            async for page, _ in pages:
                found += map(keep, page)
                page.clear()  # the generator and this frame know it while the next one comes
                if len(found) >= _MOST_ITEMS:
                    break
        return found[:_MOST_ITEMS]

    async def pages(
        self, where: str, *, metadata: bool = False, **params: str
    ) -> AsyncGenerator[tuple[list[Object], str], None]:
        """A list, a page at a time, each with the version of the whole. With ``metadata`` objects have nothing else.

        ApiError 410 where the list took so long that its beginning is forgotten.
        """
        token, limit = "", _FIRST_PAGE
        while True:
            query = {**params, "limit": str(limit), **({"continue": token} if token else {})}
            accept = _METADATA if metadata else None
            try:
                most = _MOST_PAGE_BYTES if limit > 1 else _MOST_ANSWER
                found, size = await self._ask("GET", where, params=query, accept=accept, most=most, large=limit == 1)
            except AnswerTooLong:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            token, page, version = _page(found)
            yield page, version
            page.clear()  # of 16 MB at the most, which Python has as ten times that
            if not token:
                return
            if size < _SMALL_PAGE_BYTES:
                limit = min(2 * limit, _LARGEST_PAGE)

    async def watch(self, where: str, version: str, **params: str) -> AsyncGenerator[Object, None]:
        """Events after ``version`` as they come, until the server ends the stream. ApiError as for a request."""
        if self._watches is None or self._info is None:
            raise RuntimeError("the session with the API server is not open")
        query = {**params, "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        query["timeoutSeconds"] = str(_WATCH_SECONDS)
        url = yarl.URL(self._info.server + where, encoded=True).with_query(query)
        try:
            async with self._watches.get(url, headers={**self._headers, "Accept": "application/json"}) as response:
                if response.status == 401:
                    self._login()
                if response.status >= 300:
                    raise _refusal(response.status, await response.content.read(_MOST_ANSWER))
                async for line in _lines(response.content):
                    began = time.perf_counter()
                    event = _event(line)
                    self._fields.note(event["object"], len(line))
                    yield event  # and what is done about it
                    await self._share.rest(_namespace(where), time.perf_counter() - began)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"a watch was cut off: {type(error).__name__}: {error}") from None

    async def create(self, where: str, body: Object) -> Object:
        """A new object. It has a name, so that AlreadyExists after a lost answer says that it was created."""
        return (await self._ask("POST", where, body, "application/json"))[0]

    async def try_out(self, where: str, body: Object) -> None:
        """ApiError where a new object would be refused. Asked once: an object may keep the server busy for long."""
        params = {"dryRun": "All", "fieldValidation": "Strict"}
        await self._ask("POST", where, body, "application/json", params=params, patience=0.0)

    async def patch(self, where: str, body: Object, *, patience: float = PATIENCE_SECONDS) -> Object:
        """A merge patch."""
        meta = body.get("metadata") or {}
        if "managedFields" not in meta:
            emptied = await self._emptied(where, meta.get("uid"), meta.get("resourceVersion"))
            if emptied is not None and "resourceVersion" in meta:
                body = {**body, "metadata": {**meta, "resourceVersion": emptied}}
        return (await self._ask("PATCH", where, body, _MERGE, patience=patience))[0]

    async def write_status(self, plural: str, body: Object, status: Object | Callable[[], Object]) -> Object:
        """The status of that very object. ApiError (404) where it is gone, though another may have its name by now.

        For a status the API server does not look at the UID, only at the version, which changes with every other write:
        where it has, the object is looked at again.
        """
        meta = body["metadata"]
        where = path(plural, meta["namespace"], meta["name"])
        version = meta.get("resourceVersion")
        for _ in range(_MOST_CONFLICTS):
            version = await self._emptied(where, meta["uid"]) or version
            identity = {"uid": meta["uid"], "resourceVersion": version}
            try:
                return await self._patch_status(where, identity, status)
            except ApiError as error:
                if error.status != 409:
                    raise
            who, version = await self._identity(where)
            if who != meta["uid"]:
                raise ApiError(404, "NotFound", "another object now has its name")
        raise ApiError(0, CONTENDED, "other clients keep changing it")

    async def _patch_status(self, where: str, meta: Object, status: Object | Callable[[], Object]) -> Object:
        def change() -> Object:
            return {"metadata": meta, "status": status() if callable(status) else status}

        return (await self._ask("PATCH", f"{where}/status", change, _MERGE))[0]

    async def _emptied(self, where: str, which: str | None, version: str | None = None) -> str | None:
        """The new version of an object whose managedFields have just been emptied, as they were crowded; else None.

        Not by its status: there the API server sorts them first.
        """
        if which is None or not self._fields.are_crowded(which):
            return None
        meta: Object = {"uid": which, "managedFields": [{}]}
        if version is not None:
            meta["resourceVersion"] = version
        try:
            found = (await self._ask("PATCH", where, {"metadata": meta}, _MERGE))[0]
        except ApiError as error:
            if error.status in (403, 404, 422) or (error.status == 409 and version is None):  # the write itself says so
                _LOG.warning("the managedFields of %s were not emptied: %s", where, error)
                return None
            raise
        emptied: str = found["metadata"]["resourceVersion"]
        return emptied

    async def _identity(self, where: str) -> tuple[str, str]:
        """UID and version of an object, without holding the rest of it."""
        meta = (await self.get_large(where))["metadata"]
        return meta["uid"], meta["resourceVersion"]

    async def replace(self, where: str, body: Object, *, patience: float = PATIENCE_SECONDS) -> Object:
        """A whole object in place of the one whose resourceVersion it has."""
        return (await self._ask("PUT", where, body, "application/json", patience=patience))[0]

    async def apply(self, where: str, body: Object) -> Object:
        """Server-side apply, with unknown fields refused."""
        params = {"fieldManager": "arl-operator", "force": "true", "fieldValidation": "Strict"}
        return (await self._ask("PATCH", where, body, _APPLY, params=params))[0]

    async def delete(self, where: str, uid: str | None = None, version: str | None = None) -> bool:
        """Delete an object, if it still is this one; whether it was there."""
        conditions = {key: value for key, value in (("uid", uid), ("resourceVersion", version)) if value is not None}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions} if conditions else None
        try:
            await self._ask("DELETE", where, body, "application/json")
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def _ask(
        self,
        method: str,
        where: str,
        body: Object | Callable[[], Object] | None = None,
        content: str | None = None,
        *,
        params: Mapping[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
        accept: str | None = None,
        most: int = _MOST_ANSWER,
        large: bool = False,
    ) -> tuple[Object, int]:
        """The answer, and its bytes. ``large``: no more than two of these are read at a time."""
        deadline = time.monotonic() + patience
        pause = 0.05
        while True:
            try:
                async with self._turn(where):
                    async with self._large if large else contextlib.nullcontext():
                        # No more of them than are on their way.
                        data = None if body is None else _text(body() if callable(body) else body)
                        found, size, took = await self._once(method, where, data, content, params, accept, most)
                    await self._share.rest(_namespace(where), took)
                    return found, size
            except AnswerTooLong:
                raise
            except ApiError as error:
                if error.status == 401:
                    self._login()
                elif (error.status not in _AGAIN and error.status != 0) or error.too_large or error.reason == GARBLED:
                    raise
                if time.monotonic() + pause > deadline:
                    raise
                _LOG.warning("%s %s: %s; asked again", method, where, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _turn(self, where: str) -> asyncio.Semaphore | contextlib.nullcontext[None]:
        """A place among the requests about one namespace."""
        namespace = _namespace(where)
        return contextlib.nullcontext() if namespace is None else self._turns[namespace]

    async def _once(
        self,
        method: str,
        where: str,
        data: bytes | None,
        content: str | None,
        params: Mapping[str, str] | None,
        accept: str | None,
        most: int,
    ) -> tuple[Object, int, float]:
        """The answer, its bytes, and the seconds that reading it took."""
        if self._session is None or self._info is None:
            raise RuntimeError("the session with the API server is not open")
        headers = {**self._headers, "Accept": accept or "application/json"}
        if content is not None:
            headers["Content-Type"] = content
        url = yarl.URL(self._info.server + where, encoded=True)
        try:
            async with self._session.request(
                method, url.with_query(params) if params else url, data=data, headers=headers
            ) as response:
                raw = await _read(response, most)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ApiError(0, "Unreachable", f"the API server does not answer: {said}") from None
        if status >= 300:
            raise _refusal(status, raw)
        began = time.perf_counter()
        found = _parsed(raw)
        if found is None:
            raise ApiError(0, GARBLED, "the answer of the API server is not a JSON object")
        self._fields.note(found, len(raw))
        return found, len(raw), time.perf_counter() - began


def _namespace(where: str) -> str | None:
    found = _NAMESPACE.search(where)
    return None if found is None else found[1]


def _text(body: Object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _page(found: Object) -> tuple[str, list[Object], str]:
    """The token of the next page, the items, and the version of the list."""
    about = found.get("metadata") or {}
    items: list[Object] = found.pop("items", None) or []
    return about.get("continue") or "", items, str(about.get("resourceVersion") or "")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole of an answer. AnswerTooLong ends its connection: the rest is not waited for."""
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > most:
            response.close()
            raise AnswerTooLong(most)
    return bytes(found)


def _parsed(raw: bytes) -> Object | None:
    """A JSON object; None for anything else."""
    try:
        found = json_text.parse(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _event(line: bytes) -> Object:
    found = _parsed(line)
    if found is None or not isinstance(found.get("object"), dict):
        raise ValueError("an event is not a JSON object, or has none")
    return found


def _refusal(status: int, raw: bytes) -> ApiError:
    found = _parsed(raw) or {}
    message = found.get("message") or raw[:500].decode("utf-8", "replace")
    return ApiError(status, str(found.get("reason") or status), str(message))


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream; each byte is looked at once. ValueError for one that is too long."""
    left = bytearray()
    async for chunk in content.iter_any():
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            yield bytes(left) + chunk[begin:end] if left else chunk[begin:end]
            left.clear()
            begin = end + 1
        left += chunk[begin:]
        if len(left) > _MOST_ANSWER:
            raise ValueError(f"an event of more than {_MOST_ANSWER} bytes")
