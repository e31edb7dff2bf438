"""Access to a cluster, its user and namespace: from kubeconfig and context, or from inside a pod.

The official client is imported here, when a cluster is really used, and reads all of it: exec plugins, tokens that are
renewed, client certificates, proxies.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import BackendUnavailable
from pytest_arl.text.untrusted import shorten
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    from pytest_arl.settings import Settings

__all__ = ["Access", "connect", "import_client"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CONNECTIONS = 64
"""Kept open per process: threads of one test run, each with a call of its own."""


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster that can be asked.

    Attributes:
        configuration: the official client's ``Configuration``, whose tokens renew themselves.
        pool: its ``urllib3.PoolManager``, with its certificates and proxy.
        namespace: the context's, or ``default``.
        described: for messages: ``https://... (context dev of ~/.kube/config)``.
    """

    configuration: Any
    pool: Any
    namespace: str
    described: str

    @property
    def host(self) -> str:
        """The server's URL, without a slash at its end."""
        return str(self.configuration.host).rstrip("/")

    def headers(self) -> dict[str, str]:
        """Headers that identify the client."""
        found = {"User-Agent": "pytest-arl"}
        bearer = self.configuration.auth_settings().get("BearerToken")
        if bearer is not None and bearer.get("value"):
            found["authorization"] = bearer["value"]
        return found


def import_client() -> None:
    """Import the official client in a thread of its own, so that it overlaps with whatever comes first."""
    threading.Thread(target=_import_quietly, name="arl-import-kubernetes", daemon=True).start()


def _import_quietly() -> None:
    with suppress(Exception):  # whoever needs it is told what is wrong
        _client()


def _client() -> tuple[Any, Any]:
    try:
        from kubernetes import client, config  # noqa: PLC0415 - 0.25 s, for those who use a cluster
    except ImportError as error:
        raise BackendUnavailable(
            f"the kubernetes client cannot be imported ({error}): pip install 'pytest-arl[kubernetes]'"
        ) from None
    return client, config


def connect(settings: Settings) -> Access:
    """Read the configuration. Nothing is asked of the cluster yet. BackendUnavailable says what is missing."""
    client, config = _client()
    configuration = client.Configuration()
    chosen, source = settings["kubeconfig"]
    context = settings.value("context")
    path = (
        str(chosen) if chosen is not None else os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    )
    if chosen is None and context is None and not _any_exists(path) and "KUBERNETES_SERVICE_HOST" in os.environ:
        namespace, described = _from_inside(config, configuration), "the cluster that this pod is in"
    elif not _any_exists(path):
        tried = f"{path} ({source})" if chosen is not None else f"{path} ($KUBECONFIG or the default)"
        raise BackendUnavailable(
            f"no cluster is configured: there is no kubeconfig at {tried}; name one with --arl-kubeconfig, or set "
            "KUBECONFIG (kind and others print the line that does it)"
        )
    else:
        namespace, used = _from_file(config, configuration, path, context, settings["context"].source)
        described = f"{configuration.host} (context {used!r} of {path})"
    configuration.connection_pool_maxsize = _CONNECTIONS
    pool = client.ApiClient(configuration).rest_client.pool_manager
    return Access(configuration, pool, namespace, described)


def _any_exists(path: str) -> bool:
    return any(part and Path(part).expanduser().exists() for part in path.split(os.pathsep))


def _from_inside(config: Any, configuration: Any) -> str:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise BackendUnavailable(
            f"no cluster is configured: there is no kubeconfig, and this pod has no usable service account ({error})"
        ) from None
    try:
        return (_ACCOUNT / "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def _from_file(config: Any, configuration: Any, path: str, context: str | None, source: str) -> tuple[str, str]:
    """The context's namespace, and its name."""
    try:
        # What list_kube_config_contexts() reads, but for its demand that there be a current context.
        merged = config.kube_config.KubeConfigMerger(path).config.value
        entries = [getattr(entry, "value", entry) for entry in merged.get("contexts") or ()]
        by_name = {str(entry["name"]): entry.get("context") or {} for entry in entries}
        name = context or merged.get("current-context")
    except Exception as error:  # noqa: BLE001 - YAML's, OS's and the client's own errors: all mean the same
        said = shorten(" ".join(str(error).split()), 300)
        raise BackendUnavailable(f"the kubeconfig {path} cannot be read: {said}") from None
    if not name:
        raise BackendUnavailable(
            f"the kubeconfig {path} has no current context: run `kubectl config use-context`, or give --arl-context; "
            f"known: {', '.join(by_name) or 'none'}"
        )
    if name not in by_name:
        raise BackendUnavailable(f"there is no context {name!r} in {path} ({source}); {hint(name, by_name)}")
    try:
        config.load_kube_config(config_file=path, context=name, client_configuration=configuration)
        _check_plugin(merged, by_name[name], configuration)
    except Exception as error:  # noqa: BLE001 - an exec plugin that fails, a certificate that is not there
        raise BackendUnavailable(f"context {name!r} of {path} cannot be used: {shorten(str(error), 400)}") from None
    return str(by_name[name].get("namespace") or "default"), str(name)


def _check_plugin(merged: dict[str, Any], context: dict[str, Any], configuration: Any) -> None:
    """A plugin that fails is only logged by the client, which then asks as nobody."""
    users = [getattr(entry, "value", entry) for entry in merged.get("users") or ()]
    user = next((entry.get("user") or {} for entry in users if entry.get("name") == context.get("user")), {})
    if "exec" in user and not configuration.api_key and not configuration.cert_file:
        raise ValueError(
            f"its credential plugin {user['exec'].get('command')!r} returned no credentials: run it by hand"
        )
