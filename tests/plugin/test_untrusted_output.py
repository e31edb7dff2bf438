"""What a sandbox prints acts neither on the terminal nor on a CI runner."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_arl.text.untrusted import neutralise, one_line, tail

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

EVIL = r"\033]0;owned\007\033[2J\n::error::owned\n  ::add-path::/evil\n##[command]x\n##vso[task.setvariable]y\n\u202e"


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m",
        "\x1b]52;c;aGk=\x07",
        "a\rb",
        "\x9b2J",
        "\x08\x08",
        "::error::x",
        "  ::set-env name=x::y",
        "line\n::stop-commands::t",
        "x ##vso[task.complete]",
        "##[error]x",
        "##teamcity[testFailed]",
        "section_start:1:name\r\x1b[0K",
        "\u202eabc",
        "\ud800",
    ],
)
def test_neutralised_text_holds_nothing_that_acts(text: str) -> None:
    safe = neutralise(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", safe)
    assert not re.search(r"^\s*::[a-z]", safe, re.MULTILINE)
    assert not re.search(r"##(vso|teamcity)?\[", safe)
    assert not re.search(r"(?<!\\)section_start:", safe)
    safe.encode()


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines\n", "tab\there", "grüße 漢字", "std::vector<int>", "a: b", "# [x]", "C::D\n"]
)
def test_harmless_text_is_left_as_it_is(text: str) -> None:
    assert neutralise(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\x1b[2J", "\x1b[31mred\x1b[0m\\x1b[2J"),
        ("\x1b[1;4;96mloud\x1b[39;49;00m", "\x1b[1;4;96mloud\x1b[39;49;00m"),
        ("\x1b[31mnever ends\n", "\x1b[31mnever ends\x1b[0m\n"),
        ("\x1b[31mnever ends", "\x1b[31mnever ends\x1b[0m"),
        ("\x1b[31msection_start:1:x\x1b[0m", "\x1b[31m\\section_start:1:x\x1b[0m"),
        ("\x1b[31m \x1b[1m::error::x\x1b[0m", "\x1b[31m \x1b[1m\\::error::x\x1b[0m"),
        ("my_section_start:1", "my_section_start:1"),
    ],
)
def test_colours_may_stay_up_to_the_end_of_the_text(text: str, shown: str) -> None:
    assert neutralise(text, keep_colours=True) == shown


@pytest.mark.parametrize("codes", ["8", "1;8", "08", "30", "40", "30;40", "38;5;0", "38;2;0;0;0", "107", "2", "7", "5"])
def test_attributes_that_hide_a_text_are_spelled_out(codes: str) -> None:
    assert neutralise(f"\x1b[{codes}mhidden", keep_colours=True) == f"\\x1b[{codes}mhidden"


def test_a_cut_leaves_no_workflow_command() -> None:
    for width in range(10, 60):
        assert not re.search(r"##\[", one_line("x" * 40 + "##[error]" + "y" * 40, width)), width
    for before in range(300):
        (line,), _ = tail("x" * before + "##[error]owned" + "y" * 300, 1)
        assert not re.search(r"##\[", line), before


@pytest.mark.parametrize("command", ["##[add-mask]x", "##vso[task.complete]", "##teamcity[testFailed]"])
def test_a_runner_that_searches_a_whole_line_finds_no_command(command: str) -> None:
    prefix = command[: command.index("[") + 1]
    for text in (command, f"x {command}", f"\\{command}", f"#{command}"):
        assert prefix not in one_line(text)
        assert one_line(one_line(text)) == one_line(text)


def unarmed(text: str) -> None:
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert not re.search(r"^\s*::(error|add-path)", text, re.MULTILINE), text
    assert not re.search(r"##(vso)?\[", text), text


@pytest.mark.parametrize("args", [[], ["-n1"], ["--tb=native"], ["--tb=line"], ["--tb=short", "-vv"]], ids=" ".join)
@pytest.mark.parametrize(
    "body",
    [
        "arl_sandbox.run('printf', EVIL).check(); assert False",
        "print(arl_sandbox.run('printf', EVIL).stdout); assert False",
        "assert arl_sandbox.run('printf', EVIL).stdout == 'good'",
        "raise ValueError(arl_sandbox.run('printf', EVIL).stdout)",
        "arl_sandbox.run('sh', '-c', 'printf \"$0\" >&2; exit 1', EVIL).check()",
        "arl_sandbox.execute([{'name': NAME, 'type': 'Command', 'command': ['false']}]).check()",
    ],
    ids=["step", "print", "assert", "raise", "check", "name"],
)
def test_a_failing_test(project: Project, body: str, args: list[str]) -> None:
    name = EVIL.encode("ascii").decode("unicode_escape")
    project.test(f"EVIL = {EVIL!r}\nNAME = {name!r}\ndef test_it(arl_sandbox):\n    {body}\n")
    outcome = project.run("--color=no", "-rf", "--junitxml=j.xml", *args)
    outcome.counts(failed=1)
    shown = re.sub(r"(EVIL|NAME) = .*", "", outcome.text)
    unarmed(shown)
    if "--tb=line" not in args:
        assert "owned" in shown
    (failure,) = ET.parse(project.path / "j.xml").iter("failure")
    assert "\x1b]" not in failure.attrib["message"]


def test_what_a_passing_test_printed(project: Project) -> None:
    project.test(f"EVIL = {EVIL!r}\ndef test_it(arl_sandbox): print(arl_sandbox.run('printf', EVIL).stdout)\n")
    text = project.run("--color=no", "-rP").text
    unarmed(text)
    assert "owned" in text


@pytest.mark.parametrize("how", ["skip", "xfail"])
def test_a_reason(project: Project, how: str) -> None:
    project.test(f"EVIL = {EVIL!r}\ndef test_it(arl_sandbox): pytest.{how}(arl_sandbox.run('printf', EVIL).stdout)\n")
    text = project.run("--color=no", "-rsx", "-vv").text
    unarmed(text)
    assert "owned" in text


def test_live_progress(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.run("printf", "\\x1b]0;owned\\x07\\n::error::owned\\n")
    """)
    unarmed(project.run("--color=no", "--log-cli-level=DEBUG").text)


