"""The contract's tests run against every backend that is available.

They know a sandbox by its public API alone. What they must know of a backend beside its name is in
:class:`ContractBackend`: add one to :func:`available` and the whole suite runs against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl import SandboxSession
from pytest_arl.settings import override

if TYPE_CHECKING:
    from pathlib import Path

_POOLS = """
[pools.small]
memory = "128Mi"
processes = 40
files = 64
workspace = "8Mi"
tmp = "8Mi"
output = "64Ki"

[pools.crowded]
processes = 40

[pools.connected]
network = "host"

[pools.furnished]
env = { GREETING = "hello", PATH_LIKE = "$HOME/*" }
"""


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
    return [ContractBackend("local", on_this_machine=True)]


@pytest.fixture(params=available(), ids=lambda backend: backend.name, scope="module")
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBackend]:
    """A backend, with the pools ``small``, ``crowded``, ``connected`` and ``furnished`` beside ``default``."""
    pools: Path = tmp_path_factory.mktemp("pools") / "pools.toml"
    pools.write_text(_POOLS)
    with override({"pools_file": pools, "isolation_min": "bwrap+rlimit"}, "tests/contract"):
        yield request.param


@pytest.fixture
def sandbox(backend: ContractBackend) -> Iterator[SandboxSession]:
    """A sandbox of the default pool, one for each test."""
    with backend.open() as session:
        yield session


@pytest.fixture
def small(backend: ContractBackend) -> Iterator[SandboxSession]:
    """A sandbox with limits that are soon reached."""
    with backend.open("small") as session:
        yield session
