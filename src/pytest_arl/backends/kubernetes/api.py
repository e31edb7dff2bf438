"""Requests to the API server: JSON in and out, repeated where that is safe, bounded in time.

The official client's connections and credentials are used, not its models: their conversion costs more than the call.
Everything that is asked here may be asked twice: objects have the names that this side gave them, so that a POST whose
answer was lost is seen to have arrived by the 409 of the next one.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pytest_arl.backends.kubernetes.access import connect
from pytest_arl.backends.kubernetes.refusals import Refused, Where, explained
from pytest_arl.cluster import json_text
from pytest_arl.cluster.kinds import path
from pytest_arl.errors import BackendUnavailable
from pytest_arl.text.untrusted import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_arl.backends.kubernetes.access import Access
    from pytest_arl.settings import Settings

__all__ = ["Api"]

CONNECT_SECONDS = 3.0
READ_SECONDS = 15.0
PATIENCE_SECONDS = 8.0
"""Time for which a call is repeated while the cluster is away or has a problem: seconds, not minutes."""
FIRST_PATIENCE_SECONDS = 3.0
"""The same before it has ever answered: most likely it is not there."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

_BROKEN = ("EOF", "reset", "timed out")
"""Words in errors of TLS that are about the connection, not about the identity of its other end."""

_MOST_CONFLICTS = 5
_PAGE = 100
"""Objects of a list at a time."""


