"""The API server, spoken to directly: JSON in, JSON out, retries of what is safe to ask again."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from pytest_arl.operator.objects import Object

__all__ = ["GROUP_PATH", "Api", "ApiError", "connection", "path"]

_LOG = logging.getLogger(__name__)

GROUP_PATH = "/apis/arl.infra.io/v1alpha1"
_PATHS = {
    "warmpools": GROUP_PATH,
    "sandboxes": GROUP_PATH,
    "tasks": GROUP_PATH,
    "pods": "/api/v1",
    "events": "/api/v1",
    "secrets": "/api/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "leases": "/apis/coordination.k8s.io/v1",
}

_REQUEST_SECONDS = 20.0
_MOST_CONNECTIONS = 24
"""Each has a buffer of 256 KiB in asyncio's TLS, and the API server is no faster for more of them."""

PATIENCE_SECONDS = 30.0
"""How long a request is repeated while the API server is away or overloaded."""

_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_AGAIN = {429, 500, 502, 503, 504}
_LONGEST_PAUSE = 5.0


class ApiError(Exception):
    """The API server's own refusal.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        reason: ``NotFound``, ``AlreadyExists``, ``Conflict``, ...
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def path(plural: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """Where an object, or all of its kind, are."""
    found = _PATHS[plural]
    if namespace is not None:
        found += f"/namespaces/{namespace}"
    found += f"/{plural}"
    if name is not None:
        found += f"/{name}"
    return found if subresource is None else f"{found}/{subresource}"


def connection() -> kopf.ConnectionInfo:
    """How to reach the API server: the service account of this pod, else the kubeconfig."""
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings, logger=_LOG)
    if found is not None:
        # By address: a cluster may have no DNS, and this needs none.
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        host = f"[{host}]" if ":" in host else host
        return dataclasses.replace(found, server=f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}")
    found = kopf.login_with_kubeconfig(settings=settings, logger=_LOG)
    if found is None:
        raise kopf.LoginError("no cluster: neither a service account nor KUBECONFIG nor ~/.kube/config is there")
    return found


class Api:
    """One session with the API server. Use it as an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
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
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def _login(self) -> None:
        """Read the credentials: tokens of service accounts are replaced while we run."""
        self._info = connection()
        self._headers = self._info.as_http_headers()

    async def get(self, where: str, **params: str) -> Object:
        """An object, or a list with these query parameters."""
        return await self._ask("GET", where, params=params)

    async def items(self, where: str, **params: str) -> list[Object]:
        """All objects of a list."""
        found = await self.get(where, **params)
        items: list[Object] = found["items"]
        return items

    async def create(self, where: str, body: Object, **params: str) -> Object:
        """A new object. It has a name, so that AlreadyExists after a lost answer says that it was created."""
        return await self._ask("POST", where, body, "application/json", params=params)

    async def patch(self, where: str, body: Object, *, patience: float = PATIENCE_SECONDS) -> Object:
        """A merge patch."""
        return await self._ask("PATCH", where, body, _MERGE, patience=patience)

    async def replace(self, where: str, body: Object, *, patience: float = PATIENCE_SECONDS) -> Object:
        """A whole object in place of the one whose resourceVersion it has."""
        return await self._ask("PUT", where, body, "application/json", patience=patience)

    async def apply(self, where: str, body: Object) -> Object:
        """Server-side apply, with unknown fields refused."""
        params = {"fieldManager": "arl-operator", "force": "true", "fieldValidation": "Strict"}
        return await self._ask("PATCH", where, body, _APPLY, params=params)

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
        body: Object | None = None,
        content: str | None = None,
        *,
        params: Mapping[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Object:
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        deadline = time.monotonic() + patience
        pause = 0.05
        while True:
            try:
                return await self._once(method, where, data, content, params)
            except ApiError as error:
                if error.status == 401:
                    self._login()
                elif error.status not in _AGAIN and error.status != 0:
                    raise
                if time.monotonic() + pause > deadline:
                    raise
                _LOG.warning("%s %s: %s; asked again", method, where, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(
        self, method: str, where: str, data: bytes | None, content: str | None, params: Mapping[str, str] | None
    ) -> Object:
        if self._session is None or self._info is None:
            raise RuntimeError("the session with the API server is not open")
        headers = {**self._headers, "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = content
        try:
            async with self._session.request(
                method, self._info.server + where, data=data, headers=headers, params=params or None
            ) as response:
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ApiError(0, "Unreachable", f"the API server does not answer: {said}") from None
        try:
            found: Any = json.loads(raw)
        except ValueError:
            found = {}
        if status >= 300:
            message = found.get("message") or raw[:500].decode("utf-8", "replace")
            raise ApiError(status, found.get("reason") or str(status), message)
        result: Object = found
        return result
