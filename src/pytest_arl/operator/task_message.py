"""A Task as its agent takes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.cluster.names import MOST_SPEC_BYTES
from pytest_arl.cluster.objects import name, uid
from pytest_arl.cluster.proof import is_proof, proof_of
from pytest_arl.errors import UsageError
from pytest_arl.steps import step_type
from pytest_arl.text.units import parse_duration, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.message_types import Task as TaskMessage
    from pytest_arl.agent.step_types import StepMessage
    from pytest_arl.cluster.objects import Object

__all__ = ["KEPT_BYTES", "SENT_BYTES", "Held", "Refused", "cpu_time", "kept_bytes", "message"]

KEPT_BYTES = 16 * 1024 * 1024
_MOST_KEPT_BYTES = 1 << 50
"""Bytes of a stream that a result has, where the pool says nothing else; as for pools of this machine."""

SENT_BYTES = 128 * 1024
"""Bytes of a stream that the operator wants: no status holds more of one (it is in it twice)."""


class Refused(Exception):
    """The reason why a Task is not run, and a sentence. Nothing of its content is in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Held:
    """A Sandbox whose holder alone runs Tasks in it.

    Attributes:
        uid: the Sandbox's.
        sealed: the key of its holder's proofs, sealed for the operator.
    """

    uid: str
    sealed: str

    @classmethod
    def of(cls, sandbox: Object | None) -> Held | None:
        """The holder of a Sandbox; None for one in which every Task is run."""
        holder = ((sandbox or {}).get("spec") or {}).get("holder") or {}
        if sandbox is None or "sealedKey" not in holder or holder.get("openToAll") is True:
            return None
        return cls(uid(sandbox), holder["sealedKey"])

    def check(self, task: Object, opened: Callable[[str], bytes | None]) -> None:
        """Raise Refused for a Task that is not the holder's."""
        key = opened(self.sealed)
        if key is None:
            raise Refused(
                "NotTheHolders", "the sandbox's sealedKey was not sealed for this operator: create another Sandbox"
            )
        wanted = proof_of(key, self.uid, name(task), task["spec"])
        if not is_proof(task["spec"].get("proof"), wanted):
            raise Refused(
                "NotTheHolders",
                "the sandbox is held by a test run, and the Task has no proof that it is that run's: make a Sandbox of "
                "your own, or one with keepAlive",
            )


def kept_bytes(pool: Object | None) -> int:
    """Bytes of a stream that the agent keeps for who attaches later."""
    limit = (((pool or {}).get("spec") or {}).get("sandbox") or {}).get("outputLimit")
    try:
        return KEPT_BYTES if limit is None else min(parse_quantity(limit), _MOST_KEPT_BYTES)
    except (ValueError, OverflowError):  # UsageError is one
        return KEPT_BYTES


def cpu_time(pool: Object | None) -> float | None:
    """Seconds of processor time that each Command of a pool may use; None is no limit, as are over ten years."""
    limit = (((pool or {}).get("spec") or {}).get("sandbox") or {}).get("cpuTime")
    try:
        return None if limit is None else parse_duration(limit) or None
    except UsageError:
        return None


def message(task: Object, *, boot: str, epoch: int, pool: Object | None) -> TaskMessage:
    """The TASK message. Refused where the spec is one that no agent can be given."""
    spec = task["spec"]
    size = len(json.dumps(spec, ensure_ascii=False).encode())
    if size > MOST_SPEC_BYTES:
        raise Refused("SpecTooLarge", f"spec has {size} bytes of JSON, more than {MOST_SPEC_BYTES}: copy files instead")
    defaults = ((pool or {}).get("spec") or {}).get("sandbox") or {}
    default_timeout = defaults.get("stepTimeout")
    found: TaskMessage = {
        "id": task["metadata"]["uid"],
        "boot": boot,
        "epoch": epoch,
        "timeout": _seconds(spec.get("timeout"), "spec.timeout"),
        "limit": min(SENT_BYTES, kept_bytes(pool)),
        "keep": kept_bytes(pool),
        "live": False,
        "steps": [_step(step, default_timeout) for step in spec["steps"]],
    }
    if "payloadHash" in spec:
        found["payload"] = spec["payloadHash"]
    if "proof" in spec:
        found["once"] = spec["proof"]
    return found


def _step(step: Object, default_timeout: str | None) -> StepMessage:
    """A step as the agent takes it, made of its JSON: a client's models are not for a tenant's objects."""
    try:
        return step_type(step.get("type")).message_from_json(step, default_timeout)
    except UsageError as error:
        raise Refused("SpecInvalid", f"step {step['name']!r}: {error}") from None


def _seconds(text: str | None, what: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text) or None
    except UsageError as error:
        raise Refused("SpecInvalid", f"{what} {error}") from None
