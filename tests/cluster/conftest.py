"""A real cluster with an operator of this run's own; the tests are skipped where no cluster is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.installation import Installation, installed, pool, shared_folder


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The operator from its image, under its own account, and an empty namespace that it serves."""
    with installed(shared_folder(tmp_path_factory)) as found:
        yield found


@pytest.fixture(scope="session")
def python_pool(installation: Installation) -> str:
    """The name of a pool over an image with Python, with ready sandboxes."""
    return _ready(installation, "python")


@pytest.fixture(scope="session")
def busybox_pool(installation: Installation) -> str:
    """One over an image with a shell and no Python."""
    return _ready(installation, "busybox")


@pytest.fixture(scope="session")
def bare_pool(installation: Installation) -> str:
    """One over an image with neither."""
    return _ready(installation, "pause")


def _ready(installation: Installation, role: str) -> str:
    installation.apply(pool(role, installation.images[role]))
    installation.wait("condition=Ready", f"warmpool/{role}")
    return role
