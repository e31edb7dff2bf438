"""Rules for a pool's template, each with its reason: it has neither the agent's places nor privileges.

A pool's pods are made by the operator, for somebody who may perhaps make none: no container of theirs has more than the
Pod Security level `baseline` allows, and the executor has less. What the API server refuses by itself is left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.cluster import pod
from pytest_arl.operator.privileges import privilege
from pytest_arl.operator.template_mounts import is_another_ones, refuse_kernels, refuse_mounts, refuse_nested
from pytest_arl.operator.template_shape import HANDLER, HOOKS, POD_AFFINITIES, TemplateInvalid
from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.cluster.objects import Object

__all__ = [
    "FOLDER_VOLUME",
    "OURS",
    "SIDECAR",
    "SPOOL_VOLUME",
    "TMP_VOLUME",
    "WORKSPACE_VOLUME",
    "executor_of",
    "refuse",
]

SIDECAR = "sidecar"
FOLDER_VOLUME, SPOOL_VOLUME, WORKSPACE_VOLUME, TMP_VOLUME = "arl-folder", "arl-spool", "arl-workspace", "arl-tmp"
OURS = frozenset({FOLDER_VOLUME, SPOOL_VOLUME, WORKSPACE_VOLUME, TMP_VOLUME})

_NOT_ON_EXECUTOR = {
    "livenessProbe": "the agent answers for the container: a probe of what is not running would restart it",
    "readinessProbe": "the agent answers for the container",
    "startupProbe": "the agent answers for the container",
    "lifecycle": "the agent is all that runs there; use a step instead",
    "restartPolicy": "the operator starts the agent anew, or ends the sandbox",
    "restartPolicyRules": "the operator starts the agent anew, or ends the sandbox",
}
_NOT_IN_POD = {
    "shareProcessNamespace": "a step could then reach the other containers' processes",
    "hostPID": "a step could then see the node's processes",
    "hostIPC": "a step could then reach the node's shared memory",
    "hostNetwork": "two sandboxes of one node could then not both listen",
    "nodeName": "it goes past the scheduler; use nodeSelector, or affinity",
    "activeDeadlineSeconds": "it would end idle pods; use spec.sandbox.maxLifetimeSeconds",
    "readinessGates": "nothing sets them, so no sandbox would become ready",
}
_NOT_IN_METADATA = {
    "finalizers": "its pods would stay when their sandboxes are gone",
    "ownerReferences": "its pods are the pool's, and then a Sandbox's",
}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def executor_of(spec: Object, *, ours: bool = False) -> Object:
    """The container that the sandbox runs in, of a pool's template or of one that was made of it (``ours``)."""
    others = {SIDECAR, pod.AGENT_CONTAINER} if ours else {SIDECAR}
    containers: list[Object] = [each for each in spec.get("containers") or () if each.get("name") not in others]
    if not containers:
        raise TemplateInvalid("spec.template.spec.containers is empty: it needs one with an image")
    return next((each for each in containers if each.get("name") == pod.EXECUTOR_CONTAINER), containers[0])


def refuse(template: Object, executor: Object, workspace: str) -> None:
    """TemplateInvalid names the first thing that is wrong with a template, and what to do."""
    spec = template["spec"]
    _refuse_metadata(template.get("metadata") or {})
    _refuse_pod(spec)
    _refuse_executor(executor)
    if is_another_ones(workspace):
        raise TemplateInvalid(f"spec.sandbox.workDir is {workspace}, which is not for sandboxes: use another folder")
    refuse_nested(executor, f"container {_shown(executor.get('name'))}", workspace)
    ours = OURS - {each.get("name") for each in spec.get("volumes") or ()}
    for container in _containers(spec):
        where = f"container {_shown(container.get('name'))}"
        if container.get("name") == pod.AGENT_CONTAINER:
            raise TemplateInvalid(f"the name of container {pod.AGENT_CONTAINER} is reserved for the agent: rename it")
        refuse_mounts(container, where, ours)
        _refuse_ports(container, where)
        _refuse_hosts(container, where)
        security = container.get("securityContext") or {}
        if container is executor:  # whose profile is replaced
            security = {name: part for name, part in security.items() if name != "seccompProfile"}
        _refuse_security(security, where)


def _containers(spec: Object) -> Iterator[Object]:
    """All but the one that is left out."""
    yield from (each for each in spec["containers"] if each.get("name") != SIDECAR)
    yield from spec.get("initContainers") or ()


