"""JSON of an API server, whatever somebody may have put into one object of a list: what is listed beside it counts.

Most of an object has passed through the server's own types. ``managedFields`` have not, and are what their maker sent:
bytes that are no UTF-8, numbers of any length.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["parse"]

_DEEPEST = 100
"""Levels that are read. Kubernetes' own objects have no more than some thirty; the API server takes 10,000 (the limit
of Go's encoding/json), `json` a number that differs by version of Python.
"""

_LONGEST_INTEGER = 400
"""Digits. Python refuses to read more than 4,300; a float has 309 at the most."""

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
"""A string, to the end of the text where it has none of its own: it is not looked at twice."""


def parse(raw: bytes) -> Any:
    """The value of a JSON text. ValueError for what is none.

    What nests deeper than any object of Kubernetes' own is None, bytes that are no UTF-8 are U+FFFD, and integers that
    no integer of theirs can be are floats.
    """
    text = raw.decode("utf-8", "replace")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        pass
    try:
        return _DECODER.decode(_shallow(text))
    except RecursionError:
        raise ValueError("JSON that has no end") from None


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INTEGER else float(text)


_DECODER = json.JSONDecoder(parse_int=_integer, strict=False)


def _shallow(text: str) -> str:
    """The text without what nests deeper: null stands there. It recurses nowhere, and looks at each character once."""
    parts, depth, kept = [], 0, 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth == _DEEPEST + 1:
                parts += [text[kept : token.start()], "null"]
        elif first in "]}":
            if depth == _DEEPEST + 1:
                kept = token.end()
            depth -= 1
    parts.append(text[kept:])
    return "".join(parts)
