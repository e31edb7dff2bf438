"""Shared sandboxes: what a fixture prepared stays, what a test left does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

WIDER = pytest.mark.parametrize("scope", ["class", "module", "session"])


@WIDER
def test_a_test_finds_nothing_of_the_one_before(project: Project, scope: str) -> None:
    project.test("""
        class TestIt:
            def test_leaves(self, arl_sandbox):
                arl_sandbox.write("left", "x")
                arl_sandbox.write("/tmp/left", "x")
                arl_sandbox.start("sleep", "1000")

            def test_finds(self, arl_sandbox):
                assert arl_sandbox.run("ls", "-A", "/workspace", "/tmp").check().stdout.count("left") == 0
                processes = arl_sandbox.run("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout
                assert "sleep" not in processes
    """)
    outcome = project.run(f"--arl-scope={scope}")
    outcome.passes(2)
    assert outcome.used[0] == 1


def test_the_handle_stays_over_a_reset_and_is_called_as_the_sandbox_that_it_has(project: Project) -> None:
    project.test("""
        seen = []

        @pytest.mark.parametrize("turn", range(3))
        def test_it(arl_sandbox, turn):
            arl_sandbox.write("left", "x")
            seen.append(arl_sandbox)
            assert seen.count(seen[0]) == turn + 1
            assert arl_sandbox.run("uname", "-n").stdout.strip() == arl_sandbox.name
    """)
    project.run("--arl-scope=module").passes(3)


def test_what_a_wider_fixture_prepared_stays(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def prepared(arl_sandbox):
            arl_sandbox.write("database", "fresh")
            return arl_sandbox

        @pytest.mark.parametrize("turn", range(2))
        def test_it(prepared, turn):
            assert prepared.read_text("database") == "fresh"
            prepared.write("database", "spoiled")
    """)
    project.run("--arl-scope=module").passes(2)


