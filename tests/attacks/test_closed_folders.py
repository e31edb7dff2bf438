"""Folders that code in one sandbox closes to hide what is in them: the mode keeps this side from seeing what must stay read-only.

An ordinary user's sandbox owns what its user owns. It once closed a folder with a repository in it, and the sandbox of
another pool, for which nothing was found there to keep, opened it again and wrote hooks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_arl.backends.local import LocalBackend
from pytest_arl.errors import UsageError
from tests.attacks.test_mount_sources import SECRET, MakeRun, make_run, mounts, project
from tests.local.conftest import acquire, run, sh

__all__ = ["make_run", "project"]

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="a sandbox of root's owns nothing, and root reads everything")


@pytest.fixture
def two_pools(make_run: MakeRun, project: Path, monkeypatch: pytest.MonkeyPatch) -> LocalBackend:
    """Two pools that share a folder. A repository lies in it, and a module of pytest's."""
    (project / "shared/a/b/.git/hooks").mkdir(parents=True)
    (project / "shared/a/b/sub/late.py").write_text(SECRET)
    monkeypatch.setattr(sys, "path", [*sys.path, str(project / "shared/a/b/sub")])
    return make_run({"first": mounts("shared:/data:rw"), "second": mounts("shared:/data:rw")})


def opened_and_written(backend: LocalBackend) -> str:
    """The second pool's sandbox at work on the folders."""
    script = "chmod 755 /data /data/a /data/a/b; touch /data/a/b/.git/hooks/pre-commit /data/a/b/sub/later.py; true"
    return str(run(acquire(backend, "second"), "sh", "-c", script).stderr)


@as_user
@pytest.mark.parametrize("mode", ["000", "100", "400"])
@pytest.mark.parametrize("folder", ["", "/a", "/a/b"])
def test_a_closed_folder_does_not_open_what_is_kept_in_it(
    two_pools: LocalBackend, project: Path, folder: str, mode: str
) -> None:
    try:
        assert sh(acquire(two_pools, "first"), f"chmod {mode} /data{folder}; stat -c %a /data{folder}").strip() == str(
            int(mode)
        )
        with pytest.raises(UsageError, match=r"second.*/shared.* cannot be read.*chmod u\+rwx"):
            opened_and_written(two_pools)
    finally:
        for path in ("shared", "shared/a", "shared/a/b"):
            (project / path).chmod(0o755)
    assert not list((project / "shared/a/b/.git/hooks").iterdir())
    assert not (project / "shared/a/b/sub/later.py").exists()


def test_what_is_kept_in_open_folders_is_read_only_for_both(two_pools: LocalBackend, project: Path) -> None:
    acquire(two_pools, "first")
    assert opened_and_written(two_pools).count("Read-only file system") >= 2
    assert not list((project / "shared/a/b/.git/hooks").iterdir())
    assert not (project / "shared/a/b/sub/later.py").exists()


@as_user
def test_a_closed_folder_in_a_read_only_mount_is_no_obstacle(make_run: MakeRun, project: Path) -> None:
    (project / "shared/sub").chmod(0)
    try:
        assert sh(acquire(make_run({"one": mounts("shared:/data")}), "one"), "ls /data").split() == ["a", "sub"]
    finally:
        (project / "shared/sub").chmod(0o755)
