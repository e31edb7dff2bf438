"""JSON of an API server, whatever somebody may have put into one object of a list: what is listed beside it counts.

Most of an object has passed through the server's own types. ``managedFields`` have not, and are what their maker sent:
bytes that are no UTF-8, numbers of any length.
"""

from __future__ import annotations

import gc
import itertools
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

_RISKY = 400
"""Levels from which on a large text is not tried whole: one that is too deep fails after most of the work is done."""

_QUICK = 64 * 1024
"""Bytes of a text that is simply tried, which takes no time even where it nests too deep."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, to the end of the text where it has none of its own: it is not looked at twice."""

_LEVELS = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
"""Change of the level at each byte outside of strings, as a signed byte."""

_PLAIN = bytes(byte for byte in range(256) if byte not in b"[{]}")
_DEEP = re.compile(rb"\x01+")


def parse(raw: bytes) -> Any:
    """The value of a JSON text. ValueError for what is none.

    What nests deeper than any object of Kubernetes' own is None, bytes that are no UTF-8 are U+FFFD, and integers that
    no integer of theirs can be are floats.
    """
    if len(raw) < _QUICK:
        try:
            return _decoded(raw)
        except RecursionError:
            pass
    collects = gc.isenabled()
    gc.disable()  # which would go through half a million new lists again and again, and find nothing
    try:
        return _decoded(_shallow(raw) if _is_deep(raw) else raw)
    except RecursionError:
        raise ValueError("JSON that nests too deep") from None
    finally:
        if collects:
            gc.enable()


def _decoded(raw: bytes) -> Any:
    return _DECODER.decode(raw.decode("utf-8", "replace"))


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INTEGER else float(text)


_DECODER = json.JSONDecoder(parse_int=_integer, strict=False)


def _is_deep(raw: bytes) -> bool:
    """True if the text nests deeper than _RISKY. All of it is done in C; a loop in Python takes ten times as long."""
    brackets = _STRING.sub(b"", raw).translate(_LEVELS, _PLAIN)
    return max(itertools.accumulate(memoryview(brackets).cast("b")), default=0) > _RISKY


def _shallow(raw: bytes) -> bytes:
    """The text without what nests deeper: null stands there."""
    masked = _STRING.sub(lambda found: bytes(len(found[0])), raw).translate(_LEVELS)
    levels = itertools.accumulate(memoryview(masked).cast("b"))
    parts, kept = [], 0
    for deep in _DEEP.finditer(bytes(map(_DEEPEST.__lt__, levels))):
        parts += [raw[kept : deep.start()], b"null"]
        kept = deep.end() + 1  # the bracket that ends it is of the level above
    return b"".join((*parts, raw[kept:]))
