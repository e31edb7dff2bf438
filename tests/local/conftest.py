"""A backend of its own for each test, and short ways to use it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from pytest_arl.backends.base import AcquireRequest, BackendSandbox, TaskRequest
from pytest_arl.backends.local import LocalBackend
from pytest_arl.backends.local.probe import probe
from pytest_arl.config_files import TRUST
from pytest_arl.results import StepResult
from pytest_arl.settings import Settings
from pytest_arl.steps import parse_steps

AS_ROOT = os.geteuid() == 0

needs_root = pytest.mark.skipif(not AS_ROOT, reason="what root alone does")
needs_user = pytest.mark.skipif(AS_ROOT, reason="what an ordinary user alone does")
EXPECTED_TIER = os.environ.get("ARL_TEST_EXPECT_TIER", "")
"""What this machine must give: with it, what needs cgroups is not skipped but fails where there are none."""
needs_cgroups = pytest.mark.skipif(
    not probe().cgroups and EXPECTED_TIER != "bwrap+cgroup",
    reason=f"no cgroups for this user here: {probe().without_cgroups}",
)


class MakeBackend(Protocol):
    def __call__(self, pools: str = "", **settings: object) -> LocalBackend: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that everybody may enter, as a project's usually is (pytest's own is for its user alone)."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        if path.owner() == tmp_path.owner() and path != Path("/tmp"):
            path.chmod(0o755)
    return tmp_path


@pytest.fixture
def make_backend(folder: Path) -> Iterator[MakeBackend]:
    """Makes backends from pool tables as a pools file has them, and closes them."""
    made: list[LocalBackend] = []

    def make(pools: str = "", **settings: object) -> LocalBackend:
        path = folder / f"pools-{len(made)}.toml"
        path.write_text(pools)
        # Some tests give all of it to every user, as sandboxes of root's need it.
        environ = {TRUST: str(folder)}
        given = {"pools_file": str(path), **settings}
        backend = LocalBackend(Settings.build(cli=given, environ=environ, start_dir=folder))
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def sandbox(make_backend: MakeBackend) -> BackendSandbox:
    return acquire(make_backend())


def acquire(backend: LocalBackend, pool: str = "default", timeout: float = 30.0) -> BackendSandbox:
    return backend.acquire(AcquireRequest(pool, acquire_timeout=timeout))


def run(sandbox: BackendSandbox, *argv: str, timeout: float = 30.0) -> StepResult:
    steps = parse_steps([{"type": "Command", "command": list(argv), "timeout": timeout}])
    return sandbox.execute(TaskRequest(secrets.token_hex(8), steps), None)[0]


def sh(sandbox: BackendSandbox, script: str) -> str:
    """What a shell script printed; it must succeed."""
    result = run(sandbox, "sh", "-c", script)
    assert result.exit_code == 0, (script, result.stdout, result.stderr)
    return result.stdout


def python(sandbox: BackendSandbox, script: str) -> StepResult:
    return run(sandbox, "python3", "-c", script)


@pytest.fixture
def make_root(folder: Path) -> Callable[..., Path]:
    """Makes a root folder with some of this machine's programs and what they need: neither a Python nor a shell."""

    def make(*programs: str, name: str = "root") -> Path:
        root = folder / name
        for top in ("bin", "etc", "lib", "opt", "tmp"):
            (root / top).mkdir(parents=True, exist_ok=True)
        for program in programs:
            found = shutil.which(program)
            assert found
            _copy(Path(found), root / "bin" / program)
            listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
            for word in listed.split():
                if word.startswith("/"):
                    _copy(Path(word), root / word.lstrip("/"))
        return root

    return make


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(source.resolve(), target)
        target.chmod(0o755)
