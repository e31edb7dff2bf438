"""Programs that want out, each in a sandbox of its own, in every tier that there is for this user."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_arl import SandboxSession, StepResult
from pytest_arl.backends.local import backend
from pytest_arl.backends.local.probe import Host, probe
from pytest_arl.hooks import close_backends
from pytest_arl.settings import override

_SMALL = """
[pools.attacked]
memory = "256Mi"
processes = 64
workspace = "64Mi"
tmp = "32Mi"
"""

OpenSandbox = Callable[..., SandboxSession]


def _tiers() -> list[str]:
    return ["bwrap+cgroup", "bwrap+rlimit"] if probe().cgroups else ["bwrap+rlimit"]


def host_of(tier: str) -> Host:
    """This machine, as it would be found where it gives that isolation."""
    host = probe()
    return host if tier == host.tier else dataclasses.replace(host, hierarchies=None, tier=tier)


@pytest.fixture(params=_tiers())
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The isolation to attack: where cgroups can be had, also what others have to do without them."""
    chosen: str = request.param
    host = host_of(chosen)
    monkeypatch.setattr(backend, "probe", lambda: host)
    return chosen


@pytest.fixture
def open_sandbox(tier: str, tmp_path: Path) -> Iterator[OpenSandbox]:
    """Opens sandboxes of a small pool, with more keys for it as TOML and a timeout for their tasks; they are closed with
    the test.
    """
    opened: list[SandboxSession] = []

    def make(keys: str = "", timeout: float | None = None) -> SandboxSession:
        pools = tmp_path / f"pools-{len(opened)}.toml"
        pools.write_text(_SMALL + keys)
        with override({"pools_file": str(pools), "isolation_min": "bwrap+rlimit"}, "tests/attacks"):
            session = SandboxSession("attacked", timeout=timeout)
            session.create_sandbox()
        opened.append(session)
        assert session.isolation == tier
        return session

    close_backends()
    yield make
    for session in opened:
        session.delete_sandbox()
    close_backends()


@pytest.fixture
def sandbox(open_sandbox: OpenSandbox) -> SandboxSession:
    return open_sandbox()


def python(sandbox: SandboxSession, code: str, *argv: str, timeout: float = 120.0) -> StepResult:
    """Run a Python program in the sandbox."""
    return sandbox.run("python3", "-I", "-c", dedent(code), *argv, timeout=timeout)


def descriptors(processes: int, most: int) -> int:
    """How many each of so many processes is to open: ``most``, or as many as all of them have opened in some seconds.

    A kernel in user mode takes twenty times as long for one, and for its end.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        opened = [os.dup(0) for _ in range(200)]
        taken.append((time.perf_counter() - began) / len(opened))
        for each in opened:
            os.close(each)
    bounds = [most, max(1000, int(2 / (processes * min(taken))))]
    return min(bounds if hard == resource.RLIM_INFINITY else [*bounds, hard])


def beats(sandbox: SandboxSession) -> bool:
    """Whether something lives that keeps writing /workspace/beat."""
    script = "rm -f /workspace/beat; sleep 0.3; test -e /workspace/beat"
    return sandbox.run("sh", "-c", script, timeout=10).exit_code == 0


BEATING = """
def beat():
    while True:
        with open("/workspace/beat", "w"):
            time.sleep(0.01)
"""
"""Defines ``beat()``, the sign of life that ``beats`` looks for."""

__all__ = ["BEATING", "OpenSandbox", "beats", "descriptors", "host_of", "python"]


def share_rootdir(
    pytester: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, *, mode: int
) -> None:
    """Let sandboxes into pytester's folder, with that mode where they have another user."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # pytester has it in its folder
    for path in (pytester.path, *pytester.path.parents[:3]):
        if path != Path("/tmp"):
            path.chmod(0o755)
    if os.geteuid() == 0:
        pytester.path.chmod(mode)
