"""What a run reads and writes on this machine while untrusted code is at work in a folder that both can write."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugin.conftest import Outcome, Project


@pytest.fixture
def shared(project: Project) -> Project:
    """A project whose pools let sandboxes write the folder `shared`, in which the pools file lies."""
    (project.path / "shared").mkdir()
    project.toml("")
    project.write(
        "shared/pools.toml",
        """
        [pools.default]
        env = { FROM = "first" }
        [pools.writes]
        mounts = ["data:/data:rw"]
        """,
    )
    (project.path / "shared/data").mkdir()
    os.chmod(project.path / "shared/data", 0o777)
    return project


def run(project: Project, *args: str) -> Outcome:
    return project.run("--arl-pools-file=shared/pools.toml", *args)


_REWRITE = """
    import os, pathlib
    EVIL = '[pools.default]\\nenv = { FROM = "second" }\\n'

    def test_1(arl_sandbox):
        assert arl_sandbox.run("sh", "-c", "echo $FROM").stdout == "first\\n"
        pathlib.Path("shared/pools.toml").write_text(EVIL)
        pathlib.Path("pytest.ini").write_text("[pytest]\\narl_pool = writes\\n")
        END

    def test_2(arl_sandbox):
        assert pathlib.Path("shared/pools.toml").read_text() == EVIL
        assert arl_sandbox.run("sh", "-c", "echo $FROM").stdout == "first\\n"
"""


def test_a_pools_file_is_read_once_in_a_run(shared: Project) -> None:
    shared.test(_REWRITE.replace("END", ""))
    run(shared).passes(2)


def test_a_worker_that_starts_late_has_the_configuration_of_the_others(shared: Project) -> None:
    shared.test(_REWRITE.replace("END", "os._exit(1)"))
    outcome = run(shared, "-n1")
    outcome.counts(passed=1, failed=1)
    assert "replacing crashed worker" in outcome.text, "control: test_2 ran in one that started after test_1"


@pytest.mark.parametrize(
    "option",
    [
        "--arl-output=shared/data/out",
        "--junitxml=shared/data/report.xml",
        "--log-file=shared/data/log",
        "--basetemp=shared/data/base",
        "-olog_file=shared/data/log",
    ],
)
def test_what_a_run_writes_does_not_lie_where_a_sandbox_can_write(shared: Project, option: str) -> None:
    shared.test("""
        @pytest.mark.arl(pool_ref="writes")
        def test_writes(arl_sandbox): arl_sandbox.run("true").check()

        def test_others(arl_sandbox): arl_sandbox.run("true").check()
    """)
    outcome = run(shared, option)
    outcome.counts(passed=1, errors=1)
    name = option.partition("=")[0].removeprefix("-o")
    assert f"{name}: " in outcome.text
    assert "pool 'writes' can write" in outcome.text


def test_an_output_folder_where_the_runs_own_pool_writes_is_refused_at_once(shared: Project) -> None:
    shared.test("def test_it(arl_sandbox): pass")
    outcome = run(shared, "--arl-output=shared/data/out", "--arl-pool=writes")
    assert outcome.ret == 4
    assert "pool 'writes' can write" in outcome.errors
    assert "Traceback" not in outcome.text + outcome.errors
    assert not (shared.path / "shared/data/out").exists()


def test_a_late_worker_writes_nothing_into_an_output_folder_that_was_replaced(shared: Project) -> None:
    (shared.path / "outside").mkdir()
    shared.test("""
        import os, pathlib

        def test_1(arl_sandbox):
            arl_sandbox.run("echo", "first").check()
            pathlib.Path("out").rename("kept")
            pathlib.Path("out").symlink_to("outside")
            os._exit(1)

        def test_2(arl_sandbox):
            arl_sandbox.run("echo", "second").check()
    """)
    outcome = run(shared, "-n1", "--arl-output=out")
    outcome.counts(passed=1, failed=1)
    assert list((shared.path / "outside").iterdir()) == []
    assert (shared.path / "kept/steps.jsonl").read_text().count("\n") == 1
    assert "gw1: --arl-output: cannot write to" in outcome.text


@pytest.fixture
def open_project(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A project that sandboxes can write as a whole, with tests in folders of their own."""
    monkeypatch.setenv("PYTEST_ARL_TRUST", str(project.path))
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    before = os.umask(0)  # a sandbox of root's is another user: it must be the mounts that keep it out, not modes
    project.path.chmod(0o777)
    project.write("pools.toml", '[pools.default]\nmounts = [".:/src:rw"]')
    project.write("precious", "precious")
    for name in ("deep", "deep/er"):
        project.write(f"{name}/__init__.py", "")
        project.write(f"{name}/conftest.py", "import pytest")
    yield project
    os.umask(before)


