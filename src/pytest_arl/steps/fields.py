"""Fields of steps: the checks that they go through, and their types for pydantic.

A check raises a ValueError that begins where the field's name ends; none shows a value that may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar

from pydantic import PlainValidator, WithJsonSchema

from pytest_arl.errors import UsageError
from pytest_arl.text.units import parse_timeout
from pytest_arl.text.untrusted import shorten
from pytest_arl.text.wording import type_name

__all__ = [
    "Argv",
    "Content",
    "Env",
    "Flag",
    "HiddenValues",
    "Mode",
    "Name",
    "OptionalPath",
    "RequiredPath",
    "Stdin",
    "Timeout",
    "check_content",
    "check_mode",
    "check_path",
]

T = TypeVar("T")

_MODES = 0o7777
"""Every permission bit a file has; more is a mistake, often a decimal that was meant to be octal."""


class HiddenValues(dict[str, str]):
    """Environment variables: a dict whose ``repr`` shows names only, for tracebacks show locals."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"


def _text(value: object) -> str:
    """A string that a process can be given: no NUL, and encodable as file names are (``os.fsencode``)."""
    __tracebackhide__ = True
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {type_name(value)}")  # noqa: TRY004 - pydantic collects ValueError
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(f"has a lone surrogate at position {error.start}, which is no character") from None
    if "\0" in value:
        raise ValueError(f"has a NUL byte at position {value.index(chr(0))}")
    return value


def _name(value: object) -> str:
    __tracebackhide__ = True
    name = _text(value)
    if not name:
        raise ValueError("is empty; leave it out to have the step numbered")
    return name


def _path(value: object) -> str:
    __tracebackhide__ = True
    path = _text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if not path:
        raise ValueError("is empty")
    return path


def _optional_path(value: object) -> str | None:
    __tracebackhide__ = True
    return None if value is None else _path(value)


def _argv(value: object) -> tuple[str, ...]:
    __tracebackhide__ = True
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'must be a list of strings such as ["echo", "hi"], not {type_name(value)}{_split(value)}')  # noqa: TRY004
    if not value:
        raise ValueError('is empty: it needs at least the program, as in ["true"]')
    words = []
    for number, word in enumerate(value):
        try:
            words.append(word if type(word) is str and word.isascii() and "\0" not in word else _word(word))
        except ValueError as error:
            raise ValueError(f"item {number} {error}") from None
    if not words[0]:
        raise ValueError("item 0 is empty: it is the program to run")
    return tuple(words)


def _word(value: object) -> str:
    __tracebackhide__ = True
    return _text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _split(value: object) -> str:
    """The list that a command written as one string was meant to be."""
    if not isinstance(value, str) or not value.strip():
        return ""
    import shlex  # noqa: PLC0415 - only an error needs it

    try:
        words = shlex.split(value)
    except ValueError:
        words = value.split()
    return f": write {shorten(repr(words), 100)}"


def _env(value: object) -> HiddenValues:
    __tracebackhide__ = True
    if not isinstance(value, Mapping):
        raise ValueError(f'must be a mapping such as {{"DEBUG": "1"}}, not {type_name(value)}')  # noqa: TRY004
    for name, content in value.items():
        if not isinstance(name, str) or not name or "=" in name:
            raise ValueError(f"has the name {name!r}: a name is a string, not empty, with no '=' in it")
        try:
            _text(name)
            _text(content)
        except ValueError as error:
            raise ValueError(f"[{name!r}] {error}{_as_string(content)}") from None
    return HiddenValues(value)


def _as_string(value: object) -> str:
    return "; write it as a string" if isinstance(value, (int, float)) else ""


def _stdin(value: object) -> bytes | None:
    __tracebackhide__ = True
    return None if value is None else _bytes(value)


def _bytes(value: object) -> bytes:
    """Exact bytes; a string is UTF-8, with the bytes that ``surrogateescape`` hid in it put back."""
    __tracebackhide__ = True
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(f"has a lone surrogate at position {error.start}, which is no character") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ValueError(f"must be a string or bytes, not {type_name(value)}")


def _flag(value: object) -> bool:
    __tracebackhide__ = True
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {type_name(value)}")  # noqa: TRY004
    return value


def _mode(value: object) -> int | None:
    __tracebackhide__ = True
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"must be an integer such as 0o755, not {type_name(value)}")  # noqa: TRY004 - as above
    if not 0 <= value <= _MODES:
        raise ValueError(f"must be from 0 to 0o7777, not {value:#o}")
    return value


def check_path(value: object, what: str) -> str:
    """A path that a method was given, as a step's is checked."""
    __tracebackhide__ = True
    return _checked(_path, value, f"{what}: the path")


def check_content(value: object, what: str) -> bytes:
    """Content that a method was given, as a step's is checked."""
    __tracebackhide__ = True
    return _checked(_bytes, value, f"{what}: the content")


def check_mode(value: object, what: str) -> int | None:
    """A mode that a method was given, as a step's is checked."""
    __tracebackhide__ = True
    return _checked(_mode, value, f"{what}: the mode")


def _checked(check: Callable[[object], T], value: object, what: str) -> T:
    __tracebackhide__ = True
    try:
        return check(value)
    except ValueError as error:
        raise UsageError(f"{what} {error}") from None


_STRING = {"type": "string"}
Name = Annotated[str, PlainValidator(_name), WithJsonSchema({**_STRING, "minLength": 1})]
RequiredPath = Annotated[str, PlainValidator(_path), WithJsonSchema({**_STRING, "minLength": 1})]
OptionalPath = Annotated[str | None, PlainValidator(_optional_path), WithJsonSchema(_STRING)]
Argv = Annotated[
    tuple[str, ...],
    PlainValidator(_argv),
    WithJsonSchema({"type": "array", "items": _STRING, "minItems": 1}),
]
Env = Annotated[
    dict[str, str], PlainValidator(_env), WithJsonSchema({"type": "object", "additionalProperties": _STRING})
]
Content = Annotated[bytes, PlainValidator(_bytes), WithJsonSchema(_STRING)]
Stdin = Annotated[bytes | None, PlainValidator(_stdin), WithJsonSchema(_STRING)]
Timeout = Annotated[float | None, PlainValidator(parse_timeout), WithJsonSchema(_STRING)]
Flag = Annotated[bool, PlainValidator(_flag), WithJsonSchema({"type": "boolean"})]
Mode = Annotated[int | None, PlainValidator(_mode), WithJsonSchema({"type": "integer"})]
