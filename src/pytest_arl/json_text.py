"""JSON of an API server, however deep it nests: whoever may make one object there decides how deep, and what is listed
beside it counts.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse"]

_DEEPEST = 12_000
"""The API server takes no more than 10,000 (the limit of Go's encoding/json)."""
_STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


def parse(raw: bytes) -> Any:
    """The value of a JSON text. ValueError for what is none, or nests deeper than any object."""
    try:
        return json.loads(raw)
    except RecursionError:
        return _parse_deep(raw)


def _parse_deep(raw: bytes) -> object:
    """How deep `json` goes differs by version of Python, and since 3.12 nobody can set it. ijson does not recurse."""
    import ijson  # noqa: PLC0415 - for what hardly ever comes
    from ijson.common import JSONError, ObjectBuilder  # noqa: PLC0415

    builder, depth = ObjectBuilder(), 0
    try:
        for event, value in ijson.basic_parse(raw, use_float=True):
            builder.event(event, value)
            depth += _STEPS.get(event, 0)
            if depth > _DEEPEST:
                raise ValueError("JSON that nests deeper than any object does")
    except JSONError as error:
        raise ValueError(f"no JSON: {error}") from None
    return builder.value
