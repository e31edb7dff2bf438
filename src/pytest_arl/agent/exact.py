"""Values of a peer's message: of one type, in one range, or an error that names the key.

Nothing is converted. ``bytes(2**40)`` is a terabyte of zeros, ``str(value)`` writes out a list of a million items, and
a NaN is neither before nor after any deadline. What is not of the right type already is refused for the price of
looking at its type; True is no number, and text is what UTF-8 has a place for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")
    K = TypeVar("K", bound=str)
    Said = dict[K, Any]
    """A message as a peer has it: values are anything, keys those of that message, such as ``Said[TaskKey]``."""

__all__ = ["LARGEST", "Inexact", "data", "flag", "integer", "items", "maybe", "number", "table", "text", "word"]

LARGEST = (1 << 63) - 1
"""The largest whole number of the wire."""


class Inexact(ValueError):
    """A value is not of the type or not in the range that its key has. Nothing of the value is in the message."""


def text(message: Said[K], key: K, most: int) -> str:
    """Text of at most ``most`` characters."""
    value = message.get(key)
    if type(value) is not str or len(value) > most or not (value.isascii() or _is_whole(value)):
        raise _wrong(key, "text of at most " + str(most) + " characters", value)
    return value


def word(message: Said[K], key: K, choices: Sequence[str]) -> str:
    """One of a few words."""
    value = message.get(key)
    if type(value) is not str or value not in choices:
        raise _wrong(key, "one of " + ", ".join(choices), value)
    return value


def data(message: Said[K], key: K, most: int) -> bytes:
    """Bytes, at most ``most`` of them."""
    value = message.get(key)
    if type(value) is not bytes or len(value) > most:
        raise _wrong(key, "at most " + str(most) + " bytes", value)
    return value


def integer(message: Said[K], key: K, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``."""
    value = message.get(key)
    if type(value) is not int or not least <= value <= most:
        raise _wrong(key, "a whole number from " + str(least) + " to " + str(most), value)
    return value


def number(message: Said[K], key: K, least: float, most: float) -> float:
    """A number from ``least`` to ``most``, both of them finite."""
    value = message.get(key)
    if (type(value) is not float and type(value) is not int) or not least <= value <= most:  # as a NaN never is
        raise _wrong(key, "a number from " + str(least) + " to " + str(most), value)
    return float(value)


def flag(message: Said[K], key: K) -> bool:
    """True or False; False where there is no such key."""
    value = message.get(key, False)
    if type(value) is not bool:
        raise _wrong(key, "true or false", value)
    return value


def items(message: Said[K], key: K, most: int) -> list[Any]:
    """A list of at most ``most`` items, which are still to be looked at."""
    value = message.get(key)
    if type(value) is not list or len(value) > most:
        raise _wrong(key, "a list of at most " + str(most) + " items", value)
    return value


def table(message: Said[K], key: K) -> dict[str, Any]:
    """A dict, whose values are still to be looked at."""
    value = message.get(key)
    if type(value) is not dict:
        raise _wrong(key, "a dict", value)
    return value


def maybe(read: Callable[..., T], message: Said[K], key: K, *bounds: Any) -> T | None:
    """The value that ``read`` (a function of this module) finds; None where there is no such key, or None is there."""
    return None if message.get(key) is None else read(message, key, *bounds)


def _is_whole(value: str) -> bool:
    """True if UTF-8 has a place for every character: what was no text came as half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(key: str, wanted: str, value: object) -> Inexact:
    kind = type(value)
    if value is None:
        found = "it is missing"
    elif kind in (str, bytes, list):
        found = "it is " + kind.__name__ + " of length " + str(len(value))  # type: ignore[arg-type]  # as just seen
    else:
        found = "it is " + kind.__name__
    return Inexact("'" + key + "' must be " + wanted + "; " + found)
