from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl.backends.kubernetes.api import Api
from tests.kubernetes.fake import FakeApi, fake_api, kubeconfig, settings_for

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[FakeApi, Path]]:
    """A fake API server, and the kubeconfig that leads there."""
    with fake_api() as (fake, url):
        yield fake, kubeconfig(tmp_path, url)


@pytest.fixture
def fake(server: tuple[FakeApi, Path]) -> FakeApi:
    return server[0]


@pytest.fixture
def api(server: tuple[FakeApi, Path]) -> Api:
    return Api(settings_for(server[1]))