def test_the_names_of_durations(project: Project) -> None:
    project.test("""
        def test_it(arl_sandbox):
            arl_sandbox.execute([{"name": "\\x1b]0;owned\\x07", "type": "Command", "command": ["true"]}])
    """)
    unarmed(project.run("--arl-durations=0").text)


SINKS = {
    "warning": "import warnings; warnings.warn(out)",
    "warning_of_its_own": "import warnings; warnings.warn(Warned(out))",
    "thread": "import threading; thread = threading.Thread(target=boom, args=(out,)); thread.start(); thread.join()",
    "log": "import logging; logging.getLogger('mine').error(out)",
    "log_arguments": "import logging; logging.getLogger('mine').error('it said %s', out)",
    "skip": "pytest.skip(out)",
    "xfail": "pytest.xfail(out)",
    "subtest": "with subtests.test(msg=out): assert False",
    "subtest_parameter": "with subtests.test(value=out): assert False",
    "unittest": "import unittest; raise unittest.SkipTest(out)",
    "fail": "pytest.fail(out, pytrace=False)",
    "group": "raise ExceptionGroup('several', [ValueError(out), ValueError(out)])",
    "cause": "raise ValueError(out) from KeyError(out)",
    "note": "error = ValueError('x'); error.add_note(out); raise error",
}
"""Where a test may put what a sandbox printed: each a test's body."""

_QUOTING = r"""
        class Warned(UserWarning):
            def __init__(self, *texts, more=1):
                super().__init__(texts, more)
                self.texts = texts
            def __str__(self): return self.texts[0]
        def boom(text): raise ValueError(text)
        @pytest.fixture(scope="module")
        def out():
            from pytest_arl import SandboxSession
            with SandboxSession() as session:
                evil = r"EVIL\nFORGED line\033[8m\n"
                return session.run("sh", "-c", "printf \"$(cat)\"", stdin=evil).stdout
""".replace("EVIL", EVIL)


