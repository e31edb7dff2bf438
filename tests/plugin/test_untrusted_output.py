"""What a sandbox prints acts neither on the terminal nor on a CI runner."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_arl.plugin.text import bounded, neutralise, tail

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
    assert not re.search(r"(?<!\\)##(vso|teamcity)?\[", safe)
    assert not re.search(r"(?<!\\)section_start:", safe)
    safe.encode()


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines\n", "tab\there", "grüße 漢字", "std::vector<int>", "a: b", "# [x]", "C::D\n"]
)
def test_harmless_text_is_left_as_it_is(text: str) -> None:
    assert neutralise(text) == text


def test_colours_may_stay() -> None:
    assert neutralise("\x1b[31mred\x1b[0m\x1b[2J", keep_colours=True) == "\x1b[31mred\x1b[0m\\x1b[2J"


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\0" * 5000, b"x" * 5000, "ü".encode() * 3000, b"\xff" * 5000, b'"\\' * 3000]
)
def test_bounded_text_fits(data: bytes) -> None:
    assert len(json.dumps(bounded(data, 1000))) <= 1000


def test_bounded_text_that_fits_is_whole() -> None:
    assert bounded(b"whole", 1000) == "whole"


def test_tail_counts_and_cuts() -> None:
    lines, count = tail("\n".join(["x" * 1000] * 5), 2)
    assert count == 5
    assert [len(line) <= 200 for line in lines] == [True, True]


def unarmed(text: str) -> None:
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert not re.search(r"^\s*::(error|add-path)", text, re.MULTILINE), text
    assert not re.search(r"(?<!\\)##(vso)?\[", text), text


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
