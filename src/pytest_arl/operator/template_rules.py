"""Rules for a pool's template, each with its reason: it has neither the agent's places nor privileges.

A pool's pods are made by the operator, for somebody who may perhaps make none: no container of theirs has more than the
Pod Security level `baseline` allows, and the executor has less. What the API server refuses by itself is left to it.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

from pytest_arl import pod
from pytest_arl.operator.privileges import privilege
from pytest_arl.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.operator.objects import Object

__all__ = [
    "FOLDER_VOLUME",
    "OURS",
    "SIDECAR",
    "SPOOL_VOLUME",
    "TMP_VOLUME",
    "WORKSPACE_VOLUME",
    "TemplateInvalid",
    "executor_of",
    "plain_path",
    "refuse",
    "refuse_shape",
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
    "readinessGates": "nobody opens them, so that no sandbox would ever be ready",
}
_NOT_IN_METADATA = {
    "finalizers": "its pods would stay when their sandboxes are gone",
    "ownerReferences": "its pods are the pool's, and then a Sandbox's",
}
_KERNEL_FOLDERS = ("/proc", "/sys")
_A_POOLS_FOLDER = re.compile(re.escape(pod.agent_folder("")) + "[0-9a-f]{32}(/|$)")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_PROFILE = {"type": str}
_SECURITY = {
    "capabilities": {"add": [str], "drop": [str]},
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
    "seLinuxOptions": {"type": str, "user": str, "role": str},
    "windowsOptions": {},
    "procMount": str,
}
_HANDLER: dict[str, Any] = {"httpGet": {}, "tcpSocket": {}}
_HOOKS = {
    "livenessProbe": _HANDLER,
    "readinessProbe": _HANDLER,
    "startupProbe": _HANDLER,
    "lifecycle": {"postStart": _HANDLER, "preStop": _HANDLER},
}
_CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str}],
    "ports": [{}],
    "resources": {"limits": {}, "requests": {}},
    "securityContext": _SECURITY,
    "terminationMessagePath": str,
    "volumeDevices": [{"name": str, "devicePath": str}],
    "volumeMounts": [{"name": str, "mountPath": str}],
    **_HOOKS,
}
_TEMPLATE = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "priorityClassName": str,
        "schedulingGates": [{"name": str}],
        "securityContext": {**_SECURITY, "sysctls": [{"name": str}]},
        "volumes": [{"name": str}],
    },
}
"""As far as the operator itself looks: a mapping, a list of these, or a type. The API server does the rest."""


class TemplateInvalid(Exception):
    """The reason for refusing a template: a sentence for its author."""


def refuse_shape(template: object) -> None:
    """TemplateInvalid where a field is a list that should be a mapping, and so on."""
    _refuse_shape(template, _TEMPLATE, "spec.template")


def executor_of(spec: Object, *, ours: bool = False) -> Object:
    """The container that the sandbox runs in, of a pool's template or of one that was made of it (``ours``)."""
    others = {SIDECAR, pod.AGENT_CONTAINER} if ours else {SIDECAR}
    containers: list[Object] = [each for each in spec.get("containers") or () if each.get("name") not in others]
    if not containers:
        raise TemplateInvalid("spec.template.spec.containers is empty: it needs one with an image")
    return next((each for each in containers if each.get("name") == pod.EXECUTOR_CONTAINER), containers[0])


def plain_path(path: str) -> str:
    """The one way to write a path, for two slashes at its beginning too."""
    return "/" + posixpath.normpath(path).lstrip("/")


def refuse(template: Object, executor: Object, workspace: str) -> None:
    """TemplateInvalid names the first thing that is wrong with a template, and what to do."""
    spec = template["spec"]
    _refuse_metadata(template.get("metadata") or {})
    _refuse_pod(spec)
    _refuse_executor(executor)
    if _is_the_agents(workspace) or _within(workspace, *_KERNEL_FOLDERS):
        raise TemplateInvalid(f"spec.sandbox.workDir is {workspace}, which is not a sandbox's: use another folder")
    for container in _containers(spec):
        where = f"container {_shown(container.get('name'))}"
        if container.get("name") == pod.AGENT_CONTAINER:
            raise TemplateInvalid(f"a container is named {pod.AGENT_CONTAINER}, which is the agent's: rename it")
        _refuse_mounts(container, where, OURS - {each.get("name") for each in spec.get("volumes") or ()})
        _refuse_ports(container, where)
        _refuse_hosts(container, where)
        security = container.get("securityContext") or {}
        if container is executor:  # whose profile is replaced
            security = {name: part for name, part in security.items() if name != "seccompProfile"}
        _refuse_security(security, where)


