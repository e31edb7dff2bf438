"""A root folder that somebody else made, and what it would have the agent load."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, UsageError
from tests.attacks.conftest import OpenSandbox

_LIBRARY = "libz.so.1"
"""Any library that neither the agent nor ``cat`` needs."""


def _copy(root: Path, source: Path, target: str) -> None:
    there = root / target.lstrip("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), there)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("bin", "etc", "opt"):
        (folder / name).mkdir(parents=True)
    found = shutil.which("cat")
    assert found
    _copy(folder, Path(found), "/bin/cat")
    for line in subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout.split():
        if line.startswith("/"):
            _copy(folder, Path(line), line)
    return folder


def _loaded(sandbox: SandboxSession) -> bool:
    """Whether a program of the sandbox has loaded what the root folder's preload file names."""
    return "/opt/" in sandbox.run("cat", "/proc/self/maps").check().stdout


def _preload(root: Path) -> None:
    libraries = list(Path("/usr/lib", f"{os.uname().machine}-linux-gnu").glob("libz.so.1*"))
    libraries += list(Path("/usr/lib64").glob("libz.so.1*"))
    if not libraries:
        pytest.skip("no library here to preload")
    _copy(root, libraries[0], f"/opt/{_LIBRARY}")
    (root / "etc/ld.so.preload").write_text(f"/opt/{_LIBRARY}\n")


def test_a_root_folder_preloads_nothing_into_the_agent(open_sandbox: OpenSandbox, root: Path) -> None:
    _preload(root)
    sandbox = open_sandbox(f'root = "{root}"')
    # The agent's own loader reads the same file; its maps are closed to a step, so a step's stand for them.
    assert not _loaded(sandbox)
    preloaded = sandbox.run("cat", "/proc/self/maps", env={"LD_PRELOAD": f"/opt/{_LIBRARY}"}).check().stdout
    assert "/opt/" in preloaded, "the positive control: asked for by a step, it is loaded"
    assert (root / "etc/ld.so.preload").read_text(), "the folder itself is as it was"


def test_a_preload_file_that_is_a_link_is_refused(open_sandbox: OpenSandbox, root: Path) -> None:
    (root / "etc/ld.so.preload").symlink_to("/opt/list")
    with pytest.raises(UsageError, match=r"ld\.so\.preload"):
        open_sandbox(f'root = "{root}"')
