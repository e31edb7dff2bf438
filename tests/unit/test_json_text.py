"""JSON that somebody else has made as deep as they may."""

from __future__ import annotations

import json

import pytest

from pytest_arl.json_text import parse


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("depth", [1, 900, 2_000, 9_990])
def test_what_an_api_server_takes_is_read_and_what_is_beside_it(depth: int) -> None:
    found = parse(b'[{"deep": ' + nested(depth) + b'}, {"plain": [1, 2.5, null, true, "\\u00e9"]}]')
    assert found[1] == {"plain": [1, 2.5, None, True, "\u00e9"]}
    inner, levels = found[0]["deep"], 0
    while isinstance(inner, dict):
        inner, levels = inner["a"], levels + 1
    assert (inner, levels) == (1, depth)


def test_deeper_than_that_is_an_error() -> None:
    parse(nested(12_000))
    with pytest.raises(ValueError, match="deeper"):
        parse(nested(12_001))


@pytest.mark.parametrize("text", [b"", b"{", b"no", b'{"a": 1} {}', nested(5_000)[:-1], b"[" * 5_000 + b"\xff"])
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_numbers_are_what_they_are_in_shallow_text() -> None:
    numbers = [0, -1, 2**53, 2**62, 1.0, 1e300, -0.5]
    found = parse(b'{"numbers": ' + json.dumps(numbers).encode() + b', "deep": ' + nested(5_000) + b"}")
    assert found["numbers"] == numbers
    assert [type(each) for each in found["numbers"]] == [type(each) for each in numbers]