def _refuse_metadata(meta: Object) -> None:
    for field, why in _NOT_IN_METADATA.items():
        if meta.get(field):
            raise TemplateInvalid(f"spec.template.metadata.{field} cannot be used in a pool: {why}")
    for name, value in (meta.get("annotations") or {}).items():
        if name.startswith(_APPARMOR) and value == "unconfined":
            raise TemplateInvalid(
                f"spec.template.metadata.annotations.{_shown(name)} cannot be unconfined: leave it out"
            )


def _refuse_pod(spec: Object) -> None:
    for field, why in _NOT_IN_POD.items():
        if spec.get(field):
            raise TemplateInvalid(f"spec.template.spec.{field} cannot be used in a pool: {why}")
    if (spec.get("priorityClassName") or "").startswith("system-"):
        raise TemplateInvalid(
            "spec.template.spec.priorityClassName: the system's classes displace other pods; use one of your cluster's"
        )
    _refuse_namespaces(spec.get("affinity") or {})
    for volume in spec.get("volumes") or ():
        if volume.get("hostPath") is not None:
            raise TemplateInvalid(
                f"volume {_shown(volume.get('name'))}: hostPath cannot be used in a pool: it belongs to the node; use "
                "a persistentVolumeClaim, which an administrator can bind to a folder of the node"
            )
    security = spec.get("securityContext") or {}
    _refuse_security(security, "spec.template.spec")


def _refuse_namespaces(affinity: Object) -> None:
    """A pod's own terms hold for those that are scheduled later, too: other namespaces' pods would find no node."""
    for kind in POD_AFFINITIES:
        found = affinity.get(kind) or {}
        terms = [*(found.get("requiredDuringSchedulingIgnoredDuringExecution") or ())]
        preferred = found.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [each.get("podAffinityTerm") or {} for each in preferred]
        for term in terms:
            for field in ("namespaces", "namespaceSelector"):
                if term.get(field) is not None:  # {} selects all
                    raise TemplateInvalid(
                        f"spec.template.spec.affinity.{kind}: {field} cannot be used in a pool: it concerns other "
                        "namespaces' pods; without it the pods of this namespace are meant"
                    )


def _refuse_executor(executor: Object) -> None:
    where = f"container {_shown(executor.get('name'))}"
    for field, why in _NOT_ON_EXECUTOR.items():
        if executor.get(field):
            raise TemplateInvalid(f"{where}: {field} cannot be used: {why}")
    if not executor.get("image"):
        raise TemplateInvalid(f"{where} has no image")
    security = executor.get("securityContext") or {}
    for what, wrong in (
        ("allowPrivilegeEscalation", security.get("allowPrivilegeEscalation")),
        ("capabilities.add", (security.get("capabilities") or {}).get("add")),
    ):
        if wrong:
            raise TemplateInvalid(f"{where}: securityContext.{what} cannot be used: sandboxes have no privileges")
    refuse_kernels(executor, where)
    for variable in executor.get("env") or ():
        if (variable.get("name") or "").startswith(pod.PRIVATE_PREFIX):
            raise TemplateInvalid(
                f"{where}: the variable {_shown(variable['name'])} cannot be set: names that begin with "
                f"{pod.PRIVATE_PREFIX} are reserved for the agent; rename it"
            )


def _refuse_ports(container: Object, where: str) -> None:
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            raise TemplateInvalid(
                f"{where}: hostPort cannot be used in a pool: only one sandbox of each node could have it"
            )
        if port.get("containerPort") == pod.PORT:
            raise TemplateInvalid(f"{where}: the port {pod.PORT} is reserved for the agent: use another one")


def _refuse_hosts(container: Object, where: str) -> None:
    """The kubelet itself connects to what a probe or a hook names."""
    for hook, parts in HOOKS.items():
        for found in _hooks(container.get(hook) or {}, parts):
            if any((found.get(kind) or {}).get("host") for kind in HANDLER):
                raise TemplateInvalid(f"{where}: {hook} names a host, to which the node would connect: leave it out")


def _hooks(found: Object, parts: Object) -> Iterator[Object]:
    if parts is HANDLER:
        yield found
    else:
        yield from (found.get(part) or {} for part in parts)


def _refuse_security(security: Object, where: str) -> None:
    """Refuse what the level `baseline` refuses, in any container and for the whole pod."""
    what = privilege(security)
    if what is not None:
        raise TemplateInvalid(
            f"{where}: securityContext.{what} cannot be used in a pool: sandboxes have no privileges, and "
            "neither have containers beside them; run what needs them in a pod of its own"
        )


def _shown(value: object) -> str:
    return one_line(value, 253)
