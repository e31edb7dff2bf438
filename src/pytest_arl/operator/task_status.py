"""A Task's status: from how far it is to what the API server is given, within its bounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.names import MOST_STATUS_BYTES
from pytest_arl.cluster.objects import conditions, status_of
from pytest_arl.operator.progress import level
from pytest_arl.text.endings import ending
from pytest_arl.text.timestamps import now, timestamp
from pytest_arl.text.units import go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.progress import Progress, StepEnd

__all__ = ["CANCELLED_CODE", "cancelled", "encoded_size", "failed", "fit", "result", "running", "waiting"]

CANCELLED_CODE = 137
"""Exit code of a step that was cancelled, also before it began: what SIGKILL makes of one."""

_PER_STEP = 1536
"""Bytes of JSON that a step without output may take: names are 63 characters, limits, times and figures short."""

# Go's encoder, which writes what is stored: these are six bytes of it (three by themselves are U+2028 and U+2029) ...
_SIX = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f<>&\u2028\u2029]")
# ... and these are two.
_TWO = re.compile(r'["\\\n\r\t]')
_MOST_OF_ONE = 8  # bytes that a character counts as


def encoded_size(text: str) -> int:
    """Bytes of a string in the JSON that is stored, at most."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size + 5 * len(_SIX.findall(text)) + len(_TWO.findall(text))


