"""Any text at all through whatever prints it: nothing acts on a terminal or a CI runner, no line is forged."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.cli.text import table
from pytest_arl.plugin.record import MAX_STREAM, TestRecord, step_record
from pytest_arl.plugin.sinks.failure_sections import sections
from pytest_arl.results import StepResult
from pytest_arl.steps import parse_steps
from pytest_arl.text.untrusted import bounded, command_line, neutralise, one_line, tail
from tests.generated import generated

_PIECES = st.sampled_from(
    [
        "\x1b[8m",
        "\x1b[31m",
        "\x1b[0m",
        "\x1b]0;x\x07",
        "\x9b2J",
        "\r",
        "\r\n",
        "\n",
        "\x00",
        "\u202e",
        "\u2028",
        "\x85",
        "::error::x",
        "  ::add-path::x",
        "##[error]x",
        "##vso[x]y",
        "section_start:1:x",
        "\\",
        "\x1b[",
        "m",
        "x" * 60,
        " ",
    ]
)
_TEXTS = st.lists(st.one_of(_PIECES, st.text(max_size=4)), max_size=40).map("".join)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[(?:(?:0{0,2}|0?[134]|2[234]|3[1-6]|39|49|9[0-6])(?:;|(?=m)))*m")
_COMMAND = re.compile(r"^\s*::[A-Za-z]|##(?:vso|teamcity)?\[|(?<![\\\w.])section_(?:start|end):\d", re.MULTILINE)


def _harmless(text: str, *, lines: int | None = None) -> None:
    assert not _CONTROL.search(text), repr(text)
    assert not _COMMAND.search(text), repr(text)
    assert lines is None or text.count("\n") <= lines, repr(text)


@generated(300)
@given(_TEXTS, st.integers(8, 300))
def test_every_text_is_harmless(text: str, width: int) -> None:
    _harmless(neutralise(text))
    _harmless(_COLOUR.sub("", neutralise(text, keep_colours=True)).replace("\x1b", "?"))
    assert "\x1b" not in _COLOUR.sub("", neutralise(text, keep_colours=True))
    _harmless(one_line(text, width), lines=0)
    for line in tail(text, 5)[0]:
        _harmless(line, lines=0)
    _harmless(command_line([text, text], width), lines=0)
    _harmless(table([["a"], [text]]), lines=2)
    assert len(bounded(text.encode("utf-8", "surrogateescape" if text < "\ud800" else "replace"), 4096)) <= 4096


@generated(100)
@given(st.text(min_size=1, max_size=30).map(lambda name: name.replace("\0", "x")), _TEXTS, _TEXTS)
def test_every_failing_step_is_shown_harmlessly(name: str, stdout: str, stderr: str) -> None:
    (step,) = parse_steps([{"name": name.strip() or "x", "type": "Command", "command": ["sh", "-c", name]}])
    streams = {"stdout_bytes": stdout.encode("utf-8", "replace"), "stderr_bytes": stderr.encode("utf-8", "replace")}
    result = StepResult(name=step.name, type="Command", outcome="Failed", exit_code=1, **streams)  # type: ignore[arg-type] # as annotated
    where = {"sandbox": name, "pool": "p", "task": "t", "phase": "call"}
    record = step_record(step, result, **where) | {"number": 1, "endedAt": 1.0, "memoryLimit": None}
    made = sections(TestRecord(1), [record], "call", blamed=None, everything=False)

    for title, content in made:
        _harmless(title, lines=0)
        _harmless(content, lines=40)
    assert len(record["stdout"]) <= MAX_STREAM
