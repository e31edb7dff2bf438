"""From a pool's template to the pods that run: the agent comes in, privileges go out.

The executor (the container of that name, else the first) keeps its image and loses its command to the agent. A first
container from the agent's image copies the agent into an emptyDir in its postStart hook; kubelet starts the executor
when the hook has ended (0.8 s until the agent listens, an init container took 1.4).
"""

from __future__ import annotations

import copy
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_arl import pod
from pytest_arl.operator.objects import name, uid
from pytest_arl.operator.pooling import GATE
from pytest_arl.operator.trouble import DEFAULT_CONTAINER

if TYPE_CHECKING:
    from pytest_arl.operator.objects import Object

__all__ = [
    "Agent",
    "TemplateInvalid",
    "claim",
    "cold_pod",
    "deployment",
    "executor_of",
    "has_sidecar",
    "pod_template",
    "workspace_of",
]

_SIDECAR = "sidecar"
_FOLDER, _SPOOL, _WORKSPACE, _TMP = "arl-folder", "arl-spool", "arl-workspace", "arl-tmp"
_AGENT_USER = 65532

_NOT_ON_EXECUTOR = {
    "livenessProbe": "the agent answers for the container: a probe of what is not running would restart it",
    "readinessProbe": "the agent answers for the container",
    "startupProbe": "the agent answers for the container",
    "lifecycle": "the agent is all that runs there; use a step instead",
}
_NOT_IN_POD = {
    "shareProcessNamespace": "a step could then reach the other containers' processes",
    "hostPID": "a step could then see the node's processes",
    "hostIPC": "a step could then reach the node's shared memory",
    "hostNetwork": "two sandboxes of one node could then not both listen",
}


class TemplateInvalid(Exception):
    """Why no sandbox can be made of a template: a sentence for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Agent:
    """What the operator adds to every pod.

    Attributes:
        image: of the agent.
        pull_policy: for that image; None leaves it to Kubernetes.
        keys: the value of the variable with the operator's public keys.
    """

    image: str
    pull_policy: str | None
    keys: str


def workspace_of(pool: Object) -> str:
    """Where steps of the pool's sandboxes run."""
    found: str = (pool["spec"].get("sandbox") or {}).get("workDir") or pod.WORKSPACE
    return found


def executor_of(spec: Object, *, ours: bool = False) -> Object:
    """The container that the sandbox runs in, of a pool's template or of one that was made of it (``ours``)."""
    others = {_SIDECAR, pod.AGENT_CONTAINER} if ours else {_SIDECAR}
    containers: list[Object] = [each for each in spec.get("containers") or () if each.get("name") not in others]
    if not containers:
        raise TemplateInvalid("spec.template.spec.containers is empty: it needs one with an image")
    return next((each for each in containers if each.get("name") == pod.EXECUTOR_CONTAINER), containers[0])


def has_sidecar(pool: Object) -> bool:
    """Whether an old manifest brings the ARL's sidecar, whose role the agent has."""
    containers = (pool["spec"]["template"].get("spec") or {}).get("containers") or ()
    return any(each.get("name") == _SIDECAR for each in containers)


def pod_template(pool: Object, agent: Agent, resources: Object | None = None) -> Object:
    """The pod template of a pool's sandboxes; ``resources`` replaces those of the executor."""
    given = pool["spec"]["template"]
    spec = copy.deepcopy(given.get("spec") or {})
    executor = executor_of(spec)
    _refuse(spec, executor)
    others = [each for each in spec["containers"] if each is not executor and each.get("name") != _SIDECAR]
    workspace = workspace_of(pool)
    _refuse_ours(spec)
    volumes = _mount(executor, workspace)
    _refuse_twins(spec, others, volumes)
    _executor(executor, workspace, agent)
    if resources is not None:
        executor["resources"] = resources
    spec |= {
        "containers": [_agent_container(agent), executor, *others],
        "volumes": [*(spec.get("volumes") or ()), *({"name": each, "emptyDir": {}} for each in volumes)],
        "restartPolicy": "Always",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": pod.GRACE_SECONDS,
    }
    meta = given.get("metadata") or {}
    return {
        "metadata": {
            "labels": {**(meta.get("labels") or {}), pod.POOL_LABEL: name(pool)},
            "annotations": {**(meta.get("annotations") or {}), DEFAULT_CONTAINER: executor["name"]},
        },
        "spec": spec,
    }


