"""Scripts for ``agents.py`` that hypothesis makes up: right answers, almost right ones, and anything at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pytest_arl.agent import frames
from tests.cluster.hostile.agents import OCCASIONS, RIGHT

__all__ = ["answers", "examples", "scripts", "values"]

_KINDS = sorted(
    {value for name, value in vars(frames).items() if name.isupper() and isinstance(value, int) and value < 0x60}
)
_TIME_9999 = 253402300800
_NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, _TIME_9999, 2**63 - 1, -(2**63)]
    ),
    st.sampled_from([50_000_000, 100_000_000]),  # as many bytes, where somebody makes bytes of them
    st.integers(-(2**63), 2**63 - 1),
)
_TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "older epoch",
            "another boot",
            "not configured",
            "task x is running; one at a time",
            "payload",
            "malformed",
            "no longer kept",
            "Succeeded",
            "Failed",
            "Skipped",
            "memory",
            "..",
            "\x1b[2J\x07\x9b2J\u202e\u2028",
            "\udcff",
            "\x00",
        ]
    ),
    st.text(max_size=20),
)
_KEYS = _TEXTS.filter(lambda text: text.encode("utf-8", "replace") == text.encode("utf-8", "surrogateescape"))
"""The wire has no place for half a pair of surrogates in a key."""

_ATOMS = st.one_of(
    st.none(), st.booleans(), _NUMBERS, st.floats(), _TEXTS, st.binary(max_size=90), st.just(b"n" * 32), st.just(1e18)
)
values = st.recursive(
    _ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=6
)
_NESTED = st.one_of(
    _ATOMS,
    st.lists(_ATOMS, max_size=3),
    st.dictionaries(_KEYS, _ATOMS, max_size=2),
    st.just({"own": "task"}),
    st.just({"own": "busy"}),
)
_FILLS = st.fixed_dictionaries(
    {
        "fill": st.sampled_from([1000, 65_000, 200_000, frames.MAX_PAYLOAD - 1000]),
        "as": st.sampled_from(["str", "bytes"]),
    }
)


@st.composite
def _almost_right(draw: st.DrawFn, which: str) -> list[Any]:
    """An agent's answer with a wrong value or two, or without a key."""
    keys = sorted(RIGHT[which][1])
    changed = draw(st.lists(st.sampled_from(keys), max_size=2, unique=True))
    changes = {key: draw(_NESTED | _FILLS) if number else draw(_NESTED) for number, key in enumerate(changed)}
    dropped = [draw(st.sampled_from(keys))] if draw(st.integers(0, 5)) == 5 else []
    return ["right", which, changes, dropped]


def _encoded(value: Any) -> bytes:
    try:
        return frames.encode(value)
    except UnicodeEncodeError:  # a key that has no bytes
        return b"N"


_PAYLOADS = st.one_of(
    values.map(_encoded),
    values.map(_encoded).map(lambda data: data[:-1]),
    st.binary(max_size=30),
    st.integers(1, 20).map(lambda deep: b"l\x00\x00\x00\x01" * deep + b"N"),
    st.sampled_from([b"l\xff\xff\xff\xff", b"d\x00\x1e\x84\x80", b"b" + b"\x00\x03\xff\xf0" + b"x" * 0x3FFF0]),
    st.tuples(st.sampled_from([0, 1, 2**32 - 1]), st.sampled_from([0, 10, 1000, 131072, 262140])).map(
        lambda printed: frames.STEP_INDEX.pack(printed[0]) + b"x" * printed[1]
    ),
)
_KIND = st.sampled_from(_KINDS) | st.integers(0, 255)
_FRAME = st.tuples(
    st.just("frame"), _KIND, st.sampled_from([0, 0, 0, 1, 2**32 - 1]), _PAYLOADS, st.sampled_from([1, 1, 1, 2, 50])
).map(list)
_OTHER = st.one_of(
    st.tuples(st.just("slow"), _KIND, _PAYLOADS, st.sampled_from([0.001, 0.05])).map(list),
    st.tuples(st.just("noise"), st.binary(max_size=40)).map(list),
    st.tuples(st.just("pause"), st.sampled_from([0.01, 0.1])).map(list),
    st.just(["end"]),
    st.just(["silence"]),
)
_RIGHT_ONES = st.one_of(*(_almost_right(which) for which in sorted(RIGHT)))


def _acts(occasion: str) -> st.SearchStrategy[list[list[Any]]]:
    fitting = {"task": ("step", "done", "refusal"), "attach": ("refusal", "step")}.get(occasion, (occasion,))
    likely = st.one_of([_almost_right(which) for which in fitting if which in RIGHT] or [_RIGHT_ONES])
    return st.lists(st.one_of(likely, likely, likely, _RIGHT_ONES, _FRAME, _OTHER), max_size=5)


_OCCASIONS = sorted({"greeting", "holder", *OCCASIONS.values()})

scripts: st.SearchStrategy[dict[str, list[list[Any]]]] = st.one_of(
    st.fixed_dictionaries({}, optional={"task": _acts("task"), "ping": _acts("ping")}),
    st.fixed_dictionaries({}, optional={occasion: _acts(occasion) for occasion in _OCCASIONS}),
)
"""Half of them keep to what is right until a Task comes: else few would see one."""


def answers(which: str) -> st.SearchStrategy[tuple[int, Any]]:
    """An agent's answer, often with something wrong: its type and value as they are on the wire."""
    kind, right = RIGHT[which]

    def made(act: list[Any]) -> tuple[int, Any]:
        value = {**right, **{key: each for key, each in act[2].items() if not isinstance(each, dict)}}
        return kind, {key: each for key, each in value.items() if key not in act[3]}

    return _almost_right(which).map(made) | values.map(lambda value: (kind, value))


def examples(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """``count`` values, the same for each number: for what runs elsewhere."""
    found: list[Any] = []

    def collect(value: Any) -> None:
        found.append(value)

    made: Callable[[], None] = seed(number)(
        settings(
            max_examples=count,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(strategy)(collect))
    )
    made()
    return found
