"""A Sandbox's status, phase by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.cluster import fields
from pytest_arl.cluster.objects import condition, conditions, name, status_of
from pytest_arl.text.timestamps import now

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object
    from pytest_arl.operator.pod_problems import Problem

__all__ = ["bound", "failed", "finished", "pending", "phase", "ready", "says", "terminating"]


def phase(sandbox: Object) -> str:
    """The phase of a Sandbox."""
    return fields.phase(sandbox) or "Pending"


def finished(sandbox: Object) -> bool:
    """True if nothing more runs in it."""
    return phase(sandbox) in ("Failed", "Terminating")


def says(sandbox: Object, status: Object) -> bool:
    """True if the Sandbox says so already."""
    old = status_of(sandbox)
    before, after = (condition({"status": each}, "Ready") for each in (old, status))
    same = all(before.get(part) == after.get(part) for part in ("status", "reason", "message"))
    return same and all(old.get(part) == status.get(part) for part in ("phase", "podName"))


def pending(sandbox: Object, why: Problem) -> Object:
    """It waits for a pod."""
    return {"podName": None, "podIP": None} | _status(sandbox, "Pending", "False", why.reason, why.message)


def bound(sandbox: Object, pod: Object, why: Problem) -> Object:
    """It has a pod, in which nothing answers yet."""
    return {"podName": name(pod), **_status(sandbox, "Bound", "False", why.reason, why.message)}


def ready(sandbox: Object, pod: Object, boot: str, work_dir: str) -> Object:
    """Its agent answers. Who was never told to wait got a pod that was ready before."""
    return {
        "warm": not fields.phase(sandbox),
        "podName": name(pod),
        "podIP": pod["status"]["podIP"],
        "workDir": work_dir,
        "agentBootID": boot,
        **_status(sandbox, "Ready", "True", "AgentReady", ""),
    }


def failed(sandbox: Object, why: Problem) -> Object:
    """The end by a failure: nothing will run in it any more."""
    return _status(sandbox, "Failed", "False", why.reason, why.message)


def terminating(sandbox: Object) -> Object:
    """Somebody deletes it."""
    return _status(sandbox, "Terminating", "False", "Deleted", "it is being deleted")


def _status(sandbox: Object, phase: str, ready: str, reason: str, message: str) -> Object:
    condition = {"type": "Ready", "status": ready, "reason": reason, "message": message}
    return {
        "phase": phase,
        "conditions": conditions(sandbox, [condition], now()),
        "observedGeneration": sandbox["metadata"].get("generation", 1),
    }
