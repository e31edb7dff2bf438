"""The cluster as the subcommands see it, and the options that say which one."""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_arl.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pytest_arl.backends.kubernetes.api import Api

__all__ = [
    "Cluster",
    "Json",
    "add_options",
    "connect",
    "has_cluster",
    "items",
    "settings_of",
]

Json = dict[str, Any]

_PATIENCE = 2.0
"""Seconds for which a call is repeated: somebody sits and waits."""


class Cluster(Protocol):
    """An API server, asked by path. Errors: PermissionDenied, and BackendUnavailable for what is not an answer."""

    @property
    def namespace(self) -> str:
        """The namespace of the user's sandboxes."""

    @property
    def where(self) -> str:
        """The server and how it was found, fit to print."""

    def get(self, path: str, **query: str) -> Json | None:
        """The object or list; None where it is not there."""

    def post(self, path: str, body: Json) -> Json:
        """The object as it was made."""

    def delete(self, path: str, **query: str) -> Json | None:
        """Delete an object, or a collection by ``labelSelector``; None where it is not there."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which cluster, where a command asks one."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the setting, KUBECONFIG, ~/.kube/config")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="default: the setting, the context's, default")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings, as pytest would have them here, under what the command line says."""
    given = {name: getattr(arguments, name, None) for name in ("kubeconfig", "context", "namespace", "backend")}
    return Settings.build(cli=given, environ=os.environ)


def has_cluster(settings: Settings) -> bool:
    """True if a cluster is configured: by a setting, a kubeconfig, or a pod that this runs in."""
    if settings["kubeconfig"].value or settings["context"].value or "KUBERNETES_SERVICE_HOST" in os.environ:
        return True
    paths = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return any(part and Path(part).expanduser().exists() for part in paths.split(os.pathsep))


def connect(settings: Settings) -> Cluster:
    """The configured cluster, as the backend `kubernetes` reaches it. BackendUnavailable where none is configured."""
    from pytest_arl.backends.kubernetes.api import Api  # noqa: PLC0415 - with it comes the official client

    return _ApiServer(Api(settings), settings.value("namespace"))


class _ApiServer:
    """A Cluster by the backend's own connection."""

    def __init__(self, api: Api, namespace: str | None) -> None:
        self._api = api
        self.namespace = namespace or api.access.namespace
        self.where = api.access.described

    def get(self, path: str, **query: str) -> Json | None:
        return self._call("GET", path, query)

    def post(self, path: str, body: Json) -> Json:
        return self._call("POST", path, {}, body) or {}

    def delete(self, path: str, **query: str) -> Json | None:
        return self._call("DELETE", path, {"propagationPolicy": "Background", **query})

    def _call(self, method: str, path: str, query: dict[str, str], body: Json | None = None) -> Json | None:
        from pytest_arl.backends.kubernetes.refusals import Refused, explained  # noqa: PLC0415

        try:
            answer: Json = self._api.call(method, path, body, query=query, patience=_PATIENCE)
        except Refused as refused:
            if refused.status == HTTPStatus.NOT_FOUND:
                return None
            raise explained(refused, f"{method} {path}", self._api.where(self.namespace)) from None
        return answer


def items(cluster: Cluster, path: str, **query: str) -> Iterator[Json]:
    """The items of a list, page by page; none where the kind is not there."""
    token = ""
    while True:
        more = {"continue": token} if token else {}
        page = cluster.get(path, limit="500", **more, **query)
        if page is None:
            return
        yield from page.get("items") or ()
        token = page.get("metadata", {}).get("continue") or ""
        if not token:
            return
