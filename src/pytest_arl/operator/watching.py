"""kopf's watches: lists, streams, 410s, broken connections and expired tokens are its business.

Its handlers only note what they see (``Control.event``). Daemons, timers and delete handlers would add finalizers, and
a patch by kopf would be one more write for each Task.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import kopf

from pytest_arl.operator.api import connection
from pytest_arl.pod import POOL_LABEL, RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.operator.control import Control

__all__ = ["watch"]

_WATCHED = {
    "warmpools": ("arl.infra.io", "v1alpha1", "warmpools"),
    "sandboxes": ("arl.infra.io", "v1alpha1", "sandboxes"),
    "tasks": ("arl.infra.io", "v1alpha1", "tasks"),
    "pods": ("", "v1", "pods"),
    "leases": ("coordination.k8s.io", "v1", "leases"),
}


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf copies each object for a difference that no handler of ours asks for: 1 ms of the 3 that a Task may cost."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """No handler of ours has progress either."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


async def watch(control: Control, namespaces: Sequence[str]) -> None:
    """Run kopf until a signal comes."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.watching.label_selectors[_WATCHED["pods"]] = POOL_LABEL
    settings.watching.label_selectors[_WATCHED["leases"]] = RUN_LABEL

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return connection()

    stopped = asyncio.Event()

    @kopf.on.startup(registry=registry)
    async def started(**_: Any) -> None:
        # Over kopf's own handlers, which would wait five seconds for our keepers to end by themselves.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)

    for kind in _WATCHED:
        _follow(control, registry, kind)
    watching = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            identity="arl-operator",  # type: ignore[arg-type]  # else it asks who the user is, whom an image may not know
            clusterwide=not namespaces,
            namespaces=list(namespaces),
        )
    )
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not stopped.is_set():
        await watching


def _follow(control: Control, registry: kopf.OperatorRegistry, kind: str) -> None:
    @kopf.on.event(*_WATCHED[kind], id=kind, registry=registry)
    async def seen(event: Any, **_: Any) -> None:
        control.event(kind, event["type"] == "DELETED", event["object"])
