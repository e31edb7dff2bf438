"""The reader of a peer's values: what is not exactly right is refused at once, whatever it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from pytest_arl.agent import exact

READERS: dict[str, tuple[Callable[[Any], object], list[object], list[object]]] = {
    "text": (
        lambda value: exact.text({"k": value}, "k", 4),
        ["", "abcd", "äöü"],
        ["abcde", b"abc", 3, None, ["a"], True, "\udcff", {"k": "v"}],
    ),
    "word": (
        lambda value: exact.word({"k": value}, "k", ("wait", "kill")),
        ["wait", "kill"],
        ["", "wai", "Wait", b"wait", 0, None, ["wait"], {"wait": 1}],
    ),
    "data": (
        lambda value: exact.data({"k": value}, "k", 4),
        [b"", b"abcd"],
        [b"abcde", 2**40, 3, True, "abc", None, [1, 2], bytearray(b"a")],
    ),
    "integer": (
        lambda value: exact.integer({"k": value}, "k", 0, 7),
        [0, 7],
        [-1, 8, True, False, 1.0, "1", b"1", None, [1], "9" * 1_000_000, math.nan],
    ),
    "number": (
        lambda value: exact.number({"k": value}, "k", 0, 7.5),
        [0, 7, 7.5, 0.0],
        [-0.1, 7.6, math.nan, math.inf, -math.inf, True, "1", None, [1.0], 2**62],
    ),
    "flag": (lambda value: exact.flag({"k": value}, "k"), [True, False], [0, 1, "", "no", b"", [], None, 1.0]),
    "items": (
        lambda value: exact.items({"k": value}, "k", 2),
        [[], [1, "a"]],
        [[1, 2, 3], (1,), {}, "ab", b"ab", 2, None, True],
    ),
    "table": (lambda value: exact.table({"k": value}, "k"), [{}, {"a": 1}], [[], [("a", 1)], "a", b"a", 1, None, True]),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_of_the_right_type_and_in_range_is_given_as_it_is(name: str) -> None:
    read, right, _ = READERS[name]
    for value in right:
        assert read(value) == value


@pytest.mark.parametrize("name", READERS)
def test_anything_else_is_refused_by_the_name_of_its_key_and_never_quoted(name: str) -> None:
    read, _, wrong = READERS[name]
    for value in wrong:
        with pytest.raises(exact.Inexact, match=r"^'k' must be ") as raised:
            read(value)
        assert len(str(raised.value)) < 120


def test_a_key_that_is_not_there_is_none_or_false_or_refused() -> None:
    assert exact.maybe(exact.integer, {}, "k", 0, 7) is None
    assert exact.maybe(exact.integer, {"k": None}, "k", 0, 7) is None
    assert exact.maybe(exact.integer, {"k": 7}, "k", 0, 7) == 7
    assert exact.flag({}, "k") is False
    with pytest.raises(exact.Inexact, match="it is missing"):
        exact.integer({}, "k", 0, 7)
    with pytest.raises(exact.Inexact):
        exact.maybe(exact.integer, {"k": 8}, "k", 0, 7)