def fit(texts: Sequence[str], room: int) -> list[str]:
    """The texts, the longest cut to one size so that all of them have room. What is cut is the middle."""
    # No text is shorter in JSON than it is: what is too long by that is cut before it is measured.
    most = level(map(len, texts), room)
    shown = [
        text if len(text) <= most else text[: most // 2] + text[len(text) - (most - most // 2) :] for text in texts
    ]
    sizes = [encoded_size(text) for text in shown]
    most = level(sizes, room)
    return [text if size <= most else _cut(text, most) for text, size in zip(shown, sizes, strict=True)]


def _cut(text: str, room: int) -> str:
    head = _head(text, room // 2)
    tail = _head(text[len(head) :][::-1], room - room // 2)[::-1]
    return head + tail


def _head(text: str, room: int) -> str:
    """The longest beginning that has room, about: as much at a time as is sure to have some."""
    taken = 0
    while room > 0 and taken < len(text):
        piece = text[taken : taken + max(1, room // _MOST_OF_ONE)]
        size = encoded_size(piece)
        if size > room:
            break
        taken += len(piece)
        room -= size
    return text[:taken]


def result(
    task: Object, progress: Progress, *, began: float, ended: float, limits: Mapping[str, str], output: bool = True
) -> Object:
    """The status of a task that its agent has finished. Without ``output``, where one with it was refused."""
    # Each text is in it twice: in its step and in the whole.
    steps, shown = _steps(progress, limits, (MOST_STATUS_BYTES - _overhead(progress)) // 2 if output else 0)
    steps += [_skipped(step) for step in progress.steps[len(steps) :]]
    last = progress.ended[-1]
    status: Object = {
        "state": "Succeeded" if last.succeeded else "Failed",
        "exitCode": last.code,
        "steps": steps,
        "stdout": "".join(shown[::2]),
        "stderr": "".join(shown[1::2]),
    }
    if last.succeeded:
        outcome = _condition("Complete", "Succeeded", _count(len(steps)))
    else:
        name = progress.steps[len(progress.ended) - 1]["name"]
        outcome = _condition("Failed", _reason(last), _sentence(name, last, limits))
    return _ended(task, status, [_STARTED, outcome], began, ended)


def cancelled(task: Object, moment: float) -> Object:
    """The status of a task that was cancelled before it began."""
    steps = [_skipped(step) for step in task["spec"]["steps"]]
    for first in steps[:1]:  # there is none in a Task that was cut
        first |= {"outcome": "Cancelled", "exitCode": CANCELLED_CODE}
    status = {"state": "Failed", "exitCode": CANCELLED_CODE, **({"steps": steps} if steps else {})}
    outcome = _condition("Failed", "Cancelled", "it was cancelled before it began")
    return _ended(task, status, [outcome], None, moment)


def failed(
    task: Object,
    reason: str,
    message: str,
    moment: float,
    progress: Progress | None = None,
    *,
    output: bool = True,
    limits: Mapping[str, str] | None = None,
) -> Object:
    """The status of a task whose infrastructure failed: no exit code; the steps that are known to have ended."""
    status: Object = {"state": "Failed"}
    if progress is not None and progress.ended:
        room = MOST_STATUS_BYTES - _overhead(progress) if output else 0
        status["steps"], _ = _steps(progress, limits or {}, room)
    return _ended(task, status, [_condition("Failed", reason, message)], None, moment)


def running(task: Object, progress: Progress, began: float, limits: Mapping[str, str]) -> Object:
    """The status of a task that runs, with the steps that have ended."""
    status: Object = {"state": "Running", "startTime": timestamp(began)}
    if progress.ended:
        status["steps"], _ = _steps(progress, limits, MOST_STATUS_BYTES - _overhead(progress))
    return {**status, "conditions": conditions(task, [_STARTED], now()), **_observed(task)}


def waiting(task: Object, reason: str, message: str) -> Object:
    """The status of a task that cannot begin yet."""
    told = {"type": "Started", "status": "False", "reason": reason, "message": message}
    return {"state": "Pending", "conditions": conditions(task, [told], now()), **_observed(task)}


_STARTED = {"type": "Started", "status": "True", "reason": "Started", "message": ""}


def _condition(kind: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def _ended(task: Object, status: Object, changes: list[Object], began: float | None, ended: float) -> Object:
    before = status_of(task).get("startTime")
    if began is not None:
        status |= {"startTime": before or timestamp(began), "duration": go_duration(max(0.0, ended - began))}
    return {
        **status,
        "completionTime": timestamp(ended),
        "conditions": conditions(task, changes, timestamp(ended)),
        **_observed(task),
    }


def _observed(task: Object) -> Object:
    return {"observedGeneration": task["metadata"].get("generation", 1)}


def _overhead(progress: Progress) -> int:
    return _PER_STEP * (len(progress.steps) + 4)


def _steps(progress: Progress, limits: Mapping[str, str], room: int) -> tuple[list[Object], list[str]]:
    """The steps that have ended, with as much of their output as there is room for, and those outputs in a row."""
    texts = [each.decode("utf-8", "replace") for end in progress.ended for each in end.output]
    shown = fit(texts, max(0, room))
    pairs = zip(progress.steps, progress.ended, zip(shown[::2], shown[1::2], strict=True), strict=False)
    return [_step(step, end, pair, limits) for step, end, pair in pairs], shown


def _step(step: Object, end: StepEnd, shown: tuple[str, str], limits: Mapping[str, str]) -> Object:
    found: dict[str, Any] = {
        "name": step["name"],
        "type": step["type"],
        "outcome": end.outcome,
        "exitCode": end.code,
        "stdout": shown[0],
        "stderr": shown[1],
        "stdoutSize": end.sizes[0],
        "stderrSize": end.sizes[1],
        "truncated": any(map(_short, shown, end.sizes, end.output)),
        "durationSeconds": end.seconds,
    }
    usage = end.usage
    optional = {
        "signal": end.signal,
        "limit": _limit(end, limits),
        "startedAt": None if end.at is None else timestamp(end.at),
        "usage": None if usage is None else {key: one for key, one in usage.to_json().items() if one is not None},
    }
    return found | {key: each for key, each in optional.items() if each is not None}


def _short(shown: str, size: int, had: bytes) -> bool:
    """True if a text lacks something of what was printed: the agent's part of it, or ours."""
    return size > len(had) or len(shown) < len(had.decode("utf-8", "replace"))


def _skipped(step: Object) -> Object:
    return {"name": step["name"], "type": step["type"], "outcome": "Skipped"}


def _count(steps: int) -> str:
    return "1 step succeeded" if steps == 1 else f"{steps} steps succeeded"


def _reason(end: StepEnd) -> str:
    return "StepFailed" if end.outcome == "Failed" else end.outcome


def _sentence(name: str, end: StepEnd, limits: Mapping[str, str]) -> str:
    limit = _limit(end, limits)
    return f"step {name!r} {ending(end.outcome, end.code, signal=end.signal, limit=limit, seconds=end.seconds)}"


def _limit(end: StepEnd, limits: Mapping[str, str]) -> str | None:
    """The limit that a step reached, with the pool's value where it has one: ``memory 512Mi``."""
    return f"{end.limit} {limits[end.limit]}" if end.limit is not None and end.limit in limits else end.limit