def deployment(pool: Object, template: Object) -> Object:
    """The Deployment that keeps a pool's idle pods."""
    idle = {pod.POOL_LABEL: name(pool), pod.STATUS_LABEL: pod.STATUS_IDLE}
    gates = [*(template["spec"].get("schedulingGates") or ()), {"name": GATE}]
    meta = template["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name(pool),
            "namespace": pool["metadata"]["namespace"],
            "labels": {pod.POOL_LABEL: name(pool)},
            "ownerReferences": [_owner(pool, controller=True)],
        },
        "spec": {
            "replicas": pool["spec"]["replicas"],
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": idle},
            "template": {
                "metadata": {**meta, "labels": {**meta["labels"], **idle}},
                "spec": {**template["spec"], "schedulingGates": gates},
            },
        },
    }


def cold_pod(sandbox: Object, template: Object, pod_name: str) -> Object:
    """A pod for one sandbox that no idle pod is for."""
    meta = template["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **meta,
            "name": pod_name,
            "namespace": sandbox["metadata"]["namespace"],
            "labels": {**meta["labels"], **_allocated(sandbox)},
            "ownerReferences": [_owner(sandbox, controller=True)],
        },
        "spec": template["spec"],
    }


def claim(sandbox: Object, idle: Object) -> Object:
    """The one patch that makes an idle pod a sandbox's. With labels alone, a Deployment that is deleted right after
    takes the pod along; the resourceVersion lets one of two claims win.
    """
    return {
        "metadata": {
            "resourceVersion": idle["metadata"]["resourceVersion"],
            "labels": _allocated(sandbox),
            "ownerReferences": [_owner(sandbox, controller=True)],
        }
    }


def _allocated(sandbox: Object) -> dict[str, str]:
    """Labels of a pod in use."""
    labels = sandbox["metadata"].get("labels") or {}
    passed = {label: labels[label] for label in (pod.RUN_LABEL, pod.WORKER_LABEL) if label in labels}
    return {pod.STATUS_LABEL: pod.STATUS_ALLOCATED, pod.SANDBOX_LABEL: name(sandbox), **passed}


def _owner(body: Object, *, controller: bool) -> Object:
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "name": name(body),
        "uid": uid(body),
        "controller": controller,
        "blockOwnerDeletion": False,
    }


def _refuse(spec: Object, executor: Object) -> None:
    for field, why in _NOT_IN_POD.items():
        if spec.get(field):
            raise TemplateInvalid(f"spec.template.spec.{field} cannot be used in a pool: {why}")
    for field, why in _NOT_ON_EXECUTOR.items():
        if executor.get(field):
            raise TemplateInvalid(f"container {executor.get('name')}: {field} cannot be used: {why}")
    if not executor.get("image"):
        raise TemplateInvalid(f"container {executor.get('name')} has no image")
    security = executor.get("securityContext") or {}
    capabilities = (security.get("capabilities") or {}).get("add")
    for what, wrong in (
        ("privileged", security.get("privileged")),
        ("allowPrivilegeEscalation", security.get("allowPrivilegeEscalation")),
        ("capabilities.add", capabilities),
    ):
        if wrong:
            raise TemplateInvalid(
                f"container {executor.get('name')}: securityContext.{what} cannot be used: sandboxes have no privileges"
            )


