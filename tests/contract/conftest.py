"""The contract's tests run against every backend that is available.

They know a sandbox by its public API alone. What they must know of a backend beside its name is in
``backends.ContractBackend``: add one to ``available`` there and the whole suite runs against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_arl import hooks
from pytest_arl.settings import override
from tests.contract.backends import ContractBackend, available
from tests.contract.cluster import cluster_pools
from tests.gvisor import backend as gvisor
from tests.gvisor import exceptions, runsc

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_arl import SandboxSession

_POOLS = """
[pools.small]
memory = "128Mi"
processes = 40
files = 64
workspace = "8Mi"
tmp = "8Mi"
output = "64Ki"

[pools.bounded]
memory = "128Mi"
workspace = "256Mi"
tmp = "64Mi"

[pools.crowded]
processes = 40

[pools.connected]
network = "host"

[pools.timed]
cpu_time = "2s"

[pools.furnished]
env = { GREETING = "hello", PATH_LIKE = "$HOME/*" }
"""


@pytest.fixture(params=available(), ids=lambda backend: backend.name, scope="module")
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBackend]:
    """A backend, with pools of its own beside ``default``: those of ``_POOLS``."""
    settings: dict[str, object] = {"isolation_min": "bwrap+rlimit"}
    if request.param.name == gvisor.NAME and runsc.missing():
        pytest.skip(runsc.missing())
    if request.param.pools_of_this_machine:
        pools: Path = tmp_path_factory.mktemp("pools") / "pools.toml"
        pools.write_text(_POOLS)
        settings["pools_file"] = pools
    else:
        settings["namespace"] = request.getfixturevalue("cluster_namespace")
    with override(settings, "tests/contract"), _registered(request.param):
        yield request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")  # type: ignore[attr-defined]
        if isinstance(backend, ContractBackend) and backend.in_gvisor:
            mark = exceptions.mark_for(item.name)
            if mark is not None:
                item.add_marker(mark)


@contextmanager
def _registered(backend: ContractBackend) -> Iterator[None]:
    """Sandboxes in runsc are a backend of these tests alone."""
    if backend.name != gvisor.NAME:
        yield
        return
    hooks.register(gvisor, "tests/gvisor")
    try:
        yield
    finally:
        hooks.close_backends()
        hooks.unregister(gvisor)


@pytest.fixture(scope="session")
def cluster_namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A namespace of a cluster with those pools, as far as a cluster can have them."""
    with ExitStack() as keep:
        yield keep.enter_context(cluster_pools(tmp_path_factory))


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
