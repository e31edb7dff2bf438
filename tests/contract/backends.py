"""The backends that are held to the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pytest_arl import SandboxSession
from tests.cluster.installation import missing

__all__ = ["ContractBackend", "available", "not_on_a_cluster"]


@dataclass(frozen=True)
class ContractBackend:
    """A backend to be held to the contract.

    Attributes:
        name: as ``--arl-backend`` has it.
        on_this_machine: its sandboxes' processes can be seen and signalled from here.
    """

    name: str
    on_this_machine: bool

    def open(self, pool: str = "default", **options: Any) -> SandboxSession:
        """A session with its sandbox ready; close it by ``with``."""
        session = SandboxSession(pool, backend=self.name, **options)
        session.create_sandbox()
        return session


def available() -> list[ContractBackend]:
    """The backends that can be tested here."""
    found = [ContractBackend("local", on_this_machine=True)]
    return found if missing() else [*found, ContractBackend("kubernetes", on_this_machine=False)]


def not_on_a_cluster(reason: str) -> pytest.MarkDecorator:
    """A mark for what a cluster does not show from outside, or what is another's business there."""
    skip = pytest.mark.skip(reason=reason)
    params = [pytest.param(each, marks=() if each.on_this_machine else skip, id=each.name) for each in available()]
    return pytest.mark.parametrize("backend", params, indirect=True, scope="module")
