"""However much a sandbox prints, a report takes a time that grows with it, and not with its square."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from pytest_arl.cli.text import table
from pytest_arl.plugin.record import TestRecord
from pytest_arl.plugin.sinks.failure_sections import sections
from pytest_arl.text import untrusted as plugin_text
from pytest_arl.text.untrusted import bounded, command_line, neutralise, one_line, printable, tail

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Project

HOSTILE = {
    "empty lines": "\n",
    "blanks": " ",
    "blank lines": " \n",
    "carriage returns": "\r",
    "controls": "\0",
    "controls between": "a\0",
    "half a colour": "\x1b[0",
    "colours": "\x1b[31m",
    "colours without end": "\x1b[" + "0;" * 20,
    "commands": "::error::\n",
    "half a command": "  ::",
    "older commands": "##[",
    "sections": "section_",
    "surrogates": "\udc80",
    "letters of two bytes": "ü",
}
"""Pieces of texts, to be repeated."""


def _seconds(function: Callable[[str], object], text: str) -> float:
    def once() -> float:
        begin = time.thread_time()  # of the processor: others on this machine do not count
        function(text)
        return time.thread_time() - begin

    return min(once() for _ in range(3))


def _shown(text: str) -> object:
    step = {"name": text, "type": "Command", "command": [text], "workDir": text, "outcome": "Failed", "number": 1}
    step |= {"signal": None, "limit": None, "exitCode": 1, "duration": 0.1, "phase": "call", "sandbox": text}
    step |= {"pool": text, "task": "t", "stdout": text, "stderr": text, "stdoutSize": len(text), "stderrSize": 1}
    return sections(TestRecord(1), [step], "call", blamed=None, everything=True)


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "neutralise": neutralise,
    "with colours": lambda text: neutralise(text, keep_colours=True),
    "one line": one_line,
    "tail": lambda text: tail(text, 10),
    "everything": lambda text: tail(text, 10**9),
    "bounded": lambda text: bounded(text.encode("utf-8", "surrogateescape"), 65536),
    "printable": printable,
    "command line": lambda text: command_line([text, text]),
    "table": lambda text: table([["a"], [text]]),
    "a failure's sections": _shown,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_time_for_a_text_grows_as_the_text_does(function: str, kind: str) -> None:
    length = 5000
    measured = []
    for _ in range(3):  # on a busy machine one of them may be somebody else's time
        short = _seconds(FUNCTIONS[function], HOSTILE[kind] * length)
        long = _seconds(FUNCTIONS[function], HOSTILE[kind] * (4 * length))
        # Four times where it is linear; sixteen where it is not.
        if long < 8 * short + 0.05:
            return
        measured.append(f"{short:.4f} s, {long:.4f} s")
    pytest.fail("; ".join(measured))


@pytest.mark.parametrize("function", [one_line, lambda text: tail(text, 3)])
@pytest.mark.parametrize("text", ["x" * 100_000, "\0" * 100_000, "a\n" * 100_000])
def test_a_text_is_cut_before_it_is_cleaned(
    function: Callable[[str], object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[int] = []

    def counted(text: str) -> str:
        cleaned.append(len(text))
        return text

    monkeypatch.setattr(plugin_text, "printable", counted)
    function(text)
    assert 1 <= len(cleaned) <= 3
    assert max(cleaned) <= 200


def test_a_report_of_very_many_empty_lines_is_no_matter(project: Project) -> None:
    # 200,000 of them once took half an hour; this run ends after two minutes.
    project.test("""
        def test_it(arl_sandbox):
            print(arl_sandbox.run("sh", "-c", "head -c 200000 /dev/zero | tr '\\\\0' '\\\\n'; exit 1").stdout)
            assert False
    """)
    project.run().counts(failed=1)


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