def _refuse_ours(spec: Object) -> None:
    """No container of the template mounts a volume that it does not have, but will."""
    ours = {_FOLDER, _SPOOL, _WORKSPACE, _TMP} - {each.get("name") for each in spec.get("volumes") or ()}
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        for mount in container.get("volumeMounts") or ():
            if mount.get("name") in ours:
                raise TemplateInvalid(
                    f"container {container.get('name')} mounts the volume {mount['name']}, which is the agent's"
                )


def _refuse_twins(spec: Object, others: list[Object], volumes: list[str]) -> None:
    containers = [*others, *(spec.get("initContainers") or ())]
    if any(each.get("name") == pod.AGENT_CONTAINER for each in containers):
        raise TemplateInvalid(f"a container is named {pod.AGENT_CONTAINER}, which is the agent's: rename it")
    for volume in spec.get("volumes") or ():
        if volume.get("name") in volumes:
            raise TemplateInvalid(f"a volume is named {volume['name']}, which is the agent's: rename it")


def _mount(executor: Object, workspace: str) -> list[str]:
    """Mount what the agent needs; the volumes to add."""
    mounts: list[Object] = list(executor.get("volumeMounts") or ())
    taken = {_plain(str(each.get("mountPath", ""))) for each in mounts}
    for path in taken:
        if f"{path}/".startswith((f"{pod.AGENT_FOLDER}/", f"{pod.SPOOL_FOLDER}/")):
            raise TemplateInvalid(f"container {executor.get('name')} mounts something at {path}, which is the agent's")
    added = [(_FOLDER, pod.AGENT_FOLDER, True), (_SPOOL, pod.SPOOL_FOLDER, False)]
    if _plain(workspace) not in taken:
        added.append((_WORKSPACE, workspace, False))
    if (executor.get("securityContext") or {}).get("readOnlyRootFilesystem") and "/tmp" not in taken:  # noqa: S108 - the sandbox's own
        added.append((_TMP, "/tmp", False))  # noqa: S108 - as above
    executor["volumeMounts"] = [
        *mounts,
        *({"name": volume, "mountPath": path, "readOnly": fixed} for volume, path, fixed in added),
    ]
    return [volume for volume, _, _ in added]


def _plain(path: str) -> str:
    """The one way to write a path, for two slashes at its beginning too."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _executor(executor: Object, workspace: str, agent: Agent) -> None:
    executor.setdefault("name", pod.EXECUTOR_CONTAINER)
    executor.pop("args", None)
    executor["command"] = list(pod.AGENT_COMMAND)
    executor["workingDir"] = workspace
    ours: list[Object] = [
        {"name": pod.POD_UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": pod.OPERATOR_KEYS_VARIABLE, "value": agent.keys},
        {"name": pod.WORKSPACE_VARIABLE, "value": workspace},
    ]
    names = {each["name"] for each in ours}
    executor["env"] = [*(each for each in executor.get("env") or () if each.get("name") not in names), *ours]
    executor["securityContext"] = _confined(executor.get("securityContext") or {})


def _confined(security: Object) -> Object:
    found: dict[str, Any] = {
        **security,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    profile = (security.get("seccompProfile") or {}).get("type")
    if profile != "Localhost":
        found["seccompProfile"] = {"type": "RuntimeDefault"}
    return found


def _agent_container(agent: Agent) -> Object:
    found: Object = {
        "name": pod.AGENT_CONTAINER,
        "image": agent.image,
        "command": list(pod.IDLE_COMMAND),
        "lifecycle": {"postStart": {"exec": {"command": list(pod.INSTALL_COMMAND)}}},
        "volumeMounts": [{"name": _FOLDER, "mountPath": pod.INSTALL_FOLDER}],
        # No limit on CPU: it would make the copy, and so every sandbox, slow.
        "resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _AGENT_USER,
            "readOnlyRootFilesystem": True,
            **_confined({}),
        },
    }
    if agent.pull_policy is not None:
        found["imagePullPolicy"] = agent.pull_policy
    return found
