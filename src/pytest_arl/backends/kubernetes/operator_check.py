"""Check that an operator runs, where an object that was created stays without a status."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_arl.backends.kubernetes.namespace_client import OPERATOR_NAMESPACE
from pytest_arl.backends.kubernetes.refusals import INSTALL
from pytest_arl.cluster.pod import OPERATOR_LEASE
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient

__all__ = ["LOOK_SECONDS", "OperatorCheck"]

LOOK_SECONDS = 1.0
"""Seconds between two calls of :meth:`OperatorCheck.check`."""

_FIRST_SECONDS = 3.0
_ABSENT_SECONDS = 15.0  # one that serves some namespaces only may have its Lease where nobody would look
_RENEWED_SECONDS = 20.0  # an operator's successor takes over within this
_LONGEST_SECONDS = 40.0


class OperatorCheck:
    """The time in which the operator has not written anything of an object."""

    def __init__(self, client: NamespaceClient, what: str) -> None:
        self._client = client
        self._what = what
        self._began = time.monotonic()
        self._before: frozenset[str] | None = None
        self._looked = False

    def check(self) -> None:
        """Raise BackendUnavailable once it is clear that nobody will."""
        silent = time.monotonic() - self._began
        if silent < _FIRST_SECONDS:
            return
        if not self._looked:
            self._looked, self._before = True, self._client.operator_renewals()
        elif silent > _ABSENT_SECONDS and self._before == frozenset():
            raise BackendUnavailable(
                f"{self._what} waits, but no operator is installed: there is no Lease {OPERATOR_LEASE!r} "
                f"in namespace {OPERATOR_NAMESPACE!r} or {self._client.namespace!r}; {INSTALL}"
            )
        elif silent > _RENEWED_SECONDS and self._before and self._client.operator_renewals() == self._before:
            raise BackendUnavailable(
                f"{self._what} waits, and the operator is not running: it last renewed its Lease at "
                f"{max(self._before)}; kubectl -n {OPERATOR_NAMESPACE} get pods shows it, and `pytest-arl doctor` more"
            )
        elif silent > _LONGEST_SECONDS:
            raise BackendUnavailable(
                f"no operator has taken note of {self._what} for {silent:.0f} s: is it running, and does it serve "
                f"namespace {self._client.namespace!r}? `pytest-arl doctor` looks"
            )
