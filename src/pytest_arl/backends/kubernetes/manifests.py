"""The objects that this side sends, and what cannot be said in them.

A Task is JSON of bounded size. What is no text (bytes of an argv, of stdin) and what is too long goes to the agent by
its holder's own channel instead: the Task then describes its steps, names the hash of the real ones, and the agent
runs those or nothing.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_arl.agent import frames
from pytest_arl.agent_client.messages import task_message
from pytest_arl.backends.kubernetes.api import encoded
from pytest_arl.cluster.names import API_VERSION, MOST_SPEC_BYTES, MOST_STEPS, MOST_WORDS
from pytest_arl.cluster.proof import proof_of
from pytest_arl.errors import UsageError
from pytest_arl.steps.objects import readable
from pytest_arl.text.units import go_duration
from pytest_arl.text.untrusted import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_arl.agent.step_types import StepMessage
    from pytest_arl.backends.base import AcquireRequest, TaskRequest

__all__ = ["Payload", "go_size", "holder_of", "sandbox_manifest", "task_manifest"]

FINISHED_SECONDS = 300
"""Time for which a finished Task of ours stays to be looked at."""

_LONGEST_NAME = 63
_LONGEST_TEST = 1000


def holder_of(request: AcquireRequest, run: str, worker: str, secret: bytes, sealed_key: str | None) -> dict[str, Any]:
    """The holder of a sandbox. The secret itself stays here."""
    found: dict[str, Any] = {"run": run, "worker": worker, "secretHash": hashlib.sha256(secret).hexdigest()}
    if sealed_key is not None:
        found["sealedKey"] = sealed_key
        if request.keep_alive:  # it is there for others, who have no key
            found["openToAll"] = True
    test = request.labels.get("test")
    return {**found, "test": readable(test)[-_LONGEST_TEST:]} if test else found


def sandbox_manifest(
    name: str,
    request: AcquireRequest,
    labels: Mapping[str, str],
    holder: Mapping[str, Any],
    owner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A Sandbox. ``owner`` is the Lease that it ends with, if it does."""
    spec: dict[str, Any] = {"poolRef": request.pool_ref, "keepAlive": request.keep_alive, "holder": dict(holder)}
    for key, seconds in (
        ("idleTimeoutSeconds", request.idle_timeout),
        ("maxLifetimeSeconds", request.max_lifetime),
    ):
        if seconds is not None:
            spec[key] = math.ceil(seconds)
    metadata: dict[str, Any] = {"name": name, "labels": dict(labels)}
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": API_VERSION, "kind": "Sandbox", "metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class Payload:
    """The exact steps of a Task that only describes them.

    Attributes:
        steps: as the agent takes them.
        hash: SHA-256 of their encoding, in hexadecimal digits.
    """

    steps: list[StepMessage]
    hash: str

    @classmethod
    def of(cls, task: TaskRequest) -> Payload:
        """The steps of a task. UsageError where they are too long for any way."""
        steps = task_message(task, 0, live=False)["steps"]
        body = frames.encode(steps)
        if len(body) > frames.MAX_MESSAGE - 1024:
            raise UsageError(
                f"the steps of a task hold {len(body)} bytes together; at most {frames.MAX_MESSAGE >> 20} MiB can be "
                "sent at once: upload() large files first"
            )
        return cls(steps, hashlib.sha256(body).hexdigest())


def task_manifest(
    name: str, sandbox: Mapping[str, Any], labels: Mapping[str, str], task: TaskRequest, key: bytes | None = None
) -> tuple[dict[str, Any], Payload | None]:
    """A Task of a sandbox (its metadata), and what has to be given to the agent before it is created.

    ``key`` is that of the holder's proofs, where the sandbox wants them.
    """
    _check(task)
    spec: dict[str, Any] = {"sandboxRef": sandbox["name"], "ttlSecondsAfterFinished": FINISHED_SECONDS}
    if task.timeout is not None:
        spec["timeout"] = go_duration(task.timeout)
    if key is not None:
        spec["proof"] = "0" * 64  # it has its size
    payload = None
    if all(step.fits_object for step in task.steps) and sum(step.words for step in task.steps) <= MOST_WORDS:
        spec["steps"] = [step.to_json() for step in task.steps]
    if "steps" not in spec or go_size(encoded(spec)) > MOST_SPEC_BYTES:
        payload = Payload.of(task)
        spec |= {"steps": [step.described() for step in task.steps], "payloadHash": payload.hash}
    if key is not None:
        spec["proof"] = proof_of(key, sandbox["uid"], name, spec)
    owner = {"apiVersion": API_VERSION, "kind": "Sandbox", "name": sandbox["name"], "uid": sandbox["uid"]}
    metadata = {"name": name, "labels": dict(labels), "ownerReferences": [owner]}
    return {"apiVersion": API_VERSION, "kind": "Task", "metadata": metadata, "spec": spec}, payload


def go_size(body: bytes) -> int:
    """Bytes of JSON as the API server stores it: Go spells these characters out, six bytes each."""
    marks = sum(body.count(mark) for mark in (b"<", b">", b"&"))
    separators = body.count(b"\xe2\x80\xa8") + body.count(b"\xe2\x80\xa9")
    return len(body) + 5 * marks + 3 * separators


def _check(task: TaskRequest) -> None:
    if len(task.steps) > MOST_STEPS:
        raise UsageError(f"a task has {len(task.steps)} steps; a Task has at most {MOST_STEPS}: run several tasks")
    for number, step in enumerate(task.steps, start=1):
        if len(step.name) > _LONGEST_NAME:
            raise UsageError(
                f"step {number}: 'name' has {len(step.name)} characters; a cluster allows {_LONGEST_NAME}: "
                f"{shorten(readable(step.name), 80)!r}"
            )
