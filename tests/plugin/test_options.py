"""Options, ini keys and variables; the header and the last line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_arl.settings import SETTINGS

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

NO_SANDBOX = "def test_it(): pass"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--arl-timeout=-3", "--arl-timeout"),
        ("--arl-timeout=soon", "--arl-timeout"),
        ("--arl-scope=planet", "--arl-scope must be 'function', 'class', 'module' or 'session', not 'planet'"),
        ("--arl-acquire-timeout=0", "--arl-acquire-timeout"),
        ("--arl-max-sandboxes=none-at-all", "--arl-max-sandboxes"),
        ("--arl-isolation-min=perfect", "--arl-isolation-min"),
        ("--arl-durations=-1", "--arl-durations"),
    ],
)
def test_bad_option_is_a_usage_error_that_names_it(project: Project, option: str, says: str) -> None:
    project.test(NO_SANDBOX)
    outcome = project.run(option)
    assert outcome.ret == 4
    assert says in outcome.errors
    assert "Traceback" not in outcome.text + outcome.errors


def test_bad_variable_is_a_usage_error_that_names_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ARL_TIMEOUT", "soon")
    outcome = project.run()
    assert outcome.ret == 4
    assert "PYTEST_ARL_TIMEOUT" in outcome.errors


def test_bad_ini_value_is_a_usage_error_that_names_it(project: Project) -> None:
    project.ini("arl_scope = planet")
    outcome = project.run()
    assert outcome.ret == 4
    assert "arl_scope in pytest.ini" in outcome.errors


def test_unknown_key_in_pyproject_is_a_usage_error_with_the_nearest(project: Project) -> None:
    project.toml("timeuot = 3")
    outcome = project.run()
    assert outcome.ret == 4
    assert "timeuot" in outcome.errors
    assert "did you mean 'timeout'" in outcome.errors


def test_unknown_option_is_pytests_own_usage_error(project: Project) -> None:
    assert project.run("--arl-nonsense=1").ret == 4


def test_a_folder_that_cannot_be_written_is_a_usage_error(project: Project) -> None:
    project.write("file", "")
    project.test(NO_SANDBOX)
    outcome = project.run("--arl-output=file/x")
    assert outcome.ret == 4
    assert "--arl-output" in outcome.errors
    assert "Traceback" not in outcome.text + outcome.errors


def test_every_option_is_in_the_help(project: Project) -> None:
    text = project.run("--help").text
    for setting in SETTINGS.values():
        assert f"{setting.flag}={setting.metavar}" in text or f"{setting.flag}=[{setting.metavar}]" in text
        assert f"{setting.ini} (string):" in text


def test_header_shows_what_is_configured_and_by_what(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ARL_TIMEOUT", "90s")
    project.ini("arl_scope = class")
    project.toml("acquire_timeout = 60")
    project.test(NO_SANDBOX)
    header = next(line for line in project.run("--arl-pool=ci").text.splitlines() if line.startswith("arl: "))
    assert header.startswith("arl: backend local (default), pool ci (--arl-pool)")
    assert "timeout 90.0 (PYTEST_ARL_TIMEOUT)" in header
    assert "scope class (arl_scope in pytest.ini)" in header
    assert f"acquire-timeout 60.0 ([tool.pytest-arl] in {project.path / 'pyproject.toml'})" in header


def test_no_header_and_no_last_line_where_nothing_is_configured_or_used(project: Project) -> None:
    project.test(NO_SANDBOX)
    outcome = project.run()
    outcome.passes(1)
    assert re.findall("^arl:.*", outcome.text, re.MULTILINE) == [f"arl: pools from {project.path / 'pyproject.toml'}"]
    (project.path / "pyproject.toml").write_text("")
    assert "arl:" not in project.run().text


def test_the_header_says_where_pools_come_from_and_what_they_give_away(project: Project) -> None:
    project.write(
        "pools.toml",
        """
        [pools]
        quiet = { mounts = ["src:/src"], memory = "1Gi" }
        writes = { mounts = ["src:/src:rw", "/data:/data", "more:/more:rw"] }
        connected = { network = "host", mounts = ["a:/a:rw"] }
        wrong = { network = "moon" }
        """,
    )
    project.test(NO_SANDBOX)
    for options in (["--arl-pools-file=pools.toml"], ["--arl-pools-file=pools.toml", "-n1"]):
        lines = [line for line in project.run(*options).text.splitlines() if line.startswith("arl: pool")]
        assert lines == [
            f"arl: pools from {project.path / 'pools.toml'}",
            "arl: pool writes: mounts src:/src:rw, more:/more:rw",
            "arl: pool connected: network host, mounts a:/a:rw",
        ]


def test_the_header_probes_nothing(project: Project) -> None:
    project.test(NO_SANDBOX)
    project.run("--arl-pool=nowhere", "--arl-backend=nothing").passes(1)


def test_the_last_line_says_what_was_used(project: Project) -> None:
    project.test("""
        def test_1(arl_sandbox):
            arl_sandbox.run("true")
            arl_sandbox.execute([{"type": "Command", "command": ["false"]}, {"type": "Command", "command": ["true"]}])

        def test_2(arl_sandbox): pass
    """)
    outcome = project.run()
    assert re.fullmatch(r"arl: 2 sandboxes, 2 steps, 0 left \(bwrap\+\w+\)", outcome.last_line), outcome.text


def test_the_last_line_names_the_bubblewrap_where_more_is_asked_for(project: Project) -> None:
    project.test("def test_1(arl_sandbox): pass")
    words = r"arl: 1 sandbox, 0 steps, 0 left \(bwrap\+\w+\), bubblewrap \d+\.\d+\.\d+( without .+)?"
    assert re.fullmatch(words, project.run("-v").last_line)
    assert re.fullmatch(words, project.run("-v", "-n1").last_line)


def test_the_last_line_adds_up_the_workers(project: Project) -> None:
    project.test("""
        @pytest.mark.parametrize("number", range(6))
        def test_it(arl_sandbox, number):
            arl_sandbox.run("true")
            arl_sandbox.run("true")
    """)
    outcome = project.run("-n2")
    outcome.passes(6)
    assert outcome.used == (6, 12, 0)


def test_sandboxes_that_nobody_closed_are_closed_and_not_left(project: Project) -> None:
    project.test("""
        from pytest_arl import SandboxSession
        kept = []

        def test_it():
            kept.append(SandboxSession())
            kept[0].create_sandbox()
    """)
    outcome = project.run()
    outcome.passes(1)
    assert outcome.used == (1, 0, 0)


def test_durations(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("sleep", "0.8")
            arl_sandbox.run("true")
    """)
    outcome = project.run("--arl-durations=2")  # acquiring may take longer
    section = outcome.section("slowest 2 arl steps")
    used = r"cpu [\d.]+ m?s +((peak|largest) [\d.]+Mi)? +"
    assert re.search(rf"(\d{{3}} ms|\d+\.\d s) +step sleep +{used}test_it.py::test_it", section)
    assert "step true" not in section
    everything = project.run("--arl-durations=0").section("slowest arl steps")
    assert re.search("step true", everything)
    assert re.search("acquire default-", everything)
    assert "step true" in project.run("--arl-durations").section("slowest 10 arl steps")