class Api:
    """A cluster's API server. Thread-safe."""

    def __init__(self, settings: Settings, access: Access | None = None) -> None:
        self._settings = settings
        self._met = False
        self.access = access or connect(settings)

    def where(self, namespace: str) -> Where:
        """The cluster and namespace for messages."""
        return Where(self.access.described, namespace)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self.access.pool.clear()

    # Objects

    def get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """One object. Refused (404) where it is not there."""
        found: dict[str, Any] = self.call("GET", path(plural, namespace, name))
        return found

    def items(self, plural: str, namespace: str, **query: str) -> tuple[list[dict[str, Any]], str]:
        """Objects, and the version of the collection that they were read at."""
        pages = [*self.pages(plural, namespace, **query)]
        return [each for page, _ in pages for each in page], pages[-1][1]

    def pages(self, plural: str, namespace: str, **query: str) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """The same, some at a time: what others have made may be large. Refused (410) where it takes too long."""
        token = ""
        while True:
            more = {"continue": token} if token else {}
            found = self.call("GET", path(plural, namespace), query={**query, "limit": str(_PAGE), **more})
            about = found.get("metadata") or {}
            token = about.get("continue") or ""
            yield found.get("items") or [], str(about.get("resourceVersion") or "")
            if not token:
                return

    def create(self, plural: str, namespace: str, body: Mapping[str, Any], **query: str) -> dict[str, Any]:
        """Create an object whose name this side has given: one that is there already, and is just that, was created by
        a request whose answer was lost. Refused (409) for another one.
        """
        try:
            found: dict[str, Any] = self.call("POST", path(plural, namespace), body, query=query)
        except Refused as refused:
            if refused.status != 409 or refused.reason != "AlreadyExists":
                raise
            found = self.get(plural, namespace, body["metadata"]["name"])
            if not _has(found, body):
                raise
        return found

    def merge(
        self, plural: str, namespace: str, name: str, patch: Mapping[str, Any], *, uid: str | None = None
    ) -> dict[str, Any]:
        """Change fields of an object; with ``uid``, of no other: Refused (404) where another has its name by now."""
        where = path(plural, namespace, name)
        body = patch if uid is None else {**patch, "metadata": {"uid": uid}}
        for _ in range(_MOST_CONFLICTS):
            try:
                found: dict[str, Any] = self.call("PATCH", where, body, kind="application/merge-patch+json")
            except Refused as refused:
                if uid is None or refused.status not in (409, 422):
                    raise
                # A UID that is not the object's, or somebody else's writes, one after another: a look tells.
                if self.get(plural, namespace, name)["metadata"]["uid"] != uid:
                    raise Refused(404, "NotFound", f"another object now has the name {name}") from None
                if refused.status == 422:
                    raise
                conflict = refused
            else:
                return found
        raise conflict

    def delete(
        self, plural: str, namespace: str, name: str, *, uid: str | None = None, patience: float | None = None
    ) -> None:
        """Delete an object. One that is gone is no error, nor is another of its name, where ``uid`` is given."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self.call("DELETE", path(plural, namespace, name), body, patience=patience)
        except Refused as refused:
            if refused.status != 404 and not (refused.status == 409 and uid is not None):
                raise

    def delete_all(self, plural: str, namespace: str, selector: str) -> None:
        """Delete all objects that a label selector finds, in one request."""
        query = {"labelSelector": selector, "propagationPolicy": "Background"}
        self.call("DELETE", path(plural, namespace), query=query)

    # Calls

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        patience: float | None = None,
    ) -> Any:
        """The answer's JSON. Raises Refused, or BackendUnavailable for a cluster that stays away."""
        data = None if body is None else encoded(body)
        if patience is None:
            patience = PATIENCE_SECONDS if self._met else FIRST_PATIENCE_SECONDS
        deadline = time.monotonic() + patience
        pause, renewed = _FIRST_PAUSE, False
        while True:
            try:
                return self._once(method, path, data, query or {}, kind)
            except Refused as refused:
                if refused.status == 401 and not renewed:
                    # A token may have been renewed in its file, or by its plugin, since it was read.
                    self.access, renewed = connect(self._settings), True
                    continue
                if not refused.passing or time.monotonic() + pause > deadline:
                    raise
                wait = max(pause, min(_LONGEST_PAUSE, float(refused.details.get("retryAfterSeconds") or 0)))
            except ConnectionError as away:
                if time.monotonic() + pause > deadline:
                    raise BackendUnavailable(str(away)) from None
                wait = pause
            time.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - so that many do not come back as one
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _once(self, method: str, path: str, data: bytes | None, query: Mapping[str, str], kind: str) -> Any:
        response = self.send(method, path, data, query, kind=kind, read_seconds=READ_SECONDS)
        content: bytes = response.data
        self._met = True
        if response.status >= 400:
            raise Refused.read(response.status, content)
        try:
            return json_text.parse(content) if content else {}
        except ValueError:
            raise BackendUnavailable(f"{method} {path}: the answer of the API server is not JSON") from None

    def send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        query: Mapping[str, str],
        *,
        kind: str = "application/json",
        read_seconds: float,
        whole: bool = True,
    ) -> Any:
        """One request, once: urllib3's response. ConnectionError where the server is not reached, BackendUnavailable
        where it is not the one that the configuration means.
        """
        from urllib3 import Timeout, exceptions  # noqa: PLC0415 - comes with the client

        access = self.access
        headers = access.headers()
        if data is not None:
            headers["Content-Type"] = kind
        url = f"{access.host}{path}?{urlencode(query)}" if query else access.host + path
        try:
            return access.pool.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                retries=False,
                redirect=False,
                preload_content=whole,
            )
        except exceptions.SSLError as error:
            if any(word in str(error) for word in _BROKEN):
                raise ConnectionError(_not_reached(access, error)) from error
            raise BackendUnavailable(
                f"{access.described} presented a certificate that was not signed by the kubeconfig's CA "
                f"({shorten(str(error), 200)}): certificate-authority-data may belong to another cluster"
            ) from None
        except (exceptions.HTTPError, OSError) as error:
            raise ConnectionError(_not_reached(access, error)) from error

    def explaining(self, doing: str, namespace: str, action: Callable[[], Any]) -> Any:
        """The result of ``action``, where a refusal becomes the exception that callers of a backend expect."""
        __tracebackhide__ = True
        try:
            return action()
        except Refused as refused:
            raise explained(refused, doing, self.where(namespace)) from None


def encoded(body: Mapping[str, Any]) -> bytes:
    """JSON as it is sent. Lone surrogates, which no JSON has, were replaced before."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _has(found: object, wanted: object) -> bool:
    """True if all that is wanted is in what was found, which may have more: the server adds to an object."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_has, found, wanted))
    return found == wanted


def _not_reached(access: Access, error: Exception) -> str:
    said = " ".join(str(getattr(error, "reason", None) or error).split())
    said = said.rpartition(": ")[2] if ">: " in said else said
    return (
        f"cannot reach the cluster at {access.described}: {shorten(said, 200)}; is it running, and reachable from "
        "here? (`kubectl version` shows the same)"
    )
