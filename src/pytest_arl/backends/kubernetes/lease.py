"""Proof that this process lives: a Lease that it renews, and that owns its sandboxes.

A process that is killed renews nothing: the operator ends what the Lease owns once it is over, and deletes it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from pytest_arl.backends.kubernetes.refusals import Refused
from pytest_arl.cluster.kinds import KINDS
from pytest_arl.errors import ArlError
from pytest_arl.text.timestamps import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.backends.kubernetes.api import Api

__all__ = ["Lease"]

_logger = logging.getLogger("pytest_arl")

DURATION_SECONDS = 60
RENEW_SECONDS = 15.0
_AGAIN_SECONDS = 2.0

_KIND = KINDS["leases"]


class Lease:
    """One process's Lease in one namespace, from its first sandbox on. Thread-safe."""

    def __init__(self, api: Api, namespace: str, name: str, labels: Mapping[str, str]) -> None:
        self.name = name
        self._api = api
        self._namespace = namespace
        self._labels = labels
        self._lock = threading.Lock()
        self._uid: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def owner(self) -> dict[str, Any]:
        """The reference by which it owns a sandbox; it is created by the first who asks."""
        with self._lock:
            if self._uid is None:
                self._uid = self._create()
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew, name="arl-lease", daemon=True)
                self._thread.start()
            return {"apiVersion": _KIND.api_version, "kind": _KIND.name, "name": self.name, "uid": self._uid}

    def _create(self) -> str:
        moment = now()
        body = {
            "apiVersion": _KIND.api_version,
            "kind": _KIND.name,
            "metadata": {"name": self.name, "labels": dict(self._labels)},
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": moment,
                "renewTime": moment,
            },
        }
        made = self._api.explaining(
            "creating this process's Lease", self._namespace, lambda: self._api.create("leases", self._namespace, body)
        )
        return str(made["metadata"]["uid"])

    def _renew(self) -> None:
        wait = RENEW_SECONDS
        while not self._stop.wait(wait):
            wait = RENEW_SECONDS
            change = {"spec": {"renewTime": now()}}
            try:
                self._api.merge("leases", self._namespace, self.name, change, uid=self._uid)
            except Refused as refused:
                if refused.status == 404:
                    # Over, and so are the sandboxes that it owned. The next one gets another.
                    _logger.warning("the Lease %s is gone: its sandboxes end", self.name)
                    with self._lock:
                        self._uid = None
                        self._thread = None
                    return
                wait = _AGAIN_SECONDS
            except ArlError:
                wait = _AGAIN_SECONDS

    def close(self) -> None:
        """Renew it no more, and delete it: what it still owns goes with it. Idempotent."""
        self._stop.set()
        with self._lock:
            uid, self._uid = self._uid, None
        if uid is not None:
            try:
                self._api.delete("leases", self._namespace, self.name, uid=uid)
            except (Refused, ArlError) as error:
                _logger.warning("the Lease %s could not be deleted, and ends by itself: %s", self.name, error)
