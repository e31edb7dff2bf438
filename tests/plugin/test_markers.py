"""The marker: what carries it, what it takes, and where it cannot take effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


def test_items_that_use_a_sandbox_carry_it(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import pytest
        from pytest_arl import sandbox_fixture
        trained = sandbox_fixture()

        @pytest.fixture
        def indirectly(trained): pass
    """,
    )
    project.test("""
        def test_plain(): pass
        def test_direct(arl_sandbox): pass
        def test_factory(arl_sandbox_factory): pass
        def test_made(trained): pass
        def test_through_another(indirectly): pass
        @pytest.mark.arl
        def test_by_hand(): pass
    """)
    without = project.run("-m", "not arl", "--co", "-q").text
    assert "test_plain" in without
    assert "test_it.py::" in without
    assert without.count("test_it.py::") == 1
    assert project.run("-m", "arl", "--co", "-q").text.count("test_it.py::") == 5


def test_the_marker_is_registered(project: Project) -> None:
    project.test("def test_it(arl_sandbox): pass")
    project.run("--strict-markers").passes(1)
    assert "@pytest.mark.arl(pool_ref=None" in project.run("--markers").text


def test_unknown_argument_is_an_error_at_setup_that_names_it(project: Project) -> None:
    project.test("""
        @pytest.mark.arl(pool="a")
        def test_it(arl_sandbox): pass
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    assert "the marker of test_it: there is no option 'pool'; did you mean 'pool_ref'?" in outcome.text


def test_positional_argument_is_an_error_that_shows_the_right_form(project: Project) -> None:
    project.test("""
        @pytest.mark.arl("a")
        def test_it(arl_sandbox): pass
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    assert "@pytest.mark.arl(pool_ref='a')" in outcome.text


def test_bad_value_is_an_error_at_setup_that_names_it(project: Project) -> None:
    project.test("""
        @pytest.mark.arl(timeout=-1)
        def test_it(arl_sandbox): pass
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    assert "the marker of test_it: timeout" in outcome.text


def test_parameter_that_is_neither_a_pool_nor_a_dict_is_an_error_at_setup(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("arl_sandbox", [3], indirect=True)
        def test_it(arl_sandbox): pass
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    assert "expected a pool's name or a dict" in outcome.text


def test_unknown_key_of_a_parameter_is_an_error_at_setup(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("arl_sandbox", [{"pool_reff": "a"}], indirect=True)
        def test_it(arl_sandbox): pass
    """)
    outcome = project.run()
    outcome.counts(errors=1)
    assert "there is no option 'pool_reff'; did you mean 'pool_ref'?" in outcome.text


@pytest.mark.parametrize("call", ["arl_sandbox(pool='a')", "arl_sandbox_factory(pool='a')"])
def test_unknown_argument_of_a_call_is_named(project: Project, call: str) -> None:
    project.test(f"def test_it(arl_sandbox, arl_sandbox_factory): {call}")
    outcome = project.run()
    outcome.counts(failed=1)
    assert "there is no option 'pool'; did you mean 'pool_ref'?" in outcome.text


def test_ids_are_the_pool(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("arl_sandbox", [{"pool_ref": "a"}, {"pool_ref": "b", "timeout": 3}, "c"], indirect=True)
        def test_x(arl_sandbox): pass
    """)
    text = project.run("--co", "-q").text
    assert [f"test_x[{pool}]" in text for pool in "abc"] == [True, True, True]


def test_dicts_that_are_not_options_keep_pytests_ids(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("manifest", [{"pool_ref": "a", "kind": "Sandbox"}])
        def test_x(manifest): pass
    """)
    assert "test_x[manifest0]" in project.run("--co", "-q").text


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_marker_that_comes_too_late_for_a_wider_scope_is_an_error_at_setup(project: Project, scope: str) -> None:
    project.test("""
        class TestIt:
            def test_opens(self, arl_sandbox):
                assert pool(arl_sandbox) == "default"

            @pytest.mark.arl(pool_ref="b")
            def test_late(self, arl_sandbox): pass
    """)
    outcome = project.run(f"--arl-scope={scope}")
    outcome.counts(passed=1, errors=1)
    assert "the marker of test_late asks for pool_ref='b'" in outcome.text
    assert f"has scope {scope} and is open already" in outcome.text
    assert "TestIt::test_opens" in outcome.text


def test_test_that_would_run_in_anothers_pool_is_an_error_at_setup(project: Project) -> None:
    project.test("""
        @pytest.mark.arl(pool_ref="b")
        def test_opens(arl_sandbox):
            assert pool(arl_sandbox) == "b"

        def test_late(arl_sandbox): pass
    """)
    outcome = project.run("--arl-scope=module")
    outcome.counts(passed=1, errors=1)
    assert "test_late does not ask for pool_ref" in outcome.text


def test_marker_that_asks_for_what_is_open_is_no_error(project: Project) -> None:
    project.test("""
        def test_opens(arl_sandbox): pass

        @pytest.mark.arl(pool_ref="a", timeout=5)
        def test_same(arl_sandbox):
            assert pool(arl_sandbox) == "a"
    """)
    project.run("--arl-scope=module", "--arl-pool=a").passes(2)


def test_marker_is_no_concern_of_a_test_without_the_fixture(project: Project) -> None:
    project.test("""
        def test_opens(arl_sandbox): pass

        @pytest.mark.arl(pool_ref="b")
        def test_other(): pass
    """)
    project.run("--arl-scope=module").passes(2)
