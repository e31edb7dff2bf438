"""The Python that runs pytest, and what pytest reads, inside a mount that a sandbox may write."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_arl.backends.local import LocalBackend, survey
from pytest_arl.backends.local.probe import probe
from pytest_arl.config_files import TRUST
from pytest_arl.errors import UsageError
from tests.folders import open_to_all
from tests.local.conftest import MakeBackend, acquire, run, sh


def pool(*mounts: str) -> str:
    return f"[pools.p]\nmounts = {list(mounts)!r}\n"


@pytest.fixture
def project(folder: Path) -> Path:
    """A project that everybody may write to, with the files of rootdir that pytest reads."""
    for name in ("pyproject.toml", "conftest.py", "pytest.ini", "tests/conftest.py", "tests/data/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("")
    return folder


def refused(backend: LocalBackend, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        acquire(backend, "p")


def test_what_pytest_reads_is_read_only_in_a_writable_mount(make_backend: MakeBackend, project: Path) -> None:
    backend = make_backend(pool(".:/src:rw"))
    open_to_all(project)
    sandbox = acquire(backend, "p")
    for name in ("pyproject.toml", "conftest.py", "pytest.ini", "tests/conftest.py", "pools-0.toml"):
        assert "Read-only" in run(sandbox, "sh", "-c", f"echo 'boom(' >> /src/{name}").stderr, name
        for attempt in (f"mv /src/{name} /src/x", f"rm -f /src/{name}", f"touch /src/n; mv -f /src/n /src/{name}"):
            assert run(sandbox, "sh", "-c", attempt).exit_code == 1, attempt
    assert run(sandbox, "mv", "/src/tests", "/src/moved").exit_code == 1
    sh(sandbox, "echo x >> /src/tests/data/notes.txt && mv /src/tests/data /src/data && echo x > /src/new.py")
    assert (project / "data/notes.txt").read_text() == "x\n"


@pytest.mark.parametrize("name", ["pyproject.toml", "conftest.py", "pools-0.toml"])
def test_a_file_that_pytest_reads_is_no_writable_mount(make_backend: MakeBackend, project: Path, name: str) -> None:
    backend = make_backend(pool(f"{name}:/x:rw"))
    open_to_all(project)
    refused(backend, "read by pytest in every run")
    acquire(make_backend(pool(f"{name}:/x")), "p")


def test_a_settings_file_that_is_a_link_cannot_be_in_a_writable_mount(make_backend: MakeBackend, project: Path) -> None:
    (project / "conftest.py").rename(project / "real.py")
    (project / "conftest.py").symlink_to("real.py")
    backend = make_backend(pool(".:/src:rw"))
    open_to_all(project)
    refused(backend, r"conftest\.py is a symbolic link")


def test_folders_of_sys_path_are_read_only_in_a_writable_mount(
    make_backend: MakeBackend, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "lib/package").mkdir(parents=True)
    (project / "lib/package/__init__.py").write_text("")
    (project / "lib/data").mkdir()
    (project / "submissions/one").mkdir(parents=True)
    (project / "submissions/one/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(project / "lib"))
    monkeypatch.syspath_prepend(str(project))  # as a conftest.py in rootdir does
    open_to_all(project)
    sandbox = acquire(make_backend(pool(".:/src:rw")), "p")
    assert "Read-only" in run(sandbox, "touch", "/src/lib/json.py").stderr
    sh(sandbox, "touch /src/new.py")
    open_to_all(project)
    refused(make_backend(pool("lib:/lib-of-it:rw")), r"it is on sys\.path")
    refused(make_backend(pool("lib/package:/package:rw")), r"lib, in which it lies, is on sys\.path")
    acquire(make_backend(pool("lib/data:/data:rw")), "p")
    acquire(make_backend(pool("submissions/one:/data:rw")), "p")
    acquire(make_backend(pool("lib:/data")), "p")


def test_the_running_environment_is_no_writable_mount(
    make_backend: MakeBackend, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders are put at places that the test's user may write, for the true ones may be root's."""
    environment = project / "env"
    for name in ("bin", "lib/python3/site-packages/module", "share"):
        (environment / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.syspath_prepend(str(environment / "lib/python3/site-packages"))
    open_to_all(project)
    for name in ("env", "env/bin", "env/lib", "env/lib/python3/site-packages/module"):
        refused(make_backend(pool(f"{name}:/x:rw")), "the Python environment|sys.path")
    acquire(make_backend(pool("env/share:/x:rw")), "p")
    sandbox = acquire(make_backend(pool(".:/x:rw")), "p")
    for path in ("bin/python", "lib/python3/site-packages/evil.pth", "pyvenv.cfg"):
        assert "Read-only" in run(sandbox, "touch", f"/x/env/{path}").stderr
    assert run(sandbox, "mv", "/x/env", "/x/moved").exit_code == 1
    environment.rename(project / "real")
    environment.symlink_to("real")
    refused(make_backend(pool(".:/x:rw")), r"env is a symbolic link")


@pytest.mark.parametrize("kept", ["env/lib/module.py", "conftest.py"])
def test_a_hard_link_to_what_pytest_reads_is_refused_in_a_writable_mount(
    make_backend: MakeBackend, project: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    (project / "env/lib").mkdir(parents=True)
    (project / "env/lib/module.py").write_text("")
    (project / "cache/deep").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(project / "env/lib"))
    monkeypatch.syspath_prepend(str(project))
    os.link(project / "tests/data/notes.txt", project / "cache/deep/harmless")
    open_to_all(project)
    acquire(make_backend(pool("cache:/cache:rw")), "p")
    os.link(project / kept, project / "cache/deep/second")
    for mount in ("cache:/cache:rw", ".:/src:rw"):
        refused(make_backend(pool(mount)), rf"second is the same file as .*/{kept} \(a hard link\)")
    acquire(make_backend(pool("cache:/cache")), "p")
    if os.geteuid() == 0:
        (project / kept).chmod(0o644)  # which a sandbox of root's cannot write
        acquire(make_backend(pool("cache:/cache:rw")), "p")


def test_where_programs_are_looked_for_is_kept_too(
    make_backend: MakeBackend, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "tools").mkdir()
    monkeypatch.setenv("PATH", f"{project}/tools", prepend=os.pathsep)
    open_to_all(project)
    sandbox = acquire(make_backend(pool(".:/src:rw")), "p")
    assert "Read-only" in run(sandbox, "sh", "-c", "echo x > /src/tools/bwrap").stderr
    sh(sandbox, "echo x > /src/other")
    refused(make_backend(pool("tools:/tools:rw")), "on the PATH by which pytest finds")


def test_the_bubblewrap_in_use_is_kept_too(make_backend: MakeBackend, project: Path) -> None:
    kept = {kept.path for kept in survey._of_python([probe().bwrap])}
    assert probe().bwrap in kept


def test_packages_that_setuptools_installed_editable_are_read_only(
    make_backend: MakeBackend, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "package").mkdir()
    (project / "package/__init__.py").write_text("")
    finder = types.ModuleType("__editable___package_1_0_finder")
    finder.MAPPING = {"package": str(project / "package")}  # type: ignore[attr-defined]
    open_to_all(project)
    acquire(make_backend(pool("package:/package:rw")), "p").close()
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    refused(make_backend(pool("package:/package:rw")), "on sys.path")
    assert "Read-only" in run(acquire(make_backend(pool(".:/src:rw")), "p"), "touch", "/src/package/new.py").stderr


@pytest.fixture
def script(project: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a program by an environment that lies in the project, as a newcomer's does."""
    environment = project / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text("\n".join(path for path in sys.path if path))

    def run_it(program: str) -> subprocess.CompletedProcess[str]:
        open_to_all(project)
        return subprocess.run(
            [environment / "bin/python", "-c", dedent(program)],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), TRUST: str(project)},
            timeout=120,
        )

    return run_it


def test_an_environment_inside_the_project_cannot_be_changed(
    project: Path, script: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    (project / "pyproject.toml").write_text('[tool.pytest-arl.pools.default]\nmounts = [".:/src:rw"]\n')
    done = script("""
        from pytest_arl import SandboxSession
        with SandboxSession() as sandbox:
            for attempt in (
                "echo 'import os' > /src/.venv/lib/python3*/site-packages/evil.pth",
                "cd /src/.venv/lib/python3*/site-packages && echo x > sitecustomize.py",
                "mv /src/.venv /src/moved", "rm -rf /src/.venv/bin", "echo x > /src/.venv/pyvenv.cfg",
                "ln -sfn /tmp /src/.venv", "echo x > /src/pyproject.toml",
            ):
                print(sandbox.run("sh", "-c", attempt).exit_code != 0)
            sandbox.run("sh", "-c", "echo x > /src/allowed").check()
    """)
    assert done.stdout.split() == ["True"] * 7, done.stderr
    assert (project / "allowed").exists()
    assert (project / ".venv/bin/python").exists()
