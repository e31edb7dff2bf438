"""Checks of callers' arguments: each message names the argument and shows the right form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pytest_arl.errors import UsageError
from pytest_arl.steps import Command
from pytest_arl.text.units import parse_positive_duration, parse_timeout
from pytest_arl.text.untrusted import shorten
from pytest_arl.text.wording import type_name

__all__ = ["callback", "command", "flag", "labels", "limit", "name", "retries", "seconds"]

__tracebackhide__ = True

_MOST_RETRIES = 10
"""The bound of the cluster's Task."""

_NAME_LENGTH = 60
"""Characters of a step's name that is made from its program's: it heads a line of a report."""


def command(
    method: str,
    argv: tuple[Any, ...],
    *,
    env: Mapping[str, str] | None,
    work_dir: str | os.PathLike[str] | None,
    stdin: str | bytes | None,
    timeout: float | str | None,
    cpu_time: float | str | None,
    background: bool,
) -> Command:
    """The one step of ``run`` and ``start``, named after its program."""
    _refuse_common_slips(method, argv)
    program = argv[0] if isinstance(argv[0], (str, os.PathLike)) else ""
    name = os.path.basename(os.fspath(program).rstrip("/"))  # noqa: PTH119 - a sandbox's path, not one of this machine
    try:
        return Command(
            name=shorten(name, _NAME_LENGTH) if name and "\0" not in name else method,
            command=argv,
            env={} if env is None else env,
            work_dir=work_dir,
            stdin=stdin,
            timeout=timeout,
            cpu_time=cpu_time,
            background=background,
        )
    except UsageError as error:
        _, _, rest = str(error).partition(": ")
        rest = rest.replace("'command' item", "word")
        raise UsageError(f"{method}: {rest}") from None


def _refuse_common_slips(method: str, argv: tuple[object, ...]) -> None:
    """Refuse the two forms that everyone tries once, and show the right one."""
    if not argv:
        raise UsageError(f'{method}() needs a program: {method}("echo", "hi")')
    if len(argv) > 1:
        return
    (only,) = argv
    if isinstance(only, (list, tuple)):
        words = ", ".join(repr(word) for word in only) or '"echo", "hi"'
        form = f"{method}({shorten(words, 200)})"
        raise UsageError(f"{method}() takes the words one by one, not {type_name(only)}: {form}")
    # A program whose name has a space is said by a Path, which is never a command line.
    if isinstance(only, str) and len(only.split()) > 1:
        form = _right_form(method, only)
        raise UsageError(f"{method}() takes the words one by one, as no shell splits them: {form}")


def _right_form(method: str, line: str) -> str:
    import shlex  # noqa: PLC0415 - only an error needs it

    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words or any(char in line for char in "|&;<>$`*?\n"):
        return f'{method}("sh", "-c", {shorten(repr(line), 200)})'
    form = f"{method}({shorten(', '.join(map(repr, words)), 200)})"
    return f"{form}; a program with a space in its name is {method}(Path({shorten(repr(line), 200)}))"


def name(value: object, what: str) -> str | None:
    """A name, or None where it was left out."""
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{what} must be a name, not {repr(value) if isinstance(value, str) else type_name(value)}")
    return value


def flag(value: object, what: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{what} must be True or False, not {type_name(value)}")
    return value


def limit(value: object, what: str) -> float | None:
    """Seconds, or None for no limit."""
    try:
        return parse_timeout(value)
    except UsageError as error:
        raise UsageError(f"{what} {error}") from None


def seconds(value: object, what: str) -> float | None:
    """Seconds, more than 0; None where they were left out."""
    if value is None:
        return None
    try:
        return parse_positive_duration(value)
    except UsageError as error:
        raise UsageError(f"{what} {error}") from None


def labels(value: object, what: str) -> dict[str, str]:
    """Strings by strings; None is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise UsageError(f"{what} must be a mapping of strings to strings")
    return dict(value)


def retries(value: object) -> None:
    """The number of tries after the first."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_RETRIES:
        raise UsageError(f"execute: retries must be a whole number from 0 to {_MOST_RETRIES}, not {value!r}")


def callback(value: object) -> None:
    """A plain function, or None. A coroutine function would be called, and never awaited."""
    if value is not None and (not callable(value) or _is_async(value)):
        what = "an async function" if callable(value) else type_name(value)
        raise UsageError(f"execute: on_output must be a plain function, not {what}")


def _is_async(function: object) -> bool:
    import inspect  # noqa: PLC0415 - only a caller with a callback waits for it

    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
