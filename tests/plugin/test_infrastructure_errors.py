"""What the infrastructure does wrong is E: never F, and never what xfail expected."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

LOST = """
    from pytest_arl import SandboxLost, InfrastructureError

    def lose():
        raise SandboxLost("evicted: out of memory")
"""

XDIST = pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])


@pytest.fixture
def losing(project: Project) -> Project:
    project.write("losing.py", LOST)
    return project


def test_unknown_pool_is_an_error_at_setup(project: Project) -> None:
    project.test("def test_it(arl_sandbox): pass")
    outcome = project.run("--arl-pool=nowhere")
    outcome.counts(errors=1)
    assert "ERROR at setup of test_it" in outcome.text
    assert "PoolNotFound" in outcome.text
    assert "nowhere" in outcome.text


def test_an_error_at_setup_shows_no_frames_of_ours(project: Project) -> None:
    project.test("def test_it(arl_sandbox): pass")
    text = project.run("--arl-pool=nowhere").text
    assert "pytest_arl/" not in text
    assert "yield" not in text


def test_an_error_in_a_fixture_of_ones_own_is_at_setup_too(losing: Project) -> None:
    losing.test("""
        from losing import lose

        @pytest.fixture
        def broken():
            lose()

        def test_it(broken): pass
    """)
    losing.run().counts(errors=1)


@XDIST
def test_in_the_body_it_is_e_and_not_f(losing: Project, workers: list[str]) -> None:
    losing.test("""
        from losing import lose
        def test_it(): lose()
        def test_fails(): assert 0
        def test_passes(): pass
    """)
    outcome = losing.run(*workers)
    outcome.counts(errors=1, failed=1, passed=1)
    assert outcome.ret == 1
    assert "ERROR at call of test_it" in outcome.text


def test_the_short_summary_starts_with_the_errors_class(losing: Project) -> None:
    losing.test("from losing import lose\ndef test_it(): lose()")
    assert "ERROR test_it.py::test_it - SandboxLost: evicted" in losing.run("-rE").text


def test_junitxml_message_starts_with_the_errors_class(losing: Project) -> None:
    losing.test("from losing import lose\ndef test_it(): lose()")
    losing.run("--junitxml=j.xml")
    (failure,) = ET.parse(losing.path / "j.xml").iter("failure")
    assert failure.attrib["message"].startswith("SandboxLost: evicted")


@pytest.mark.parametrize("strict", [False, True])
def test_xfail_does_not_absorb_it_in_the_body(losing: Project, strict: bool) -> None:
    losing.test(f"""
        from losing import lose

        @pytest.mark.xfail(strict={strict})
        def test_it(): lose()

        @pytest.mark.xfail(strict={strict})
        def test_expected(): assert 0
    """)
    outcome = losing.run()
    outcome.counts(errors=1, xfailed=1)
    assert outcome.ret == 1


def test_xfail_that_expects_the_very_error_does_not_absorb_it(losing: Project) -> None:
    losing.test("""
        from losing import lose, InfrastructureError

        @pytest.mark.xfail(raises=InfrastructureError)
        def test_it(): lose()
    """)
    losing.run().counts(errors=1)


def test_xfail_does_not_absorb_it_in_setup(project: Project) -> None:
    project.test("""
        @pytest.mark.xfail
        def test_it(arl_sandbox): assert 0
    """)
    outcome = project.run("--arl-pool=nowhere")
    outcome.counts(errors=1)
    assert outcome.ret == 1


def test_xfail_in_setup_still_absorbs_what_is_not_the_infrastructures(project: Project) -> None:
    project.test("""
        @pytest.fixture
        def broken(arl_sandbox):
            assert 0

        @pytest.mark.xfail
        def test_it(broken): pass
    """)
    project.run().counts(xfailed=1)


def test_a_group_of_infrastructure_errors_is_an_infrastructure_error(losing: Project) -> None:
    losing.test("""
        from pytest_arl import SandboxLost, SandboxTimeout

        def test_group():
            raise ExceptionGroup("both", [SandboxLost("a"), ExceptionGroup("inner", [SandboxTimeout("b")])])

        def test_mixed():
            raise ExceptionGroup("both", [SandboxLost("a"), ValueError("b")])
    """)
    losing.run().counts(errors=1, failed=1)


def test_step_failed_and_usage_error_in_the_body_are_f(project: Project) -> None:
    project.test("""
        def test_step(arl_sandbox): arl_sandbox.run("false").check()
        def test_usage(arl_sandbox): arl_sandbox.execute([])
    """)
    project.run().counts(failed=2)


def test_an_infrastructure_error_that_the_test_expects_passes(losing: Project) -> None:
    losing.test("""
        from losing import lose, SandboxLost

        def test_it():
            with pytest.raises(SandboxLost):
                lose()
    """)
    losing.run().passes(1)


HOLDERS = 1 if pytest.version_tuple >= (9,) else 0
"""Since pytest 9, a test with failed subtests counts beside them; with pytest-subtests it passes."""

SUBTESTS = """
    from losing import lose

    def test_broken(subtests):
        with subtests.test("fine"): pass
        with subtests.test("lost"): lose()

    def test_failing(subtests):
        with subtests.test("lost"): lose()
        with subtests.test("fails"): assert 0
"""


def test_a_test_whose_only_failed_subtests_are_infrastructure_errors_is_e(losing: Project) -> None:
    losing.test(SUBTESTS)
    outcome = losing.run("-k", "broken", "-rA")
    assert "failed" not in outcome.result.parseoutcomes()
    assert outcome.result.parseoutcomes()["errors"] == 1 + HOLDERS
    assert outcome.ret == 1


def test_a_test_with_another_failed_subtest_is_f(losing: Project) -> None:
    losing.test(SUBTESTS)
    outcome = losing.run("-k", "failing")
    counted = outcome.result.parseoutcomes()
    assert counted["errors"] == 1
    assert counted["failed"] == 1 + HOLDERS


def test_xfail_does_not_absorb_a_subtests_infrastructure_error(losing: Project) -> None:
    losing.test("""
        from losing import lose

        @pytest.mark.xfail
        def test_it(subtests):
            with subtests.test("lost"): lose()
    """)
    outcome = losing.run()
    counted = outcome.result.parseoutcomes()
    assert counted.get("errors", 0) >= 1
    assert "xfailed" not in counted
    assert outcome.ret == 1


def test_subtests_under_xdist(losing: Project) -> None:
    losing.test(SUBTESTS)
    counted = losing.run("-n1", "-k", "broken").result.parseoutcomes()
    assert counted["errors"] >= 1
    assert "failed" not in counted


def test_unittests_subtests(losing: Project) -> None:
    losing.test("""
        import unittest
        from losing import lose

        class Test(unittest.TestCase):
            def test_it(self):
                with self.subTest("lost"): lose()
    """)
    counted = losing.run().result.parseoutcomes()
    assert counted["errors"] >= 1
    assert "failed" not in counted


def test_in_teardown_it_is_e(losing: Project) -> None:
    losing.test("""
        from losing import lose

        @pytest.fixture
        def broken():
            yield
            lose()

        @pytest.mark.xfail
        def test_it(broken): assert 0
    """)
    losing.run().counts(errors=1, xfailed=1)