_ATTEMPTS = """
    ATTEMPTS = [
        "mkdir -p .pytest_cache/v/cache && ln -s $PWD/precious .pytest_cache/v/cache/nodeids",
        "mv .pytest_cache gone",
        "rm -rf .pytest_cache && ln -s precious .pytest_cache",
        "echo 'boom()' >> deep/er/conftest.py",
        "mv deep/er away",
        "echo x > deep/er/__pycache__/conftest.cpython.pyc",
        "mv deep/er/__pycache__ away",
        "echo x > __pycache__/conftest.cpython.pyc",
    ]

    def test_it(arl_sandbox):
        for script in ATTEMPTS:
            tried = arl_sandbox.run("sh", "-c", script, work_dir="/src")
            assert not tried.ok, script
        arl_sandbox.run("sh", "-c", "echo x > /src/deep/er/new").check()
"""


@pytest.mark.parametrize("compiled", ["compiled", "not compiled"])
def test_what_pytest_reads_and_writes_by_itself_is_read_only_in_a_writable_mount(
    open_project: Project, compiled: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if compiled != "compiled":
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    open_project.test(_ATTEMPTS, "deep/er/test_it.py")
    base = tmp_path_factory.mktemp("base")
    open_project.run("--arl-pools-file=pools.toml", f"--basetemp={base / 'own'}").passes(1)
    assert (open_project.path / "precious").read_text() == "precious"
    assert (open_project.path / "deep/er/conftest.py").read_text() == "import pytest"
    assert not [path for path in open_project.path.glob("*/**/conftest.cpython.pyc") if "away" not in path.parts]
    assert (open_project.path / "deep/er/new").exists(), "control: all else can be written"
    assert (open_project.path / ".pytest_cache/.gitignore").exists(), "pytest has made it"
    assert (open_project.path / ".pytest_cache/v/cache/nodeids").is_file(), "and has written there"


def test_a_cache_elsewhere_is_kept_too_and_none_is_made_where_no_sandbox_writes(
    open_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = ["--arl-pools-file=pools.toml", f"--basetemp={tmp_path_factory.mktemp('base') / 'own'}", "deep/er"]
    open_project.ini("cache_dir = deep/mine")
    open_project.test(
        """
        def test_it(arl_sandbox):
            assert "Read-only" in arl_sandbox.run("touch", "/src/deep/mine/x").stderr
            arl_sandbox.run("touch", "/src/deep/x").check()
        """,
        "deep/er/test_it.py",
    )
    open_project.run(*options).passes(1)
    (open_project.path / "pools.toml").write_text('[pools.default]\nmounts = ["plain:/src/plain:rw"]')
    (open_project.path / "plain").mkdir()
    (open_project.path / "plain").chmod(0o777)
    open_project.ini("cache_dir = deep/other")
    open_project.test(
        "def test_it(arl_sandbox): assert not __import__('os').path.exists('deep/other')", "deep/er/test_it.py"
    )
    open_project.run(*options).passes(1)


def test_temporary_files_do_not_lie_where_a_sandbox_can_write(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.test("""
        @pytest.mark.arl(pool_ref="writes")
        def test_writes(arl_sandbox): arl_sandbox.run("true").check()
    """)
    folder = Path(tempfile.mkdtemp(dir=shared.path / "shared/data"))
    monkeypatch.setenv("TMPDIR", str(folder))
    outcome = run(shared)
    outcome.counts(errors=1)
    assert f"TMPDIR: {folder} lies in" in outcome.text
    monkeypatch.setenv("TMPDIR", str(shared.path / "shared"))
    run(shared).passes(1)
