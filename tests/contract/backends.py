"""The backends that are held to the contract."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_arl import SandboxSession
from tests.cluster.installation import missing
from tests.contract.probes import NOISE

__all__ = ["ContractBackend", "available", "not_on_a_cluster"]


@dataclass(frozen=True)
class ContractBackend:
    """A backend to be held to the contract.

    Attributes:
        name: as ``--arl-backend`` has it.
        on_this_machine: its sandboxes' processes can be seen and signalled from here.
        pools_of_this_machine: its pools come from a file here, and are what ``_POOLS`` of conftest.py says.
        in_gvisor: its sandboxes have a kernel of their own, which is no Linux.
    """

    name: str
    on_this_machine: bool
    pools_of_this_machine: bool
    in_gvisor: bool = False

    @property
    def noise(self) -> float:
        """Seconds that a busy machine, and a busy cluster's API server, may add to what the contract promises."""
        return NOISE if self.on_this_machine else 4 * NOISE

    def open(self, pool: str = "default", **options: Any) -> SandboxSession:
        """A session with its sandbox ready; close it by ``with``."""
        session = SandboxSession(pool, backend=self.name, **options)
        session.create_sandbox()
        return session


_LOCAL = ContractBackend("local", on_this_machine=True, pools_of_this_machine=True)
_CLUSTER = ContractBackend(
    "kubernetes",
    on_this_machine=False,
    pools_of_this_machine=False,
    in_gvisor=bool(os.environ.get("ARL_TEST_GVISOR_CLASS")),
)
_GVISOR = ContractBackend("gvisor", on_this_machine=False, pools_of_this_machine=True, in_gvisor=True)


def available() -> list[ContractBackend]:
    """The backends that can be tested here."""
    if os.environ.get("ARL_TEST_RUNSC"):
        return [_GVISOR]  # by itself: it takes long
    if "ARL_TEST_CONTRACT_IMAGE" in os.environ:
        return [_CLUSTER]  # run by tests/cluster/test_contract_images.py
    return [_LOCAL] if missing() else [_LOCAL, _CLUSTER]


def not_on_a_cluster(reason: str) -> pytest.MarkDecorator:
    """A mark for what a cluster does not show from outside, or what is another's business there."""
    skip = pytest.mark.skip(reason=reason)
    params = [
        pytest.param(each, marks=() if each.pools_of_this_machine else skip, id=each.name) for each in available()
    ]
    return pytest.mark.parametrize("backend", params, indirect=True, scope="module")
