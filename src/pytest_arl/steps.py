"""What to run: the two kinds of step, and the check that everything goes through before anything runs.

A step is written as a dict, the way the ARL wrapper takes it, or typed::

    {"name": "build", "type": "Command", "command": ["make"], "env": {"DEBUG": "1"}, "workDir": "/workspace"}
    Command(name="build", command=["make"], env={"DEBUG": "1"}, work_dir="/workspace")

Whatever is wrong with one is a :class:`~pytest_arl.errors.UsageError` that names the step, the field and the fix,
and never prints a value of ``env``, ``stdin`` or ``content``.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from pytest_arl.errors import UsageError
from pytest_arl.text.units import go_duration, parse_duration, parse_timeout
from pytest_arl.text.wording import command_line, hint, nearest, one_of, shorten, type_name

__all__ = [
    "Command",
    "FilePatch",
    "HiddenValues",
    "Step",
    "check_content",
    "check_mode",
    "check_path",
    "parse_duration",
    "parse_steps",
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
_Name = Annotated[str, PlainValidator(_name), WithJsonSchema({**_STRING, "minLength": 1})]
_Path = Annotated[str, PlainValidator(_path), WithJsonSchema({**_STRING, "minLength": 1})]
_OptionalPath = Annotated[str | None, PlainValidator(_optional_path), WithJsonSchema(_STRING)]
_Argv = Annotated[
    tuple[str, ...],
    PlainValidator(_argv),
    WithJsonSchema({"type": "array", "items": _STRING, "minItems": 1}),
]
_Env = Annotated[
    dict[str, str], PlainValidator(_env), WithJsonSchema({"type": "object", "additionalProperties": _STRING})
]
_Stdin = Annotated[bytes | None, PlainValidator(_stdin), WithJsonSchema(_STRING)]
_Timeout = Annotated[float | None, PlainValidator(parse_timeout), WithJsonSchema(_STRING)]
_Flag = Annotated[bool, PlainValidator(_flag), WithJsonSchema({"type": "boolean"})]
_Mode = Annotated[int | None, PlainValidator(_mode), WithJsonSchema({"type": "integer"})]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    def __init__(self, /, **data: Any) -> None:
        __tracebackhide__ = True
        try:
            super().__init__(**data)
        except ValidationError as error:
            why = _explain(error, type(self))
            for name in _JSON_NAMES.keys() & data.keys():
                written = f"'{_JSON_NAMES[name]}' "
                if why.startswith(written):  # of the two names, the one that the caller wrote
                    why = f"'{name}' {why.removeprefix(written)}"
            raise UsageError(f"{_label(type(self), data)}: {why}") from None

    def __str__(self) -> str:
        return repr(self)


class Command(_Step):
    """Run a program: an argv, no shell.

    Attributes:
        name: unique in its task; empty until :func:`parse_steps` numbers it.
        command: the program and its arguments.
        env: added to the sandbox's environment.
        work_dir: where it runs; None is the workspace. ``workDir`` in JSON.
        stdin: what it reads; None is end-of-file at once.
        timeout: seconds, or None for no limit of its own.
        cpu_time: seconds of processor time that it may use with all that it starts, or None for no limit of its own.
            ``cpuTime`` in JSON.
        background: keeps running after the step, which succeeds once the program has started.
    """

    name: _Name = ""
    type: Literal["Command"] = "Command"
    command: _Argv
    env: _Env = Field(default_factory=HiddenValues)
    work_dir: _OptionalPath = Field(default=None, alias="workDir")
    stdin: _Stdin = None
    timeout: _Timeout = None
    cpu_time: _Timeout = Field(default=None, alias="cpuTime")
    background: _Flag = False

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            command: Sequence[str | os.PathLike[str]],
            name: str = ...,
            type: Literal["Command"] = ...,  # noqa: A002 - the field's name
            env: Mapping[str, str] = ...,
            work_dir: str | os.PathLike[str] | None = ...,
            stdin: str | bytes | None = ...,
            timeout: float | str | None = ...,
            cpu_time: float | str | None = ...,
            background: bool = ...,
        ) -> None: ...

    def __repr__(self) -> str:
        names = f", env of {', '.join(self.env)}" if self.env else ""
        return f"<Command {self.name!r} ({command_line(self.command)}){names}>"

    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``spec.steps`` has it; what was left out stays out."""
        body: dict[str, Any] = {"name": self.name, "type": self.type, "command": [_readable(w) for w in self.command]}
        if self.env:
            body["env"] = HiddenValues({_readable(name): _readable(value) for name, value in self.env.items()})
        if self.work_dir is not None:
            body["workDir"] = _readable(self.work_dir)
        if self.stdin is not None:
            body["stdin"] = self.stdin.decode("utf-8", "replace")
        if self.timeout is not None:
            body["timeout"] = go_duration(self.timeout)
        if self.cpu_time is not None:
            body["cpuTime"] = go_duration(self.cpu_time)
        if self.background:
            body["background"] = True
        return body