def _refuse_shape(value: object, shape: Any, field: str) -> None:
    if value is None:
        return
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise TemplateInvalid(f"{field} is not a mapping")
        for name, part in shape.items():
            _refuse_shape(value.get(name), part, f"{field}.{name}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or None in value:
            raise TemplateInvalid(f"{field} is not a list of {'texts' if shape[0] is str else 'mappings'}")
        for number, each in enumerate(value):
            _refuse_shape(each, shape[0], f"{field}[{number}]")
    elif type(value) is not shape:
        raise TemplateInvalid(f"{field} is not a text")


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
    for volume in spec.get("volumes") or ():
        if volume.get("hostPath") is not None:
            raise TemplateInvalid(
                f"volume {_shown(volume.get('name'))}: hostPath cannot be used in a pool: it is the node's; use a "
                "persistentVolumeClaim, which whoever manages the cluster can bind to a folder of the node"
            )
    security = spec.get("securityContext") or {}
    _refuse_security(security, "spec.template.spec")


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
    for path in _paths(executor):
        if _within(path, *_KERNEL_FOLDERS):
            raise TemplateInvalid(
                f"{where} mounts something at {_shown(path)}, which is the kernel's: use another folder"
            )
    for variable in executor.get("env") or ():
        if (variable.get("name") or "").startswith(pod.PRIVATE_PREFIX):
            raise TemplateInvalid(
                f"{where}: the variable {_shown(variable['name'])} cannot be set: no step sees what begins with "
                f"{pod.PRIVATE_PREFIX}, which is the agent's; rename it"
            )


def _refuse_mounts(container: Object, where: str, ours: frozenset[str]) -> None:
    for mount in (*(container.get("volumeMounts") or ()), *(container.get("volumeDevices") or ())):
        if mount.get("name") in ours:
            raise TemplateInvalid(f"{where} mounts the volume {mount['name']}, which is the agent's")
    for path in _paths(container):
        if _is_the_agents(path):
            raise TemplateInvalid(f"{where} mounts something at {_shown(path)}, which is the agent's")


def _paths(container: Object) -> Iterator[str]:
    """Where something of the template comes to lie over the container's own files."""
    for mount in container.get("volumeMounts") or ():
        yield plain_path(mount.get("mountPath") or "")
    for device in container.get("volumeDevices") or ():
        yield plain_path(device.get("devicePath") or "")
    if container.get("terminationMessagePath"):
        yield plain_path(container["terminationMessagePath"])


def _is_the_agents(path: str) -> bool:
    """True for a path in a folder of the agent's, that of any pool included."""
    return _within(path, pod.AGENT_FOLDER, pod.SPOOL_FOLDER) or _A_POOLS_FOLDER.match(plain_path(path)) is not None


def _within(path: str, *folders: str) -> bool:
    return f"{plain_path(path)}/".startswith(tuple(f"{folder}/" for folder in folders))


def _refuse_ports(container: Object, where: str) -> None:
    for port in container.get("ports") or ():
        if port.get("hostPort"):
            raise TemplateInvalid(
                f"{where}: hostPort cannot be used in a pool: it is the node's, and one sandbox of a node would have it"
            )
        if port.get("containerPort") == pod.PORT:
            raise TemplateInvalid(f"{where}: the port {pod.PORT} is the agent's: use another one")


def _refuse_hosts(container: Object, where: str) -> None:
    """The kubelet itself connects to what a probe or a hook names."""
    for hook, parts in _HOOKS.items():
        for found in _hooks(container.get(hook) or {}, parts):
            if any((found.get(kind) or {}).get("host") for kind in _HANDLER):
                raise TemplateInvalid(f"{where}: {hook} names a host, to which the node would connect: leave it out")


def _hooks(found: Object, parts: Object) -> Iterator[Object]:
    if parts is _HANDLER:
        yield found
    else:
        yield from (found.get(part) or {} for part in parts)


def _refuse_security(security: Object, where: str) -> None:
    """Refuse what the level `baseline` refuses, in any container and for the whole pod."""
    what = privilege(security)
    if what is not None:
        raise TemplateInvalid(
            f"{where}: securityContext.{what} cannot be used in a pool: sandboxes have no privileges, nor has what "
            "runs beside them; what needs them runs in a pod of its own"
        )


def _shown(value: object) -> str:
    return shown(value, 253)
