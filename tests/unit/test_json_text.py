"""JSON of which somebody else has made one object as they may."""

from __future__ import annotations

import contextlib
import json
import math

import pytest

from pytest_arl.cluster.json_text import parse


def nested(depth: int, inner: bytes = b"1", *, arrays: bool = False) -> bytes:
    return (b"[" if arrays else b'{"a":') * depth + inner + (b"]" if arrays else b"}") * depth


def levels(found: object) -> tuple[int, object]:
    """How deep it nests, and what is innermost."""
    depth = 0
    while isinstance(found, (dict, list)):
        found, depth = found["a"] if isinstance(found, dict) else found[0], depth + 1
    return depth, found


@pytest.mark.parametrize("arrays", [False, True], ids=["objects", "arrays"])
@pytest.mark.parametrize(
    "inner", [b"1", b"100000000000000000000", b"1e20", b'"\\"]}[{"', b'"' + rb"\\" * 5 + b'"', b"1" * 5_000]
)
@pytest.mark.parametrize("depth", [1, 90, 900, 2_000, 9_990])
def test_what_an_api_server_takes_is_read_and_what_is_beside_it(depth: int, inner: bytes, arrays: bool) -> None:
    deep = nested(depth, inner, arrays=arrays)
    found = parse(b'[{"deep": ' + deep + b', "after": "x"}, {"plain": [1, 2.5, null, true, "\\u00e9", [], {}]}]')
    assert found[1] == {"plain": [1, 2.5, None, True, "\u00e9", [], {}]}
    assert found[0]["after"] == "x"
    reached, innermost = levels(found[0]["deep"])
    whole = depth, json.loads(inner, parse_int=float)
    if depth < 98:
        assert (reached, innermost) == whole
    elif depth > 9_000:
        assert (reached, innermost) == (98, None)
    else:  # `json` may read it, which differs by version of Python
        assert (reached, innermost) in (whole, (98, None))


def test_nothing_of_what_is_too_deep_is_taken_for_something_else() -> None:
    deep = nested(3_000, b'["]", "}}", {"b": 1}, "[["]')
    assert parse(b'{"x": ' + deep + b', "y": ' + deep + b', "z": 3}')["z"] == 3


@pytest.mark.parametrize("text", [b"", b"{", b"no", b'{"a": 1} {}', nested(5_000)[:-1], b"[" * 5_000 + b"\xff"])
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize("deep", [b"1", nested(5_000)], ids=["shallow", "deep"])
def test_numbers_are_what_they_are(deep: bytes) -> None:
    numbers = [0, -1, 2**53, 2**62, 2**63, 10**20, -(10**30), 1.0, 1e300, -0.5]
    found = parse(b'{"numbers": ' + json.dumps(numbers).encode() + b', "deep": ' + deep + b"}")
    assert found["numbers"] == numbers
    assert [type(each) for each in found["numbers"]] == [type(each) for each in numbers]


@pytest.mark.parametrize("deep", [b"1", nested(5_000)], ids=["shallow", "deep"])
def test_what_no_type_of_the_server_has_checked_is_read(deep: bytes) -> None:
    found = parse(b'{"f:a\xff\xfeb": "\x01", "n": ' + b"9" * 5_000 + b', "deep": ' + deep + b', "last": 1}')
    assert found["f:a\ufffd\ufffdb"] == "\x01"
    assert found["n"] == math.inf
    assert found["last"] == 1


@pytest.mark.parametrize("unit", [b'\\"', b'"', b'"\\', b"\\\\", b"[", b'["', b"]"])
def test_no_text_takes_more_than_linear_time(unit: bytes) -> None:
    """One that is quadratic takes hours here."""
    with contextlib.suppress(ValueError):
        parse(nested(3_000, unit * 400_000))


def test_an_integer_of_400_digits_is_read_and_a_longer_one_is_infinite() -> None:
    assert parse(b"9" * 400) == 10**400 - 1
    assert parse(b"9" * 401) == math.inf