class FilePatch(_Step):
    """Write a file: exactly ``content``, at once or not at all.

    Attributes:
        name: unique in its task; empty until :func:`parse_steps` numbers it.
        path: absolute, or relative to the workspace; missing folders are made.
        content: the whole file. A string is UTF-8, or base64 where ``encoding`` says so.
        encoding: how a string ``content`` is to be read; bytes are what they are.
        mode: permission bits, or None to leave them to the sandbox.
    """

    name: _Name = ""
    type: Literal["FilePatch"] = "FilePatch"
    path: _Path
    encoding: Literal["utf-8", "base64"] = "utf-8"
    content: Annotated[bytes, PlainValidator(_bytes), WithJsonSchema(_STRING)]
    mode: _Mode = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            path: str | os.PathLike[str],
            content: str | bytes,
            name: str = ...,
            type: Literal["FilePatch"] = ...,  # noqa: A002 - the field's name
            encoding: Literal["utf-8", "base64"] = ...,
            mode: int | None = ...,
        ) -> None: ...

    else:

        def __init__(self, /, **data: Any) -> None:
            __tracebackhide__ = True
            if data.get("encoding") == "base64" and isinstance(data.get("content"), str):
                try:
                    data["content"] = base64.b64decode("".join(data["content"].split()), validate=True)
                except (binascii.Error, ValueError) as error:
                    what = f"'content' is no base64 ({error}); a plain string needs no 'encoding'"
                    raise UsageError(f"{_label(FilePatch, data)}: {what}") from None
            super().__init__(**data)

    def __repr__(self) -> str:
        return f"<FilePatch {self.name!r} ({shorten(repr(self.path), 80)}, {len(self.content)} bytes)>"

    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``spec.steps`` has it; content that is no text is base64."""
        body: dict[str, Any] = {"name": self.name, "type": self.type, "path": _readable(self.path)}
        try:
            body["content"] = self.content.decode("utf-8")
        except UnicodeDecodeError:
            body["content"] = base64.b64encode(self.content).decode("ascii")
            body["encoding"] = "base64"
        if self.mode is not None:
            body["mode"] = self.mode
        return body


Step: TypeAlias = Command | FilePatch

_TYPES: dict[str, type[Command | FilePatch]] = {"Command": Command, "FilePatch": FilePatch}
_KEYS = {
    "Command": ("name", "type", "command", "env", "workDir", "stdin", "timeout", "cpuTime", "background"),
    "FilePatch": ("name", "type", "path", "content", "encoding", "mode"),
}
_JSON_NAMES = {"work_dir": "workDir", "cpu_time": "cpuTime"}
_EXAMPLE = '[{"name": "hello", "type": "Command", "command": ["echo", "hi"]}]'


def parse_steps(steps: Iterable[Step | Mapping[str, Any]]) -> tuple[Step, ...]:
    """Check a task's steps and name those that have no name; raises UsageError before anything is run."""
    __tracebackhide__ = True
    if isinstance(steps, (str, bytes, Mapping, Command, FilePatch)) or not isinstance(steps, Iterable):
        raise UsageError(f"steps must be a list such as {_EXAMPLE}, not {type_name(steps)}")
    # map, unlike a comprehension, puts no frame of ours into the traceback of what it raises.
    parsed = tuple(map(_parse, steps, count(1)))
    if not parsed:
        raise UsageError(f"steps is empty: a task needs at least one, such as {_EXAMPLE}")
    if len(parsed) > 1:
        _refuse_twins(parsed)
    return parsed


