"""A program to run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from pytest_arl.errors import UsageError
from pytest_arl.steps import objects
from pytest_arl.steps.base import StepBase
from pytest_arl.steps.fields import Argv, Env, Flag, HiddenValues, OptionalPath, Stdin, Timeout
from pytest_arl.text.units import go_duration, parse_duration
from pytest_arl.text.untrusted import command_line, one_line, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_arl.agent.step_types import CommandMessage

__all__ = ["Command"]

_DESCRIBED_WORDS = 16

_REPORTED, _KEPT = 200, 1000
"""Characters of a command in a failing test's report, and in junitxml."""


class Command(StepBase):
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

    free_text: ClassVar[dict[str, str]] = {
        "stdin": "text",
        "command": "list",
        "env": "map",
    }
    needs: ClassVar[str] = "command: a list such as [echo, hi]"

    model_config = ConfigDict(defer_build=False)

    type: Literal["Command"] = "Command"
    command: Argv
    env: Env = Field(default_factory=HiddenValues)
    work_dir: OptionalPath = Field(default=None, alias="workDir")
    stdin: Stdin = None
    timeout: Timeout = None
    cpu_time: Timeout = Field(default=None, alias="cpuTime")
    background: Flag = False

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

    # What runs

    def to_agent(self) -> CommandMessage:
        """The step as the agent takes it."""
        message: CommandMessage = {"type": "Command", "argv": [os.fsencode(word) for word in self.command]}
        if self.env:
            message["env"] = [os.fsencode(f"{name}={value}") for name, value in self.env.items()]
        if self.work_dir is not None:
            message["cwd"] = os.fsencode(self.work_dir)
        if self.stdin is not None:
            message["stdin"] = self.stdin
        if self.timeout is not None:
            message["timeout"] = self.timeout
        if self.cpu_time is not None:
            message["cpu"] = self.cpu_time
        if self.background:
            message["background"] = True
        return message

    @property
    def longest(self) -> float | None:
        """Its timeout."""
        return self.timeout

    @property
    def in_background(self) -> bool:
        """True if the program keeps running after the step."""
        return self.background

    # What people read

    @property
    def shown(self) -> str:
        """The command, as a shell would want it."""
        return command_line(self.command)

    def to_record(self, most: int) -> dict[str, Any]:
        """The step for reports: names of variables and none of their values."""
        return {
            "command": _bounded(self.command, most),
            "workDir": None if self.work_dir is None else objects.spelled(self.work_dir),
            "env": sorted(objects.spelled(name) for name in self.env),
            "timeout": self.timeout,
            "cpuTime": self.cpu_time,
            "background": self.background,
        }

    @staticmethod
    def record_line(record: Mapping[str, Any]) -> str:
        """``make test (in /src)``."""
        where = f" (in {one_line(record['workDir'], 40)})" if record["workDir"] else ""
        return command_line(record["command"], _REPORTED) + where

    @staticmethod
    def record_command(record: Mapping[str, Any]) -> str:
        """The command."""
        return command_line(record["command"], _KEPT)

    # Objects of a cluster

    def to_json(self) -> dict[str, Any]:
        """The step as a Task's ``spec.steps`` has it; what was left out stays out."""
        readable = objects.readable
        body: dict[str, Any] = {"name": self.name, "type": self.type, "command": [readable(w) for w in self.command]}
        if self.env:
            body["env"] = HiddenValues({readable(name): readable(value) for name, value in self.env.items()})
        if self.work_dir is not None:
            body["workDir"] = readable(self.work_dir)
        if self.stdin is not None:
            body["stdin"] = self.stdin.decode("utf-8", "replace")
        if self.timeout is not None:
            body["timeout"] = go_duration(self.timeout)
        if self.cpu_time is not None:
            body["cpuTime"] = go_duration(self.cpu_time)
        if self.background:
            body["background"] = True
        return body

    @property
    def fits_object(self) -> bool:
        """True if a Task can hold the step exactly."""
        words = [*self.command, *self.env, *self.env.values()]
        return (
            len(self.command) <= objects.MOST_WORDS
            and len(self.env) <= objects.MOST_WORDS
            and all(objects.fits(word, objects.LONGEST_WORD) for word in words)
            and (self.work_dir is None or objects.fits(self.work_dir, objects.LONGEST_PATH))
            and (self.stdin is None or objects.is_text(self.stdin))
        )

    def described(self) -> dict[str, Any]:
        """The beginning of its command, and its limits."""
        words = [shorten(objects.readable(word), objects.SHOWN) for word in self.command[:_DESCRIBED_WORDS]]
        if len(self.command) > _DESCRIBED_WORDS:
            words.append(f"({len(self.command) - _DESCRIBED_WORDS} more)")
        found: dict[str, Any] = {"name": self.name, "type": self.type, "command": words}
        if self.timeout is not None:
            found["timeout"] = go_duration(self.timeout)
        if self.cpu_time is not None:
            found["cpuTime"] = go_duration(self.cpu_time)
        return {**found, "background": True} if self.background else found

    @classmethod
    def object_fields(cls, longest: int) -> dict[str, Any]:
        """The fields that a Task's step has for a Command."""
        word = Annotated[str, Field(max_length=objects.LONGEST_WORD)]
        most = objects.MOST_WORDS
        # As a whole: else the API server keeps, and reads at each change, who has set which.
        atomic = Field(max_length=most, json_schema_extra={"x-kubernetes-map-type": "atomic"})
        return {
            "command": (Annotated[list[word], Field(min_length=1, max_length=most)] | None, None),
            "env": (Annotated[dict[str, word], atomic] | None, None),
            "work_dir": (Annotated[str, Field(min_length=1, max_length=objects.LONGEST_PATH)] | None, None),
            "stdin": (Annotated[str, Field(max_length=longest)] | None, None),
            "timeout": (objects.Duration | None, None),
            "cpu_time": (objects.Duration | None, None),
            "background": (bool | None, None),
        }

    @classmethod
    def message_from_json(cls, step: Mapping[str, Any], default_timeout: str | None) -> CommandMessage:
        """A Command of a Task as the agent takes it; the pool's timeout is for one that ends."""
        message: CommandMessage = {"type": "Command", "argv": [_word(word) for word in step["command"]]}
        if step.get("env"):
            message["env"] = [_word(f"{key}={value}") for key, value in step["env"].items()]
        if step.get("workDir") is not None:
            message["cwd"] = _word(step["workDir"])
        if step.get("stdin") is not None:
            message["stdin"] = step["stdin"].encode()
        timeout = step.get("timeout", None if step.get("background") else default_timeout)
        if timeout is not None:
            message["timeout"] = _seconds(timeout, "timeout")
        if step.get("cpuTime") is not None:
            message["cpu"] = _seconds(step["cpuTime"], "cpuTime")
        if step.get("background"):
            message["background"] = True
        return message

    @staticmethod
    def longest_of(message: Any) -> float | None:
        """Its timeout."""
        own: CommandMessage = message
        return own.get("timeout")


def _bounded(argv: Sequence[str], most: int) -> list[str]:
    """The arguments, as long as they fit into so many bytes of JSON; what is cut ends in an ellipsis."""
    import json  # noqa: PLC0415 - no start needs it

    kept: list[str] = []
    room = most
    for argument in argv:
        text = objects.spelled(argument)
        size = len(json.dumps(text)) + 2
        if size > room:
            return [*kept, text[: room // 8] + "..."]
        kept.append(text)
        room -= size
    return kept


def _word(text: str) -> bytes:
    if "\0" in text:
        raise UsageError("there is a NUL in its command, env or workDir")
    return text.encode()


def _seconds(text: str, field: str) -> float | None:
    try:
        return parse_duration(text) or None
    except UsageError as error:
        raise UsageError(f"{field} {error}") from None