def test_what_a_wider_fixture_prepared_by_a_command_stays(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def prepared(arl_sandbox):
            arl_sandbox.run("sh", "-c", "echo fresh > database").check()
            return arl_sandbox

        @pytest.mark.parametrize("turn", range(2))
        def test_it(prepared, turn):
            assert prepared.run("cat", "database").stdout == "fresh\\n"
            prepared.run("sh", "-c", "echo spoiled > database").check()
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_wider_fixture_that_is_set_up_late_makes_a_checkpoint_too(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def late(arl_sandbox):
            arl_sandbox.write("late", "yes")
            return arl_sandbox

        def test_1_without(arl_sandbox):
            arl_sandbox.write("left", "x")

        def test_2_sets_it_up(late):
            assert late.run("ls").stdout == "late\\n"
            late.write("late", "spoiled")

        def test_3_finds_it(arl_sandbox):
            assert arl_sandbox.read_text("late") == "yes"
    """)
    project.run("--arl-scope=module").passes(3)


def test_a_wider_fixture_that_asks_for_the_sandbox_as_it_runs_makes_a_checkpoint_too(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def dynamic(request):
            request.getfixturevalue("arl_sandbox").write("dynamic", "yes")

        @pytest.mark.parametrize("turn", range(2))
        def test_it(dynamic, arl_sandbox, turn):
            assert arl_sandbox.read_text("dynamic") == "yes"
            arl_sandbox.write("dynamic", "spoiled")
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_wider_fixture_that_did_not_use_the_sandbox_keeps_nothing_of_the_test(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def unrelated():
            return 1

        def test_1_uses_then_sets_it_up(arl_sandbox, request):
            arl_sandbox.write("left", "x")
            request.getfixturevalue("unrelated")

        def test_2(arl_sandbox):
            assert arl_sandbox.run("ls").stdout == ""
    """)
    project.run("--arl-scope=module").passes(2)


def test_what_a_function_fixture_did_goes(project: Project) -> None:
    project.test("""
        @pytest.fixture
        def prepared(arl_sandbox):
            assert arl_sandbox.run("ls").stdout == ""
            arl_sandbox.write("mine", "x")

        @pytest.mark.parametrize("turn", range(2))
        def test_it(prepared, turn): pass
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_checkpoint_by_hand_is_what_later_tests_find(project: Project) -> None:
    project.test("""
        def test_1(arl_sandbox):
            arl_sandbox.write("kept", "yes")
            arl_sandbox.checkpoint()
            arl_sandbox.write("left", "x")

        def test_2(arl_sandbox):
            assert arl_sandbox.run("ls").stdout == "kept\\n"
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_reset_by_hand_returns_within_a_test(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.write("left", "x")
            arl_sandbox.reset()
            assert arl_sandbox.run("ls").stdout == ""
    """)
    project.run().passes(1)


def test_a_process_of_the_checkpoint_lives_on_and_a_tests_own_does_not(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def server(arl_sandbox):
            return arl_sandbox.start("sleep", "1001")

        @pytest.mark.parametrize("turn", range(2))
        def test_it(server, arl_sandbox, turn):
            assert server.poll() is None
            processes = arl_sandbox.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '").stdout
            assert "sleep 1001" in processes
            assert "sleep 1002" not in processes
            arl_sandbox.start("sleep", "1002")
    """)
    project.run("--arl-scope=module").passes(2)


@pytest.mark.parametrize("how", ["marker", "sandbox_fixture"])
def test_keep_workspace_turns_it_off(project: Project, how: str) -> None:
    if how == "marker":
        project.test(
            "pytestmark = pytest.mark.arl(keep_workspace=True)\nkept = pytest.fixture(lambda arl_sandbox: arl_sandbox)\n"
        )
    else:
        project.test(
            "from pytest_arl import sandbox_fixture\nkept = sandbox_fixture(scope='module', keep_workspace=True)\n"
        )
    path = project.path / "test_it.py"
    path.write_text(
        path.read_text()
        + "def test_1(kept): kept.write('f', 'x')\ndef test_2(kept): assert kept.read_text('f') == 'x'\n"
    )
    project.run("--arl-scope=module").passes(2)


def test_sandbox_fixture_returns_to_its_checkpoint(project: Project) -> None:
    project.test("""
        from pytest_arl import sandbox_fixture
        ours = sandbox_fixture(scope="module")

        @pytest.fixture(scope="module")
        def prepared(ours):
            ours.write("kept", "yes")
            return ours

        @pytest.mark.parametrize("turn", range(2))
        def test_it(prepared, turn):
            assert prepared.run("ls").stdout == "kept\\n"
            prepared.write("left", "x")
    """)
    project.run().passes(2)


def test_what_a_shared_sandbox_opened_by_a_call_returns_too(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def second(arl_sandbox):
            return arl_sandbox(pool_ref="b")

        @pytest.mark.parametrize("turn", range(2))
        def test_it(second, turn):
            assert second.run("ls").stdout == ""
            second.write("left", "x")
    """)
    project.run("--arl-scope=module").passes(2)


OPENERS = {
    "factory": "return arl_sandbox_factory({})",
    "by hand": """
            from pytest_arl import SandboxSession
            session = SandboxSession({})
            session.create_sandbox()
            return session
    """,
}
"""Ways for a fixture to open a sandbox that stays open."""


@pytest.mark.parametrize("opener", OPENERS)
def test_a_sandbox_of_a_wider_fixture_is_set_back_whoever_opened_it(project: Project, opener: str) -> None:
    project.test(f"""
        @pytest.fixture(scope="module")
        def made(arl_sandbox_factory):
            {OPENERS[opener].format("")}

        def test_1(made): made.write("f", "x")
        def test_2(made): assert made.run("ls").stdout == ""
    """)
    outcome = project.run()
    outcome.passes(2)
    assert outcome.last_line.startswith("arl: 1 sandbox,")


@pytest.mark.parametrize("opener", OPENERS)
def test_it_keeps_its_files_where_that_is_asked(project: Project, opener: str) -> None:
    project.test(f"""
        @pytest.fixture(scope="module")
        def made(arl_sandbox_factory):
            {OPENERS[opener].format("keep_workspace=True")}

        def test_1(made): made.write("f", "x")
        def test_2(made): assert made.read_text("f") == "x"
    """)
    project.run().passes(2)


def test_one_that_a_test_left_open_is_set_back_and_one_that_it_deleted_is_not_made_anew(project: Project) -> None:
    project.test("""
        kept = []
        def test_1(arl_sandbox_factory):
            kept.append(arl_sandbox_factory())
            kept.append(arl_sandbox_factory())
            for each in kept: each.write("f", "x")
            kept[1].delete_sandbox()

        def test_2():
            assert kept[0].run("ls").stdout == ""
            assert not kept[1].is_open
    """)
    project.run().passes(2)


@pytest.mark.parametrize("server", [False, True], ids=["fresh", "in place"])
def test_the_next_parameter_finds_nothing_of_the_one_before(project: Project, server: bool) -> None:
    start = 'box.write("common", "x")' + ('; box.start("sleep", "1000")' if server else "")
    project.write(
        "conftest.py",
        f"""
        import pytest
        @pytest.fixture(scope="session")
        def box(arl_sandbox_factory):
            box = arl_sandbox_factory()
            {start}
            return box
        """,
    )
    project.test(f"""
        @pytest.fixture(scope="module", params=["ada", "bob"])
        def student(request, box):
            assert box.run("ls").stdout == "common\\n"
            box.write(request.param, "secret")
            if {server}: box.start("sleep", "1001" if request.param == "ada" else "1002")
            return request.param

        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(box, student, turn):
            assert set(box.run("ls").stdout.split()) == {{"common", student}}
            if {server}:
                shown = box.run("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout
                assert "1000" in shown and ("1001" in shown) == (student == "ada") and ("1002" in shown) == (student == "bob")
            box.write("left", "x")
    """)
    project.test("def test_common(box): assert box.run('ls').stdout == 'common\\n'\n", name="test_later.py")
    project.run().passes(5)


def test_it_finds_nothing_of_it_where_the_sandbox_was_lost_meanwhile(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module", params=["ada", "bob"])
        def student(request, arl_sandbox):
            arl_sandbox.write(request.param, "secret")
            return request.param

        def test_it(student, arl_sandbox):
            assert arl_sandbox.run("ls").stdout == student + "\\n"
            arl_sandbox._held().sandbox.kill()
    """)
    project.run("--arl-scope=module").passes(2)


def test_what_another_fixture_prepared_since_is_prepared_anew(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module", params=["ada", "bob"])
        def student(request, arl_sandbox):
            arl_sandbox.write(request.param, "secret")
            return request.param

        @pytest.fixture(scope="module")
        def data(arl_sandbox):
            arl_sandbox.write("data", "x")

        def test_it(student, data, arl_sandbox):
            assert arl_sandbox.run("ls").stdout.split() == sorted([student, "data"])
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_test_that_has_got_it_before_is_told_how_to_order_them(project: Project) -> None:
    project.test("""
        @pytest.fixture(scope="module")
        def student(request, arl_sandbox): arl_sandbox.write(request.param, "secret")

        @pytest.fixture(scope="module")
        def data(arl_sandbox): arl_sandbox.write("data", "x")

        @pytest.mark.parametrize("student", ["ada"], indirect=True)
        def test_1(student, data): pass

        @pytest.mark.parametrize("student", ["bob"], indirect=True)
        def test_2(data, student): pass
    """)
    outcome = project.run("--arl-scope=module")
    outcome.counts(passed=1, errors=1)
    assert "let 'data' request 'student', or list 'student' first" in outcome.text


def test_a_test_that_loses_the_sandbox_does_not_take_the_next_one_with_it(project: Project) -> None:
    project.test("""
        import pytest_arl

        def test_1(arl_sandbox):
            arl_sandbox.delete_sandbox()
            with pytest.raises(pytest_arl.SandboxClosed):
                arl_sandbox.run("true")

        def test_2(arl_sandbox):
            arl_sandbox.run("true").check()
    """)
    project.run("--arl-scope=module").passes(2)


def test_a_failing_test_leaves_nothing_either(project: Project) -> None:
    project.test("""
        def test_1(arl_sandbox):
            arl_sandbox.write("left", "x")
            assert False

        def test_2(arl_sandbox):
            assert arl_sandbox.run("ls").stdout == ""
    """)
    project.run("--arl-scope=module").counts(failed=1, passed=1)


def test_a_test_whose_teardown_fails_leaves_nothing_either(project: Project) -> None:
    project.test("""
        @pytest.fixture
        def broken(arl_sandbox):
            yield
            raise ValueError

        def test_1(broken, arl_sandbox): arl_sandbox.write("left", "x")
        def test_2(arl_sandbox): assert arl_sandbox.run("ls").stdout == ""
    """)
    project.run("--arl-scope=module").counts(passed=2, errors=1)


@pytest.mark.parametrize(("end", "errors"), [("pass", {}), ("raise ValueError", {"errors": 1})])
def test_it_is_set_back_at_the_end_of_a_teardown_that_fails_too(
    project: Project, end: str, errors: dict[str, int]
) -> None:
    """Not only when the next test begins: until then, what the test has left would live on."""
    project.write(
        "conftest.py",
        """
        boxes, seen = [], []
        def pytest_runtest_logfinish():
            seen.extend(box.run("ls").stdout for box in boxes)
        """,
    )
    project.test(f"""
        import conftest

        @pytest.fixture
        def ends():
            yield
            {end}

        def test_1(ends, arl_sandbox):
            arl_sandbox.write("left", "x")
            conftest.boxes.append(arl_sandbox)

        def test_2(): assert conftest.seen == [""]
    """)
    project.run("--arl-scope=module").counts(passed=2, **errors)


def test_a_wider_fixture_whose_teardown_fails_leaves_nothing_either(project: Project) -> None:
    """Nor does what its teardown did before it failed. The second parameter's test is the one that pytest takes for it."""
    project.test("""
        @pytest.fixture(scope="module", params=["ada", "bob", "cid"])
        def student(request, arl_sandbox):
            arl_sandbox.write(request.param, "secret")
            yield request.param
            arl_sandbox.write("torn-" + request.param, "x")
            raise ValueError

        def test_it(student, arl_sandbox):
            assert arl_sandbox.run("ls").stdout == student + "\\n"
    """)
    project.test("def test_common(arl_sandbox): assert arl_sandbox.run('ls').stdout == ''\n", name="test_later.py")
    project.run("--arl-scope=session").counts(passed=3, errors=2)


def test_what_a_wider_fixtures_process_does_when_it_is_told_to_goes(project: Project) -> None:
    project.test("""
        import time

        @pytest.fixture(scope="module")
        def server(arl_sandbox):
            return arl_sandbox.start("sh", "-c", "while read -r line; do touch $line; echo done; done; touch over")

        def files(sandbox):
            return sandbox.run("ls").check().stdout.split()

        def test_1(server):
            server.write("left\\n", timeout=60)
            while "done" not in server.stdout:
                time.sleep(0.01)

        def test_2(server, arl_sandbox):
            assert files(arl_sandbox) == []
            assert server.poll() is None

        def test_3(server):
            server.close_stdin()
            server.wait(60).check()

        def test_4(arl_sandbox):
            assert files(arl_sandbox) == []
    """)
    project.run("--arl-scope=module").passes(4)
