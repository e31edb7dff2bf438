"""What comes back in the status of objects, as this side's types and in words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import InfrastructureError
from pytest_arl.results import StepResult
from pytest_arl.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_arl.steps import Step

__all__ = ["condition", "finished", "is_whole", "phase", "read_steps", "started", "taken", "warm", "why", "why_failed"]

_NEVER_BEGAN = ("Cancelled", "Skipped")
_UNKNOWN = "\ufffd"


def _status(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    status = (found or {}).get("status")
    return status if isinstance(status, dict) else {}


def condition(found: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """A condition by its type; empty where there is none."""
    conditions = _status(found).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def why(found: Mapping[str, Any] | None, kind: str) -> str:
    """A condition's reason and message: ``ImagePullBackOff: Back-off pulling image "x"``."""
    known = condition(found, kind)
    return ": ".join(str(known[key]) for key in ("reason", "message") if known.get(key))


# Sandboxes


def phase(found: Mapping[str, Any] | None) -> str:
    """How far a Sandbox is; empty where the operator has not said anything yet."""
    return str(_status(found).get("phase") or "")


def warm(found: Mapping[str, Any] | None) -> bool:
    """True if a Sandbox got a pod that was ready before; not known of an older operator's, and then no."""
    return _status(found).get("warm") is True


# Tasks


def started(found: Mapping[str, Any] | None) -> bool:
    """True if the agent has taken the Task."""
    return _status(found).get("state") in ("Running", "Succeeded", "Failed")


def taken(found: Mapping[str, Any] | None) -> bool:
    """True if the agent is known to have had the Task: it runs, it has succeeded, or a step says that it began.

    A Task that was cancelled before it began has an exit code as well.
    """
    status = _status(found)
    if status.get("state") in ("Running", "Succeeded"):
        return True
    return any(one.get("startedAt") or one.get("outcome") not in _NEVER_BEGAN for one in status.get("steps") or ())


def finished(found: Mapping[str, Any] | None) -> bool:
    """True if the Task is over."""
    return _status(found).get("state") in ("Succeeded", "Failed")


def why_failed(found: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Reason and words of a Task that the infrastructure failed; None for one whose steps say how it ended."""
    status = _status(found)
    if status.get("state") != "Failed" or status.get("exitCode") is not None:
        return None
    failed = condition(found, "Failed")
    return str(failed.get("reason") or ""), str(failed.get("message") or "")


def read_steps(
    steps: Sequence[Step], found: Mapping[str, Any] | None, label: Callable[[str | None], str | None]
) -> list[StepResult]:
    """Results of the steps that have ended by now, as far as the status holds them; not of those that are skipped."""
    results: list[StepResult] = []
    for step, one in zip(steps, _status(found).get("steps") or (), strict=False):
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
            started_at=_seconds(one.get("startedAt")),
            duration=one.get("durationSeconds") or 0.0,
            usage=Usage.from_json(one.get("usage")),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise InfrastructureError(
            f"the status of step {step.name!r} cannot be read ({type(error).__name__}): the operator is of another "
            "version than this client"
        ) from None


def is_whole(found: Mapping[str, Any] | None) -> bool:
    """True if the status holds all output, exactly: a byte that is no text is U+FFFD there."""
    return all(
        _is_whole(one.get(stream) or "", one.get(f"{stream}Size") or 0)
        for one in _status(found).get("steps") or ()
        for stream in ("stdout", "stderr")
    )


def _is_whole(text: str, size: int) -> bool:
    return _UNKNOWN not in text and (len(text) if text.isascii() else len(text.encode())) == size


def _seconds(moment: str | None) -> float | None:
    return None if not moment else datetime.fromisoformat(moment).timestamp()
