"""The status of a Task as results, and conditions in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.cluster.objects import condition, status_of
from pytest_arl.errors import InfrastructureError
from pytest_arl.results import StepResult
from pytest_arl.text.timestamps import parse_timestamp
from pytest_arl.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_arl.cluster.objects import Object
    from pytest_arl.steps import Step

__all__ = ["is_whole", "read_steps", "taken", "why", "why_failed"]

_NEVER_BEGAN = ("Cancelled", "Skipped")
_UNKNOWN = "\ufffd"


def why(found: Object | None, kind: str) -> str:
    """A condition's reason and message: ``ImagePullBackOff: Back-off pulling image "x"``."""
    known = condition(found, kind)
    return ": ".join(str(known[key]) for key in ("reason", "message") if known.get(key))


def taken(found: Object | None) -> bool:
    """True if the agent is known to have had the Task: it runs, it has succeeded, or a step says that it began.

    A Task that was cancelled before it began has an exit code as well.
    """
    said = status_of(found)
    if said.get("state") in ("Running", "Succeeded"):
        return True
    return any(one.get("startedAt") or one.get("outcome") not in _NEVER_BEGAN for one in said.get("steps") or ())


def why_failed(found: Object | None) -> tuple[str, str] | None:
    """Reason and words of a Task that the infrastructure failed; None for one whose steps say how it ended."""
    said = status_of(found)
    if said.get("state") != "Failed" or said.get("exitCode") is not None:
        return None
    failed = condition(found, "Failed")
    return str(failed.get("reason") or ""), str(failed.get("message") or "")


def read_steps(
    steps: Sequence[Step], found: Object | None, label: Callable[[str | None], str | None]
) -> list[StepResult]:
    """Results of the steps that have ended by now, as far as the status holds them; not of those that are skipped."""
    results: list[StepResult] = []
    for step, one in zip(steps, status_of(found).get("steps") or (), strict=False):
        if one.get("outcome") == "Skipped":
            break
        results.append(_read_step(step, one, label))
    return results


def _read_step(step: Step, one: Mapping[str, Any], label: Callable[[str | None], str | None]) -> StepResult:
    try:
        return StepResult(
            name=step.name,
            type=step.type,
            outcome=one["outcome"],
            exit_code=one.get("exitCode"),
            signal=one.get("signal"),
            stdout_bytes=(one.get("stdout") or "").encode(),
            stderr_bytes=(one.get("stderr") or "").encode(),
            stdout_size=one.get("stdoutSize") or 0,
            stderr_size=one.get("stderrSize") or 0,
            limit=label(one.get("limit")),
            started_at=_moment(one.get("startedAt")),
            duration=one.get("durationSeconds") or 0.0,
            usage=Usage.from_json(one.get("usage")),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InfrastructureError(
            f"the status of step {step.name!r} cannot be read ({type(error).__name__}): the operator is of another "
            "version than this client"
        ) from None


def is_whole(found: Object | None) -> bool:
    """True if the status holds all output, exactly: a byte that is no text is U+FFFD there."""
    return all(
        _is_whole(one.get(stream) or "", one.get(f"{stream}Size") or 0)
        for one in status_of(found).get("steps") or ()
        for stream in ("stdout", "stderr")
    )


def _is_whole(text: str, size: int) -> bool:
    return _UNKNOWN not in text and (len(text) if text.isascii() else len(text.encode())) == size


def _moment(text: object) -> float | None:
    found = parse_timestamp(text)
    if text and found is None:
        raise ValueError("startedAt is no time")
    return found
