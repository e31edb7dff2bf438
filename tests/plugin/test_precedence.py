"""Call > indirect parameter > closest marker > command line > environment > ini > pyproject.toml > default.

Each test sets two neighbours of that chain to different pools, and nothing that is stronger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

INDIRECT = "@pytest.mark.parametrize('arl_sandbox', [{'pool_ref': 'b'}], indirect=True)\n"


def fixture_gives(project: Project, expected: str, decorators: str = "", *args: str, body: str = "arl_sandbox") -> None:
    project.test(f"{decorators}\ndef test_it(arl_sandbox):\n    assert pool({body}) == {expected!r}\n")
    project.run(*args).passes(1)


def session_in_the_body_gives(project: Project, expected: str, decorators: str = "", *args: str) -> None:
    project.test(
        "from pytest_arl import SandboxSession\n"
        f"{decorators}\n"
        "def test_it():\n"
        "    with SandboxSession() as sandbox:\n"
        f"        assert pool(sandbox) == {expected!r}\n"
    )
    project.run(*args).passes(1)


def test_call_beats_indirect_parameter(project: Project) -> None:
    fixture_gives(project, "a", INDIRECT, body="arl_sandbox(pool_ref='a')")


def test_call_without_the_option_takes_the_indirect_parameter(project: Project) -> None:
    fixture_gives(project, "b", INDIRECT, body="arl_sandbox()")


def test_indirect_parameter_beats_marker(project: Project) -> None:
    fixture_gives(project, "b", INDIRECT + "@pytest.mark.arl(pool_ref='a')")


def test_marker_beats_command_line(project: Project) -> None:
    fixture_gives(project, "a", "@pytest.mark.arl(pool_ref='a')", "--arl-pool=b")


def test_marker_is_the_default_of_a_call(project: Project) -> None:
    fixture_gives(project, "a", "@pytest.mark.arl(pool_ref='a')", "--arl-pool=b", body="arl_sandbox()")


def test_command_line_beats_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ARL_POOL", "b")
    fixture_gives(project, "a", "", "--arl-pool=a")


def test_environment_beats_ini(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ARL_POOL", "a")
    project.ini("arl_pool = b")
    fixture_gives(project, "a")


def test_ini_beats_pyproject(project: Project) -> None:
    project.ini("arl_pool = a")
    project.toml("pool = 'b'")
    fixture_gives(project, "a")


def test_pyproject_beats_default(project: Project) -> None:
    project.toml("pool = 'b'")
    fixture_gives(project, "b")


def test_default(project: Project) -> None:
    fixture_gives(project, "default")


def test_markers_merge_key_by_key_and_the_closest_wins(project: Project) -> None:
    project.test("""
        pytestmark = pytest.mark.arl(pool_ref="a", timeout=50, keep_workspace=True)

        @pytest.mark.arl(pool_ref="b", timeout=40)
        class TestIt:
            @pytest.mark.arl(timeout=30)
            def test_function(self, arl_sandbox):
                assert (pool(arl_sandbox), arl_sandbox.timeout, arl_sandbox.keep_workspace) == ("b", 30, True)

            def test_class(self, arl_sandbox):
                assert (pool(arl_sandbox), arl_sandbox.timeout, arl_sandbox.keep_workspace) == ("b", 40, True)

        def test_module(arl_sandbox):
            assert (pool(arl_sandbox), arl_sandbox.timeout, arl_sandbox.keep_workspace) == ("a", 50, True)
    """)
    project.run().passes(3)


def test_session_in_the_body_follows_the_marker(project: Project) -> None:
    session_in_the_body_gives(project, "a", "@pytest.mark.arl(pool_ref='a')", "--arl-pool=b")


def test_session_in_the_body_follows_the_indirect_parameter(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxSession

        @pytest.mark.arl(pool_ref="a")
        @pytest.mark.parametrize("arl_sandbox", ["b"], indirect=True)
        def test_it(arl_sandbox):
            with SandboxSession() as sandbox:
                assert pool(sandbox) == "b"
    """)
    project.run().passes(1)


def test_session_in_the_body_has_its_own_arguments_first(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxSession

        @pytest.mark.arl(pool_ref="a")
        def test_it():
            with SandboxSession(pool_ref="c") as sandbox:
                assert pool(sandbox) == "c"
    """)
    project.run().passes(1)


def test_session_in_the_body_follows_the_command_line(project: Project) -> None:
    session_in_the_body_gives(project, "b", "", "--arl-pool=b")


def test_session_in_a_thread_of_the_test_follows_the_marker(project: Project) -> None:
    project.test("""
        from concurrent.futures import ThreadPoolExecutor
        from pytest_arl import SandboxSession

        def ask():
            with SandboxSession() as sandbox:
                return pool(sandbox)

        @pytest.mark.arl(pool_ref="a")
        def test_it():
            with ThreadPoolExecutor(1) as threads:
                assert threads.submit(ask).result() == "a"
    """)
    project.run().passes(1)


def test_what_a_test_asks_ends_with_it(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxSession

        @pytest.mark.arl(pool_ref="a")
        def test_asks(): pass

        def test_does_not():
            with SandboxSession() as sandbox:
                assert pool(sandbox) == "default"
    """)
    project.run().passes(2)


def test_factory_and_sandbox_fixture_ignore_the_marker(project: Project) -> None:
    project.test("""
        from pytest_arl import sandbox_fixture
        ours = sandbox_fixture()

        @pytest.mark.arl(pool_ref="a", timeout=5)
        def test_it(ours, arl_sandbox_factory):
            made = arl_sandbox_factory()
            assert (pool(ours), pool(made)) == ("b", "b")
            assert (ours.timeout, made.timeout) == (77, 77)
    """)
    project.run("--arl-pool=b", "--arl-timeout=77").passes(1)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_timeout_of_the_marker_bounds_each_test(project: Project, scope: str) -> None:
    project.test("""
        @pytest.mark.arl(timeout=0.2)
        def test_short(arl_sandbox):
            assert arl_sandbox.run("sleep", "30").outcome == "TimedOut"

        @pytest.mark.arl(timeout="20s")
        def test_long(arl_sandbox):
            assert arl_sandbox.timeout == 20
            assert arl_sandbox.run("sleep", "0.5").ok

        def test_none(arl_sandbox):
            assert arl_sandbox.timeout == 30

        @pytest.mark.arl(timeout=None)
        def test_lifted(arl_sandbox):
            assert arl_sandbox.timeout is None
    """)
    project.run(f"--arl-scope={scope}", "--arl-timeout=30").passes(4)
