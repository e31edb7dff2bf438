"""Settings as of an empty folder, and a session on the toy backend."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, hooks, settings
from pytest_arl.session import notifications
from tests import toy_backend
from tests.toy_backend import ToyBackend, ToySandbox


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The run's own settings, and the plugin's hooks, are not these tests' subject."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PYTEST_ARL_")]:
        monkeypatch.delenv(name)
    before = settings.activate(None), hooks.set_pytest_hook(None)
    monkeypatch.setattr(notifications, "_listeners", ())
    yield
    settings.activate(before[0])
    hooks.set_pytest_hook(before[1])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyBackend]:
    """The toy backend that sessions of this test get."""
    hooks.register(toy_backend)
    try:
        backend = hooks.get_backend("toy", settings.current())
        assert isinstance(backend, ToyBackend)
        monkeypatch.setattr(hooks._backends, "_made", dict.fromkeys(hooks._backends._made, backend))
        # Whatever its settings, a session of this test gets this one.
        monkeypatch.setattr(hooks._backends, "_make", lambda _name, _settings: backend)
        yield backend
    finally:
        hooks.unregister(toy_backend)
    left = list(backend.open)
    backend.close()
    assert left == []


@pytest.fixture
def session(toy: ToyBackend) -> Iterator[SandboxSession]:
    with SandboxSession(backend="toy") as session:
        yield session


@pytest.fixture
def sandbox(session: SandboxSession, toy: ToyBackend) -> ToySandbox:
    """What is behind ``session`` at first."""
    return toy.open[0]
