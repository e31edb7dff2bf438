"""Durations and quantities as people write them: ``90s``, ``1m30s``, ``512Mi``.

Go writes durations so, and Kubernetes quantities; manifests, options and Python arguments all take both forms.
Standard library only.
"""

from __future__ import annotations

import math
import re

from pytest_arl.errors import UsageError
from pytest_arl.text.wording import type_name

__all__ = [
    "format_duration",
    "format_quantity",
    "format_size",
    "go_duration",
    "parse_duration",
    "parse_positive_duration",
    "parse_quantity",
    "parse_timeout",
]

__tracebackhide__ = True

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_FACTORS = {**_BINARY, **_DECIMAL}

_WHOLE_MILLISECONDS, _WHOLE_SECONDS = 9.95, 99.95
"""Longer ones are rounded to whole units: three digits tell a reader enough."""

_LONGEST = 10 * 365 * 86400.0
"""Seconds. Beyond ten years a number is a mistake (milliseconds?), and some clocks overflow."""


def parse_duration(value: object) -> float:
    """Seconds, from a number of them or from a Go duration (``"90s"``, ``"1m30s"``, ``"250ms"``).

    A string that is a bare number counts as seconds too: options and environment variables are strings.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _seconds(value.strip())
    else:
        raise UsageError(f'must be seconds or a duration such as "90s", not {type_name(value)}')
    if math.isnan(seconds) or not 0 <= seconds <= _LONGEST:
        raise UsageError(f"must be a duration from 0 to ten years, not {value!r}")
    return seconds


def _seconds(text: str) -> float:
    if re.fullmatch(rf"(?:{_PART})+", text):
        return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, text))
    if re.fullmatch(r"-?(\d+(\.\d*)?|\.\d+)", text):
        return float(text)
    raise UsageError(f'must be seconds or a duration such as "90s" or "1m30s", not {text!r}')


def parse_positive_duration(value: object) -> float:
    """Seconds as :func:`parse_duration` reads them, more than 0."""
    seconds = parse_duration(value)
    if not seconds:
        raise UsageError("must be more than 0")
    return seconds


def parse_timeout(value: object) -> float | None:
    """The same, and None, infinity and ``"none"`` for no limit."""
    if value is None or value == math.inf or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    seconds = parse_duration(value)
    if not seconds:
        raise UsageError("must be more than 0 (None is no limit)")
    return seconds


def parse_quantity(value: object) -> int:
    """Bytes, from a number of them or from a Kubernetes quantity (``"512Mi"``, ``"1G"``)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]{0,2})", value.strip())):
        number, suffix = match.groups()
        if suffix in _FACTORS:
            return int(float(number) * _FACTORS[suffix]) if "." in number else int(number) * _FACTORS[suffix]
    shown = repr(value) if isinstance(value, (str, int, float)) else type_name(value)
    raise UsageError(f'must be bytes or a size such as "512Mi" or "2Gi", not {shown}')


def format_duration(seconds: float) -> str:
    """A duration for people: ``0.8 ms``, ``41 ms``, ``4.1 s``, ``130 s``."""
    milliseconds = seconds * 1000
    if milliseconds < _WHOLE_MILLISECONDS:
        return f"{_short(milliseconds)} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    return f"{_short(seconds) if seconds < _WHOLE_SECONDS else format(seconds, '.0f')} s"


def _short(number: float) -> str:
    """``4.1``; ``4`` where that is exact."""
    return f"{number:.0f}" if number == int(number) else f"{number:.1f}"


def go_duration(seconds: float) -> str:
    """A duration as manifests have it: ``4.1s``."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def format_quantity(size: int) -> str:
    """Bytes as a Kubernetes quantity, exactly: ``512Mi``."""
    for suffix, factor in reversed(_BINARY.items()):
        if size and size % factor == 0:
            return f"{size // factor}{suffix}"
    return str(size)


def format_size(size: int) -> str:
    """Bytes for people, in the unit of a pool's limits: ``0.4Mi``, ``241Mi``."""
    mebibytes = size / 2**20
    return f"{mebibytes:.0f}Mi" if mebibytes >= 10 or size % 2**20 == 0 else f"{mebibytes:.1f}Mi"
