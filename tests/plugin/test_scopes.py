"""How long a sandbox lives and which pool it is of: every scope, by every way of asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

SANDBOXES = {"function": 8, "class": 4, "module": 2, "session": 1}
"""In two modules of two classes of two tests."""

SCOPES = pytest.mark.parametrize("scope", list(SANDBOXES))

MODULE = """
    {module}

    class TestOne:
        {decorator}
        def test_1(self, {fixture}):
            assert pool({fixture}) == {expected!r}
        {decorator}
        def test_2(self, {fixture}):
            assert pool({fixture}) == {expected!r}

    class TestTwo:
        {decorator}
        def test_3(self, {fixture}):
            assert pool({fixture}) == {expected!r}
        {decorator}
        def test_4(self, {fixture}):
            assert pool({fixture}) == {expected!r}
"""


def write_modules(
    project: Project, expected: str, *, fixture: str = "arl_sandbox", module: str = "", decorator: str = ""
) -> None:
    text = MODULE.format(module=module, decorator=decorator, fixture=fixture, expected=expected)
    project.test(text, "test_first.py")
    project.test(text, "test_second.py")


@SCOPES
def test_of_the_settings_pool(project: Project, scope: str) -> None:
    write_modules(project, "a")
    outcome = project.run(f"--arl-scope={scope}", "--arl-pool=a")
    outcome.passes(8)
    assert outcome.used[0] == SANDBOXES[scope]


@SCOPES
def test_by_marker(project: Project, scope: str) -> None:
    write_modules(project, "b", module="pytestmark = pytest.mark.arl(pool_ref='b')")
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(8)
    assert outcome.used[0] == SANDBOXES[scope]


@SCOPES
def test_by_indirect_parameter(project: Project, scope: str) -> None:
    decorator = "@pytest.mark.parametrize('arl_sandbox', ['b'], indirect=True)"
    write_modules(project, "b", decorator=decorator)
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(8)
    assert outcome.used[0] == SANDBOXES[scope]


@SCOPES
def test_by_indirect_parameters_that_differ(project: Project, scope: str) -> None:
    project.test("""
        @pytest.mark.parametrize("arl_sandbox", [{"pool_ref": "a"}, "b"], indirect=True)
        class TestBoth:
            def test_1(self, arl_sandbox, request):
                assert pool(arl_sandbox) == request.node.callspec.id

            def test_2(self, arl_sandbox, request):
                assert pool(arl_sandbox) == request.node.callspec.id
    """)
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(4)
    assert outcome.used[0] == (4 if scope == "function" else 2)


@SCOPES
def test_by_call(project: Project, scope: str) -> None:
    project.write(
        "conftest.py",
        f"""
        import pytest

        @pytest.fixture(scope={scope!r})
        def second(arl_sandbox):
            return arl_sandbox(pool_ref="c")
    """,
    )
    write_modules(project, "c", fixture="second")
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(8)
    assert outcome.used[0] == 2 * SANDBOXES[scope]


@SCOPES
def test_by_override_in_a_conftest(project: Project, scope: str) -> None:
    project.write(
        "conftest.py",
        f"""
        from pytest_arl import sandbox_fixture
        arl_sandbox = sandbox_fixture(pool_ref="b", scope={scope!r})
    """,
    )
    write_modules(project, "b")
    outcome = project.run()
    outcome.passes(8)
    assert outcome.used[0] == SANDBOXES[scope]


@SCOPES
def test_by_override_that_prepares_the_plugins_sandbox(project: Project, scope: str) -> None:
    project.write(
        "conftest.py",
        f"""
        import pytest

        @pytest.fixture(scope={scope!r})
        def arl_sandbox(arl_sandbox):
            arl_sandbox.write("prepared", "yes")
            return arl_sandbox
    """,
    )
    project.test("""
        def test_1(arl_sandbox):
            assert arl_sandbox.read_text("prepared") == "yes"
            arl_sandbox.write("prepared", "spoiled")

        def test_2(arl_sandbox):
            assert arl_sandbox.read_text("prepared") == "yes"
    """)
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(2)
    assert outcome.used[0] == (2 if scope in {"function", "class"} else 1)


@SCOPES
def test_by_factory_in_a_fixture_of_ones_own(project: Project, scope: str) -> None:
    project.write(
        "conftest.py",
        f"""
        import pytest

        @pytest.fixture(scope={scope!r})
        def mine(arl_sandbox_factory):
            with arl_sandbox_factory(pool_ref="c") as sandbox:
                yield sandbox
    """,
    )
    write_modules(project, "c", fixture="mine")
    outcome = project.run()
    outcome.passes(8)
    assert outcome.used[0] == SANDBOXES[scope]


def test_package_scope_by_sandbox_fixture(project: Project) -> None:
    for package in ("one", "two"):
        project.write(f"{package}/__init__.py", "")
        project.write(
            f"{package}/conftest.py",
            """
            from pytest_arl import sandbox_fixture
            ours = sandbox_fixture(pool_ref="b", scope="package")
        """,
        )
        for module in ("x", "y"):
            project.test("def test_it(ours): assert pool(ours) == 'b'", f"{package}/test_{package}_{module}.py")
    outcome = project.run()
    outcome.passes(4)
    assert outcome.used[0] == 2


def test_package_scope_by_setting_is_refused_with_the_way_to_get_it(project: Project) -> None:
    project.test("def test_it(arl_sandbox): pass")
    outcome = project.run("--arl-scope=package")
    assert outcome.ret == 4
    assert 'sandbox_fixture(scope="package")' in outcome.errors


def test_sandbox_fixture_has_the_variables_name_or_the_one_it_is_given(project: Project) -> None:
    project.test("""
        from pytest_arl import sandbox_fixture
        trained = sandbox_fixture(pool_ref="a")
        _hidden = sandbox_fixture(pool_ref="b", name="tested")

        def test_it(trained, tested):
            assert (pool(trained), pool(tested)) == ("a", "b")
    """)
    project.run().passes(1)


def test_indirect_parameter_stands_above_what_sandbox_fixture_was_given(project: Project) -> None:
    project.test("""
        from pytest_arl import sandbox_fixture
        ours = sandbox_fixture(pool_ref="a")

        @pytest.mark.parametrize("ours", ["b", {"pool_ref": "c"}], indirect=True)
        def test_it(ours, request):
            assert pool(ours) == request.node.callspec.id
    """)
    project.run().passes(2)


def test_what_was_opened_by_a_call_is_closed_with_the_fixture(project: Project) -> None:
    project.test("""
        import pytest_arl
        opened = []

        def test_opens(arl_sandbox):
            opened.append(arl_sandbox(pool_ref="b"))
            with arl_sandbox(pool_ref="c") as third:
                assert pool(third) == "c"
            opened.extend([third, arl_sandbox])
            assert pool(opened[0]) == "b"

        def test_they_are_closed():
            for sandbox in opened:
                with pytest.raises(pytest_arl.SandboxClosed):
                    sandbox.run("true")
    """)
    outcome = project.run()
    outcome.passes(2)
    assert outcome.used[0] == 3
    assert outcome.used[2] == 0


def test_what_the_factory_opened_is_closed_with_it(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        import pytest, pytest_arl
        made = []

        @pytest.fixture
        def one(arl_sandbox_factory):
            made.append(arl_sandbox_factory())
            return made[0]

        def pytest_sessionfinish():
            with pytest.raises(pytest_arl.SandboxClosed):
                made[0].run("true")
            print("IS CLOSED")
    """,
    )
    project.test("def test_it(one): one.run('true').check()")
    outcome = project.run()
    outcome.passes(1)
    assert "IS CLOSED" in outcome.text


def test_two_calls_of_one_fixture_give_two_sandboxes(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            one, two = arl_sandbox(), arl_sandbox()
            one.write("f", "1")
            two.write("f", "2")
            assert one.read_text("f") == "1"
            assert len({arl_sandbox.name, one.name, two.name}) == 3
    """)
    project.run().passes(1)


def test_the_public_types_are_what_the_fixtures_give(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxFactory, SandboxFixture, SandboxSession

        def test_it(arl_sandbox, arl_sandbox_factory):
            assert isinstance(arl_sandbox, SandboxFixture)
            assert isinstance(arl_sandbox, SandboxSession)
            assert isinstance(arl_sandbox_factory, SandboxFactory)
    """)
    project.run().passes(1)