def test_the_options_are_gone_without_the_plugin(project: Project) -> None:
    project.test(NO_SANDBOX)
    project.run("-p", "no:arl").passes(1)
    assert project.run("-p", "no:arl", "--arl-pool=a").ret == 4


@pytest.mark.parametrize(
    "args",
    [["-p", "no:terminal"], ["-p", "xdist", "-n0"], ["--setup-show"], ["-q"], ["-qq"], ["-p", "no:junitxml"], ["-s"]],
    ids=" ".join,
)
def test_it_works_beside_other_plugins(project: Project, args: list[str]) -> None:
    project.test("""
        def test_passes(arl_sandbox): arl_sandbox.run("true").check()
        def test_fails(arl_sandbox): arl_sandbox.run("false").check()
    """)
    outcome = project.run(*args)
    assert outcome.ret == 1
    assert "INTERNALERROR" not in outcome.text + outcome.errors
    assert "Traceback" not in outcome.text + outcome.errors


@pytest.mark.parametrize("args", [["--co"], ["--setup-plan"], ["--fixtures"], ["--collect-only", "-n2"]], ids=" ".join)
def test_nothing_is_run_by(project: Project, args: list[str]) -> None:
    project.test("def test_it(arl_sandbox): raise SystemExit")
    outcome = project.run("--arl-pool=nowhere", "--arl-output=made", *args)
    assert outcome.ret == 0, outcome.text
    assert not re.search(r"arl: \d", outcome.text)


def test_fixtures_are_documented(project: Project) -> None:
    text = project.run("--fixtures").text
    assert "arl_sandbox_factory [session scope]" in text
    assert "A sandbox of this test, ready to use" in text


def test_a_conftest_brings_a_backend(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        class Nowhere:
            name = "nowhere"
            def acquire(self, request):
                from pytest_arl import BackendUnavailable
                raise BackendUnavailable("there is no there")
            def pools(self): return ()
            def close(self): pass

        def pytest_arl_backend(name, settings):
            return Nowhere() if name == "nowhere" else None
    """,
    )
    project.test("def test_it(arl_sandbox): pass")
    outcome = project.run("--arl-backend=nowhere")
    outcome.counts(errors=1)
    assert "BackendUnavailable: there is no there" in outcome.text