def _parse(step: object, number: int) -> Step:
    __tracebackhide__ = True
    if isinstance(step, (Command, FilePatch)):
        return step if step.name else step.model_copy(update={"name": f"step-{number}"})
    if not isinstance(step, Mapping):
        raise UsageError(f"step {number} must be a dict, a Command or a FilePatch, not {type_name(step)}")
    model = _TYPES.get(kind) if isinstance(kind := step.get("type"), str) else None
    where = f"step {number}"
    if model is None:
        raise UsageError(f"{where}{_quoted(step.get('name'))}: {_no_type(step)}")
    for key in step:
        if not isinstance(key, str):
            raise UsageError(f"{where}{_quoted(step.get('name'))}: the key {key!r} must be a string")
    try:
        return model(**step) if "name" in step else model(name=f"step-{number}", **step)
    except UsageError as error:
        # The model's own message says «Command 'x': ...», which is right where no list of steps is in sight.
        _, _, rest = str(error).partition(": ")
        raise UsageError(f"{where}{_quoted(step.get('name'))}: {rest}") from None


def _refuse_twins(steps: tuple[Step, ...]) -> None:
    __tracebackhide__ = True
    seen: dict[str, int] = {}
    for number, step in enumerate(steps, start=1):
        first = seen.setdefault(step.name, number)
        if first != number:
            raise UsageError(f"step {number}: 'name' {step.name!r} is that of step {first} already; names are unique")


def _no_type(step: Mapping[str, Any]) -> str:
    """What to say of a step whose type is missing or unknown."""
    kind = step.get("type")
    if "type" not in step:
        guess = next((name for name in _TYPES if {"Command": "command", "FilePatch": "path"}[name] in step), None)
        meant = f'; this one looks like {{"type": "{guess}", ...}}' if guess else ""
        return f"'type' is missing: it is {one_of(map(repr, _TYPES))}{meant}"
    if not isinstance(kind, str):
        return f"'type' must be {one_of(map(repr, _TYPES))}, not {type_name(kind)}"
    return f"unknown type {shorten(repr(kind), 60)}; {hint(kind, _TYPES)}"


def _quoted(name: object) -> str:
    return f" {shorten(repr(name), 60)}" if isinstance(name, str) and name else ""


def _label(model: type[_Step], data: Mapping[str, Any]) -> str:
    return f"{model.__name__}{_quoted(data.get('name'))}".replace(": ", " ")


def _explain(error: ValidationError, model: type[_Step]) -> str:
    """The first thing that pydantic found wrong, in our words and without the value."""
    kind = model.__name__
    # An unknown key comes first: it is often the reason why another one seems to be missing.
    problems = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    problem = problems[0]
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shorten(repr(field), 60)}; {_meant(field, kind)}"
    if problem["type"] == "missing":
        return f"{field!r} is missing: a {kind} needs it"
    if problem["type"] == "literal_error":
        return f"{field!r} must be {problem['ctx']['expected']}"
    cause = str(problem.get("ctx", {}).get("error") or problem["msg"])
    return f"{field}{cause}" if cause.startswith("[") else f"{field!r} {cause}"


def _meant(key: str, kind: str) -> str:
    if key in _JSON_NAMES:
        return f"{_JSON_NAMES[key]!r} is given as well"
    owner = next((other for other, keys in _KEYS.items() if key in keys and other != kind), None)
    if owner and not nearest(key, _KEYS[kind]):
        return f"a {owner} has that; known keys of a {kind}: {', '.join(_KEYS[kind])}"
    return hint(key, _KEYS[kind])


def _readable(text: str) -> str:
    """Text that can be sent as JSON: bytes that are no UTF-8 become U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
