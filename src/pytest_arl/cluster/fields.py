"""Fields of WarmPools, Sandboxes and Tasks, as client, operator and command line read them.

The objects are plain dicts, as the API server has them. A spec has passed its schema. Of a status, which whoever may
write it has written, only values of the right type are taken; the others are as good as not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import Key, key, status_of
from pytest_arl.text.timestamps import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pytest_arl.cluster.objects import Object

__all__ = [
    "boot_id",
    "has_begun",
    "holder",
    "is_over",
    "last_task_time",
    "phase",
    "pod_name",
    "pool_of",
    "sandbox_defaults",
    "sandbox_of",
    "state",
    "task_key",
    "warm",
]


def _text(part: Mapping[str, Any], name: str) -> str:
    found = part.get(name)
    return found if isinstance(found, str) else ""


# WarmPools


def sandbox_defaults(pool: Object | None) -> Object:
    """Defaults for a pool's sandboxes; nothing where it is not there."""
    return ((pool or {}).get("spec") or {}).get("sandbox") or {}


def task_key(pool: Object) -> str:
    """The RSA modulus that clients seal their keys for; empty where its operator has published none."""
    return _text(status_of(pool), "taskKey")


# Sandboxes


def pool_of(sandbox: Object) -> Key:
    """The pool that a Sandbox wants a pod of."""
    return Key(key(sandbox).namespace, sandbox["spec"]["poolRef"])


def holder(sandbox: Object | None) -> Object:
    """The holder of a Sandbox; empty where it has none."""
    return ((sandbox or {}).get("spec") or {}).get("holder") or {}


def phase(sandbox: Object | None) -> str:
    """The phase of a Sandbox; empty where the operator has not said anything yet."""
    return _text(status_of(sandbox), "phase")


def pod_name(sandbox: Object | None) -> str:
    """The pod that a Sandbox has; empty where it has none."""
    return _text(status_of(sandbox), "podName")


def boot_id(sandbox: Object | None) -> str:
    """The start of the agent that a Sandbox was made ready with; empty before."""
    return _text(status_of(sandbox), "agentBootID")


def warm(sandbox: Object | None) -> bool:
    """True if a Sandbox got a pod that was ready before. An older operator does not say so."""
    return status_of(sandbox).get("warm") is True


def last_task_time(sandbox: Object) -> float | None:
    """The time when a Task last ended in a Sandbox (seconds since the epoch), as far as it was written."""
    return parse_timestamp(status_of(sandbox).get("lastTaskTime"))


# Tasks


def sandbox_of(task: Object) -> Key:
    """The Sandbox that a Task is to run in."""
    return Key(key(task).namespace, task["spec"]["sandboxRef"])


def state(task: Object | None) -> str:
    """The state of a Task; empty where the operator has not said anything yet."""
    return _text(status_of(task), "state")


def has_begun(task: Object | None) -> bool:
    """True if the agent has taken a Task, or never will."""
    return state(task) in ("Running", "Succeeded", "Failed")


def is_over(task: Object | None) -> bool:
    """True if a Task has ended."""
    return state(task) in ("Succeeded", "Failed")