@pytest.mark.parametrize("args", [[], ["-n1"]], ids=["alone", "n1"])
def test_quoted_output_acts_in_no_report(project: Project, args: list[str]) -> None:
    bodies = "".join(f"\n        def test_{name}(out, subtests): {body}" for name, body in SINKS.items())
    project.test(_QUOTING + bodies.replace(": with ", ":\n            with "))
    live = ["-p", "logging", "--log-cli-level=DEBUG"]
    text = project.run("--color=no", "-rsxfE", "-vv", "--tb=short", *live, *args).text

    unarmed(text)
    assert "\x1b[8m" not in text
    live_log = [] if args else ["ERROR "]  # a worker shows none
    for sink in ("SUBFAILED", "SKIPPED", "XFAIL", "UserWarning: ", "Warned: ", "ThreadExceptionWarning", *live_log):
        assert sink in text, "control: each has said something"
    assert text.count("owned") >= len(SINKS) - 2
    # Lines at the margin are those below a title: of the failure, and of the output that was captured.
    outside = re.sub(r"(?ms)^=+ FAILURES =+$.*?^=+ (?=warnings|short)", "", text)
    assert not re.search(r"^FORGED", outside, re.MULTILINE), outside


def test_the_reason_of_an_exit(project: Project) -> None:
    project.test(_QUOTING + "\n        def test_it(out): pytest.exit(out)\n")
    text = project.run("--color=no").text
    unarmed(text)
    assert "owned" in text
    assert not re.search(r"^FORGED", text, re.MULTILINE), text


def test_what_a_hook_raises(project: Project) -> None:
    project.write(
        "conftest.py",
        """
        kept = []
        def pytest_runtest_logfinish():
            if kept: raise ValueError(kept[0])
        """,
    )
    project.test(_QUOTING + "\n        def test_it(out):\n            import conftest; conftest.kept.append(out)\n")
    result = project.run("--color=no")
    assert "INTERNALERROR" in result.text + result.errors, "control"
    unarmed(result.text + result.errors)


def test_what_an_earlier_tests_sandbox_printed(project: Project) -> None:
    project.test(f"""
        KEPT = []
        def test_first(arl_sandbox): KEPT.append(arl_sandbox.run('printf', {EVIL!r}).stdout)
        def test_second(): raise ValueError(KEPT[0])
        """)
    text = project.run("--color=no").text
    unarmed(text)
    assert "owned" in text


def test_what_was_printed_while_tests_were_collected(project: Project) -> None:
    project.test(f"""
        from pytest_arl import SandboxSession
        with SandboxSession() as session:
            raise ValueError(session.run('printf', {EVIL!r}).stdout)
        """)
    text = project.run("--color=no").text
    unarmed(text)
    assert "owned" in text


def test_a_run_without_a_sandbox_is_left_as_it_is(project: Project) -> None:
    project.test("def test_it(): print('\\x1b[8mown'); assert False")
    assert "\x1b[8mown" in project.run().text


_ACTS = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]|\x1b[^\[]|\x1b\[[0-9;]*[^0-9;m]|^::error|##\[", re.MULTILINE)


@pytest.mark.parametrize("what", ["mount", "root folder"])
def test_names_of_files_that_keep_a_sandbox_from_being_made_are_harmless(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("CI", "true")  # then pytest's summary has all of a message
    for name in ("usr", "bin"):
        (project.path / "given" / name).mkdir(parents=True)
    name = "x\n::error::owned\n##[error]owned\x1b]0;owned\x07"
    os.mkfifo(project.path / "given" / name)
    text = 'mounts = ["given:/given"]' if what == "mount" else 'root = "given"'
    project.write("pools.toml", f"[pools.bad]\n{text}\n")
    project.test("def test_it(arl_sandbox_factory): arl_sandbox_factory(pool_ref='bad')")

    outcome = project.run_with_everything(
        "--arl-pools-file=pools.toml", "-rA", "-p", "no:html", "-p", "no:allure_pytest"
    )

    shown = outcome.text
    assert shown.count("owned") > 3, "control: it is named"
    assert not _ACTS.search(shown), shown


def test_a_sandbox_that_was_there_while_a_conftest_was_loaded_is_heard(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.write(
        "conftest.py",
        f"""
        from pytest_arl import SandboxSession

        with SandboxSession() as session:
            TEXT = session.run("printf", r"{EVIL}").check().stdout
        """,
    )
    project.test("""
        import warnings
        from conftest import TEXT

        def test_failure(): assert False, TEXT
        def test_reason(): pytest.skip(TEXT)
        def test_capture():
            print(TEXT)
            warnings.warn(TEXT)
            assert False
    """)

    shown = project.run_with_everything("-rA", "-p", "no:html", "-p", "no:allure_pytest").text

    assert shown.count("owned") > 5, "control: it is quoted"
    assert not _ACTS.search(shown), shown
