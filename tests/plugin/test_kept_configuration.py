"""What a run reads and writes on this machine while untrusted code is at work in a folder that both can write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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


@pytest.mark.parametrize("option", ["--arl-output=shared/data/out", "--junitxml=shared/data/report.xml"])
def test_what_a_run_writes_does_not_lie_where_a_sandbox_can_write(shared: Project, option: str) -> None:
    shared.test("""
        @pytest.mark.arl(pool_ref="writes")
        def test_writes(arl_sandbox): arl_sandbox.run("true").check()

        def test_others(arl_sandbox): arl_sandbox.run("true").check()
    """)
    outcome = run(shared, option)
    outcome.counts(passed=1, errors=1)
    name = option.partition("=")[0]
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
