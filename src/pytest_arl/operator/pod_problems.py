"""Reasons why a pod is missing or not ready, in the words of the source: scheduler, kubelet, quota, image registry.

A cause that a person can act on is worth more than «not ready»: these words end up in a Sandbox's condition and in the
exception of whoever waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.cluster.objects import MOST_MESSAGE, condition, is_reason, leaving, name, status_of
from pytest_arl.cluster.pod import EXECUTOR_CONTAINER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_arl.cluster.objects import Object

__all__ = ["DEFAULT_CONTAINER", "Problem", "end_of_pod", "newest_warning", "refused_pod", "trouble_of"]

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""The annotation that names the executor, for kubectl and for us."""

_HARMLESS = {"ContainerCreating", "PodInitializing"}

_NEVER_RAN = {"StartError", "ContainerCannotRun", "ContainerStatusUnknown"}
"""Ends whose message is the runtime's or the kubelet's. Of a container that ran, it is in a file that steps write."""


class Problem(NamedTuple):
    """A CamelCase reason and a sentence."""

    reason: str
    message: str


def trouble_of(pod: Object) -> Problem | None:
    """The problem that keeps a pod from being ready, where its own status says so."""
    status = status_of(pod)
    if status.get("phase") == "Failed":
        return end_of_pod(pod)
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") != "SchedulingGated":
        return _trouble(scheduled.get("reason", "Unschedulable"), scheduled.get("message", ""))
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in _HARMLESS:
            return _trouble(waiting.get("reason", "Waiting"), _of_container(container, waiting.get("message", "")))
    return None


def end_of_pod(pod: Object | None, *, boot_changed: bool = False) -> Problem:
    """The problem of a pod that was in use and no longer works."""
    if pod is None:
        return Problem("PodDeleted", "its pod was deleted")
    status = status_of(pod)
    if status.get("reason"):
        return _trouble(status["reason"], status.get("message") or f"the pod {name(pod)} failed: {status['reason']}")
    disrupted = condition(pod, "DisruptionTarget")
    if disrupted.get("status") == "True":
        return _trouble(disrupted.get("reason", "Disrupted"), disrupted.get("message", ""))
    found = _ended_container(pod)
    if found is not None:
        return found
    if leaving(pod):
        found = Problem("PodDeleted", f"the pod {name(pod)} was deleted")
    elif boot_changed:
        found = Problem("AgentRestarted", f"the agent in the pod {name(pod)} was restarted: what ran in it is gone")
    else:
        found = Problem("AgentLost", f"the agent in the pod {name(pod)} no longer answers")
    return found


def _ended_container(pod: Object) -> Problem | None:
    executor = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER, EXECUTOR_CONTAINER)
    for container in _containers(pod):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated")
            if ended and container.get("name") == executor:
                return _trouble(_reason_of_end(ended), _of_container(container, _words_of_end(ended)))
    return None


def refused_pod(message: str) -> Problem:
    """The reason why the API server did not create a pod."""
    for words, reason in (
        ("exceeded quota", "QuotaExceeded"),
        ("failed quota", "QuotaExceeded"),
        ("violates PodSecurity", "PodSecurityViolated"),
        ("is being terminated", "NamespaceTerminating"),
    ):
        if words in message:
            return _trouble(reason, message)
    return _trouble("PodRefused", message)


def shortened(event: Object) -> Object:
    """An event with what is asked of it: whoever may make events may make them large."""
    times = {key: event[key] for key in ("lastTimestamp", "eventTime") if isinstance(event.get(key), str)}
    words = {key: str(event.get(key) or "")[:MOST_MESSAGE] for key in ("type", "reason", "message")}
    return words | times


def newest_warning(events: Iterable[Object]) -> Problem | None:
    """The latest warning among a pod's events."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    if not warnings:
        return None
    last = max(warnings, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return _trouble(last.get("reason") or "Warning", last.get("message") or "")


def _containers(pod: Object) -> list[Object]:
    status = status_of(pod)
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _of_container(container: Object, text: str) -> str:
    return f"container {container['name']} ({container.get('image', '')}): {text}".rstrip(": ")


def _reason_of_end(ended: Object) -> str:
    reason = ended.get("reason") or "Error"
    return "AgentEnded" if reason in ("Error", "Completed") else str(reason)


def _words_of_end(ended: Object) -> str:
    how = f"killed by signal {ended['signal']}" if ended.get("signal") else f"exit code {ended.get('exitCode')}"
    words = f"{ended.get('reason') or 'ended'}, {how}"
    return f"{words}: {ended['message']}" if ended.get("message") and ended.get("reason") in _NEVER_RAN else words


def _trouble(reason: str, message: str) -> Problem:
    return Problem(reason if is_reason(reason) else "Warning", message[:MOST_MESSAGE])
