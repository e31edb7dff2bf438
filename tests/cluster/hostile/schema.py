"""The custom resources' schemas: what the API server would refuse in an object, and objects that it would take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from pytest_arl.cluster.schema import custom_resources

__all__ = ["SCHEMAS", "faults", "fits", "objects"]

Json = dict[str, Any]

SCHEMAS: dict[str, Json] = {
    body["spec"]["names"]["plural"]: body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for _, body in custom_resources()
}
"""By plural. CEL rules are not looked at here: a real API server does that."""

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def faults(schema: Json, value: Any, where: str = "") -> Iterator[str]:
    """What is wrong with a value, by the path to it."""
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))
    ):
        yield f"{where}: {type(value).__name__} is no {kind}"
    elif isinstance(value, dict):
        yield from _table_faults(schema, value, where)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            yield f"{where}: {len(value)} items"
        for number, each in enumerate(value):
            yield from faults(schema.get("items", {}), each, f"{where}[{number}]")
    elif isinstance(value, str):
        yield from _text_faults(schema, value, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_faults(schema, value, where)
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"


def _table_faults(schema: Json, value: Json, where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: {name} is missing"
    if len(value) > schema.get("maxProperties", math.inf):
        yield f"{where}: {len(value)} keys"
    for name, each in value.items():
        if name in known:
            yield from faults(known[name], each, f"{where}.{name}")
        elif "additionalProperties" in schema:
            yield from faults(schema["additionalProperties"], each, f"{where}.{name}")
        elif known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{where}: there is no {name}"


def _text_faults(schema: Json, value: str, where: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        yield f"{where}: {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value[:60]!r} does not match {schema['pattern']}"
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        yield f"{where}: half of a pair"
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{where}: {value!r} is no time"


def _number_faults(schema: Json, value: float, where: str) -> Iterator[str]:
    if not math.isfinite(value):
        yield f"{where}: JSON has no {value}"
    elif not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
        yield f"{where}: {value} is out of range"
    elif schema.get("format") == "int64" and not -(2**63) <= value < 2**63:
        yield f"{where}: {value} is no int64"


# Objects that the schema takes

_LONGEST = 1_500_000
"""Bytes of JSON beyond which the API server takes no object."""

_WORDS = [
    "..",
    ".",
    "",
    "a/b",
    "%2e%2e",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\u2028",
    "ä",
    "x" * 63,
    "-",
    "None",
    "0",
    "{}",
    "<script>",
]
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "^/": st.sampled_from(["/", "/..", "/workspace/../../etc", "/" + "x" * 1000, "/\u202e"]),
    "^[0-9a-f]{64}$": st.sampled_from(["0" * 64, "f" * 64]),
}


def _of_pattern(pattern: str) -> st.SearchStrategy[str]:
    if pattern in _SPECIAL:
        return _SPECIAL[pattern]
    if "ns|us" in pattern:
        return st.sampled_from(["0s", "1ns", "1s", "0.5s", "2562047h47m", "9" * 30 + "h", "1h1m1s1ms"])
    return st.sampled_from(["0", "1", "1Ki", "0.001Ki", "64Mi", "9" * 14 + "T"])


def _texts(schema: Json, room: int) -> st.SearchStrategy[str]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "pattern" in schema:
        return _of_pattern(schema["pattern"])
    least, most = schema.get("minLength", 0), min(schema.get("maxLength", 1000), room)
    words = [word for word in _WORDS if least <= len(word) <= most]
    ends = st.sampled_from([least, max(least, most - 1), most]).map("x".__mul__)
    return st.one_of(st.sampled_from(words), st.sampled_from(words), ends) if words else ends


def _values(schema: Json, room: int) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "string":
            return _texts(schema, room)
        case "boolean":
            return st.booleans()
        case "integer":
            least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return st.sampled_from(sorted({least, min(most, least + 1), most, max(least, min(most, 3))}))
        case "number":
            return st.sampled_from([0, 0.5, 1e308])
        case "array":
            most = schema.get("maxItems", 4)
            few = st.lists(
                _values(schema["items"], room // 4), min_size=schema.get("minItems", 0), max_size=min(4, most)
            )
            return few if schema["items"].get("type") == "object" else few | _many(schema, room)
        case _:
            return _tables(schema, room)


def _many(schema: Json, room: int) -> st.SearchStrategy[list[Any]]:
    """As many small items as there may be."""
    count = min(schema.get("maxItems", 1000), max(1, room // 8))
    return st.just(["x"] * count)


def _tables(schema: Json, room: int) -> st.SearchStrategy[Json]:
    if "properties" in schema:
        needed = set(schema.get("required", ()))
        parts = {name: _values(each, room // 2) for name, each in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: each for name, each in parts.items() if name in needed},
            optional={name: each for name, each in parts.items() if name not in needed},
        )
    names = st.sampled_from(["A", "..", "a/b", "x" * 60, "LD_PRELOAD", "PATH", "=", "\x00", "ä"])
    inner = schema.get("additionalProperties", {"type": "string"})
    return st.dictionaries(names, _values(inner, room // 4), max_size=4)


def objects(plural: str, room: int = _LONGEST) -> st.SearchStrategy[Json]:
    """Specs by the schema, at its limits and with surprising words; a few of them break a CEL rule."""
    return _values(SCHEMAS[plural]["properties"]["spec"], room).filter(fits)


def fits(spec: Json) -> bool:
    """True for what is not too large as a whole."""
    return len(json.dumps(spec)) < _LONGEST
