"""The types of step: how a host says one, the check that it goes through, and what the agent does for it.

A type is a TypedDict, a check, a function that runs it, and a row in the table.
"""

from __future__ import annotations

import time

from pytest_arl.agent import exact, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, NotRequired, Protocol, TypedDict

    from pytest_arl.agent.exact import K, Said
    from pytest_arl.agent.limits import Limits

    class CommandMessage(TypedDict):
        """A Command. Each of ``env`` is ``NAME=value``; what it leaves out is the agent's."""

        type: Literal["Command"]
        argv: list[bytes]
        env: NotRequired[list[bytes]]
        cwd: NotRequired[bytes]
        stdin: NotRequired[bytes]
        timeout: NotRequired[float | None]
        cpu: NotRequired[float | None]
        background: NotRequired[bool]

    CommandMessageKey = Literal["type", "argv", "env", "cwd", "stdin", "timeout", "cpu", "background"]

    class FilePatchMessage(TypedDict):
        """A FilePatch."""

        type: Literal["FilePatch"]
        path: bytes
        content: bytes | memoryview
        mode: int | None

    FilePatchMessageKey = Literal["type", "path", "content", "mode"]

    StepMessage = CommandMessage | FilePatchMessage

    class StepEnd(TypedDict):
        """STEP: ``i``-th of its task. What it printed is in it (``o``, ``e``) where it is short, else the sizes are."""

        outcome: str
        code: int
        signal: NotRequired[str]
        i: NotRequired[int]
        o: NotRequired[bytes]
        e: NotRequired[bytes]
        out: NotRequired[int]
        err: NotRequired[int]
        at: NotRequired[float]
        s: NotRequired[float]
        u: NotRequired[bytes | None]
        limit: NotRequired[str | None]

    StepEndKey = Literal["i", "outcome", "code", "signal", "o", "e", "out", "err", "at", "s", "u", "limit"]

    class Runner(Protocol):
        """The task that a step is run for.

        Attributes:
            places, limits: the sandbox's.
        """

        places: files.Places
        limits: Limits

        def short(self, result: StepEnd, stdout: bytes, stderr: bytes) -> None:
            """Keep the result of a step that is over."""

        def start_program(self, step: CommandMessage) -> bool:
            """Start a program; whether it runs. What cannot be started is a failed step."""

        def start_background(self, step: CommandMessage) -> bool:
            """Start a program that outlives its step; whether it is under way."""


__all__ = ["LONGEST_NAME", "LONGEST_PATH", "checked", "run", "seconds"]

LONGEST_PATH = 4 * 1024 * 1024
"""Bytes of a path: far more than the kernel takes, so that what is too long for it is said in its words."""
LONGEST_NAME = 4096
"""Bytes of a word that messages quote."""
_LONGEST_SECONDS = 1e10


def checked(step: Any) -> StepMessage:
    """A step whose fields have the right types; TypeError or ValueError for others, KeyError for what is missing."""
    if type(step) is not dict:
        raise TypeError("a step must be a dict")
    _TYPES[exact.word(step, "type", _NAMES)][0](step)
    return step  # type: ignore[return-value]  # as just checked


def run(step: StepMessage, task: Runner) -> bool | None:
    """Run a step that was checked. True or False: it is over, and whether it succeeded; None: its task hears later."""
    return _TYPES[step["type"]][1](step, task)


def seconds(message: Said[K], key: K) -> float | None:
    """A time limit; None where there is none."""
    return None if message.get(key) is None else exact.number(message, key, 0, _LONGEST_SECONDS)


def _check_command(step: Said[CommandMessageKey]) -> None:
    seconds(step, "timeout")
    seconds(step, "cpu")
    exact.flag(step, "background")
    argv, env = step["argv"], step.get("env")
    right = type(argv) is list and bool(argv) and (env is None or type(env) is list)
    right = right and all(type(word) is bytes for word in (*argv, *(env or ())))
    _require(right and all(each is None or type(each) is bytes for each in (step.get("cwd"), step.get("stdin"))))


def _run_command(step: CommandMessage, task: Runner) -> bool | None:
    under_way = task.start_background(step) if step.get("background") else task.start_program(step)
    return None if under_way else False


def _check_patch(step: Said[FilePatchMessageKey]) -> None:
    exact.data(step, "path", LONGEST_PATH)
    _require(type(step["content"]) in (bytes, memoryview) and type(step.get("mode")) in (int, type(None)))


def _run_patch(step: FilePatchMessage, task: Runner) -> bool:
    path = step["path"]
    began, at = time.monotonic(), time.time()
    shown = path[:LONGEST_NAME]
    try:
        files.replace_file(task.places.real(path), step["content"], step.get("mode"))
    except OSError as error:
        reason = error.strerror or str(error)
        text = b"arl: cannot write " + shown + b": " + reason.encode() + b"\n"
        limit = task.limits.blame_error(error, task.places.absolute(path))
        took = time.monotonic() - began
        task.short({"outcome": "Failed", "code": 1, "limit": limit, "at": at, "s": took}, b"", text)
        return False
    took = time.monotonic() - began
    task.short({"outcome": "Succeeded", "code": 0, "at": at, "s": took}, b"File created: " + shown + b"\n", b"")
    return True


def _require(right: bool) -> None:
    if not right:
        raise TypeError("a step has a field of the wrong type")


_TYPES: dict[str, tuple[Callable[[Any], None], Callable[[Any, Runner], bool | None]]] = {
    "Command": (_check_command, _run_command),
    "FilePatch": (_check_patch, _run_patch),
}
_NAMES = tuple(_TYPES)
