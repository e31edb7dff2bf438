"""What the operator's log lets through to a terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_arl.operator import logs

DANGEROUS = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ud800\udcff",
]
"""C0 and C1, separators, what turns the direction of writing, and halves of characters, which no stream takes."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.TextIOWrapper]:
    """What the operator writes, as the bytes that they are."""
    root, ours = logging.getLogger(), logging.getLogger("pytest_arl")
    before = root.level, root.handlers[:], ours.level
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", stream)
    logs.setup("info")
    yield stream
    root.level, root.handlers[:], ours.level = before


def lines(written: io.TextIOWrapper) -> list[str]:
    written.flush()
    found = written.buffer.getvalue().decode()  # type: ignore[attr-defined] # a BytesIO
    return str(found).removesuffix("\n").split("\n")


@pytest.mark.parametrize("char", DANGEROUS, ids=lambda char: f"U+{ord(char):04X}")
def test_nothing_that_a_terminal_obeys_is_in_a_line(written: io.TextIOWrapper, char: str) -> None:
    said: Any = f"a{char}b"
    record = logging.makeLogRecord(
        {"msg": "an agent says %s", "args": (said,), "levelno": 20, "data": {"why": said, "more": [said]}}
    )
    # Not by a logger: pytest would have halves of characters in its report, and xdist cannot pass these on.
    (ours,) = [each for each in logging.getLogger().handlers if getattr(each, "stream", None) is written]
    ours.handle(record)
    (line,) = lines(written)
    assert char not in line
    assert not [each for each in line if unicodedata.category(each)[0] == "C"]
    assert json.loads(line)["why"] == said, "who reads the JSON has it as it was"
    assert json.loads(line)["more"] == [said]


def test_letters_of_other_languages_stay_readable(written: io.TextIOWrapper) -> None:
    logging.getLogger("pytest_arl.x").info("größe 日本 ✓ 🙂")
    (line,) = lines(written)
    assert "größe 日本 ✓ 🙂" in line


def test_a_line_has_an_end_whatever_an_agent_says(written: io.TextIOWrapper) -> None:
    logging.getLogger("pytest_arl.x").info("x" * 10**6, extra={"data": {"why": "y" * 10**6}})
    (line,) = lines(written)
    assert len(line) < 20_000
