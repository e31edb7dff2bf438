"""Pods from a pool's template: the agent comes in, privileges go out.

The executor (the container of that name, else the first) keeps its image and loses its command to the agent. A first
container from the agent's image copies the agent into an emptyDir in its postStart hook; kubelet starts the executor
when the hook has ended (0.8 s until the agent listens, an init container took 1.4).
"""

from __future__ import annotations

import copy
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_arl.cluster import pod
from pytest_arl.cluster.objects import name, uid
from pytest_arl.operator import slim
from pytest_arl.operator.pod_problems import DEFAULT_CONTAINER
from pytest_arl.operator.pooling import GATE
from pytest_arl.operator.resources import ResourcesInvalid, amount, changed, refuse_small_bounds
from pytest_arl.operator.template_mounts import plain_path
from pytest_arl.operator.template_rules import (
    FOLDER_VOLUME,
    SIDECAR,
    SPOOL_VOLUME,
    TMP_VOLUME,
    WORKSPACE_VOLUME,
    executor_of,
    refuse,
)
from pytest_arl.operator.template_shape import TemplateInvalid, refuse_shape

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object

__all__ = [
    "Agent",
    "TemplateInvalid",
    "claim",
    "cold_pod",
    "deployment",
    "executor_of",
    "has_sidecar",
    "own_resources",
    "pod_template",
    "resources_for",
    "with_resources",
    "workspace_of",
]

_BOUNDED_VOLUMES = frozenset(("name", "emptyDir", "configMap", "secret", "projected", "downwardAPI"))
"""Keys of a volume on the node's disk or in memory; any other may hold larger files than its node does."""

_AGENT_USER = 65532
_TOKEN_BYTES = 16
_OWN_PREFIX = pod.POOL_LABEL.partition("/")[0] + "/"
_KUBELETS_PREFIX = "KUBERNETES_"


@dataclass(frozen=True, slots=True)
class Agent:
    """Parts that the operator adds to every pod.

    Attributes:
        image: of the agent.
        pull_policy: for that image; None leaves it to Kubernetes.
        keys: the value of the variable with the operator's public keys.
        secret: by which a pool's folder for the agent cannot be guessed.
    """

    image: str
    pull_policy: str | None
    keys: str
    secret: bytes

    def folder(self, pool: Object) -> str:
        """The folder of the agent in the sandboxes of a pool."""
        token = hmac.digest(self.secret, b"arl-folder-v1\0" + uid(pool).encode(), "sha256")[:_TOKEN_BYTES].hex()
        return pod.agent_folder(token)


def workspace_of(pool: Object) -> str:
    """The container in which steps of the pool's sandboxes run."""
    found: str = (pool["spec"].get("sandbox") or {}).get("workDir") or pod.WORKSPACE
    return found


def has_sidecar(pool: Object) -> bool:
    """True if an old manifest brings the ARL's sidecar, whose job the agent does."""
    containers = _well_shaped(pool)["spec"].get("containers") or ()
    return any(each.get("name") == SIDECAR for each in containers)


def own_resources(pool: Object) -> Object:
    """Resources of the executor in the pool's template. TemplateInvalid where it is none."""
    found: Object = executor_of(_well_shaped(pool)["spec"]).get("resources") or {}
    return found


def resources_for(asked: object, own: Object, pool: Object) -> Object:
    """The executor's resources for a Sandbox that asks for these. ResourcesInvalid where it cannot have them."""
    return changed(asked, own, _most(pool), name(pool))


def pod_template(pool: Object, agent: Agent) -> Object:
    """The pod template of a pool's sandboxes. TemplateInvalid where there is none."""
    if slim.is_too_large(pool):
        raise TemplateInvalid(f"spec.template is larger than {slim.MOST_TEMPLATE // 1024} KiB: mount what is large")
    given = copy.deepcopy(_well_shaped(pool))
    spec, meta = given["spec"], given["metadata"]
    executor = executor_of(spec)
    workspace = workspace_of(pool)
    refuse(given, executor, workspace)
    try:
        refuse_small_bounds(executor.get("resources") or {}, _most(pool))
    except ResourcesInvalid as problem:
        raise TemplateInvalid(str(problem)) from None
    others = [each for each in spec["containers"] if each is not executor and each.get("name") != SIDECAR]
    folder = agent.folder(pool)
    volumes = _mount(executor, workspace, folder)
    _refuse_twins(spec, volumes)
    _executor(executor, workspace, folder, agent)
    # Said where there is none, as for the names that are kept.
    executor["env"].append({"name": pod.FILE_BYTES_VARIABLE, "value": str(_largest_file(spec, executor) or "")})
    for each in (*others, *(spec.get("initContainers") or ())):
        each["securityContext"] = _without_raw(each.get("securityContext") or {})
    spec |= {
        "containers": [_agent_container(agent), executor, *others],
        "volumes": [*(spec.get("volumes") or ()), *({"name": each, "emptyDir": {}} for each in volumes)],
        "restartPolicy": "Always",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": pod.GRACE_SECONDS,
    }
    return {
        "metadata": {
            "labels": {**_of_others(meta.get("labels")), pod.POOL_LABEL: name(pool)},
            "annotations": {**_of_others(meta.get("annotations")), DEFAULT_CONTAINER: executor["name"]},
        },
        "spec": spec,
    }


def with_resources(template: Object, asked: Object | None, pool: Object) -> Object:
    """The pool's pod template for a Sandbox that asks for these resources; what is not theirs is the same object.

    ResourcesInvalid where it cannot have them.
    """
    if asked is None:
        return template
    spec = template["spec"]
    executor = executor_of(spec, ours=True)
    changed = {**executor, "resources": resources_for(asked, executor.get("resources") or {}, pool)}
    containers = [changed if each is executor else each for each in spec["containers"]]
    return {**template, "spec": {**spec, "containers": containers}}


def _of_others(given: Object | None) -> Object:
    """Labels or annotations but for those by which the operator knows its pods."""
    return {label: value for label, value in (given or {}).items() if not label.startswith(_OWN_PREFIX)}


def _well_shaped(pool: Object) -> Object:
    """The pool's template with its two parts. TemplateInvalid where it is none: the API server takes anything there."""
    given = pool["spec"]["template"]
    refuse_shape(given)
    return {"metadata": given.get("metadata") or {}, "spec": given.get("spec") or {}}


def _most(pool: Object) -> Object:
    """The pool's bounds on resources of a Sandbox, where it has any."""
    return (pool["spec"].get("sandbox") or {}).get("maxResources") or {}


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


def _refuse_twins(spec: Object, volumes: list[str]) -> None:
    for volume in spec.get("volumes") or ():
        if volume.get("name") in volumes:
            raise TemplateInvalid(f"the name of volume {volume['name']} is reserved for the agent: rename it")


def _mount(executor: Object, workspace: str, folder: str) -> list[str]:
    """Mount what the agent needs; the volumes to add."""
    mounts: list[Object] = list(executor.get("volumeMounts") or ())
    taken = {plain_path(each.get("mountPath") or "") for each in mounts}
    added = [(FOLDER_VOLUME, folder, True), (SPOOL_VOLUME, pod.SPOOL_FOLDER, False)]
    if plain_path(workspace) not in taken:
        added.append((WORKSPACE_VOLUME, workspace, False))
    if (executor.get("securityContext") or {}).get("readOnlyRootFilesystem") and "/tmp" not in taken:  # noqa: S108 - the sandbox's own
        added.append((TMP_VOLUME, "/tmp", False))  # noqa: S108 - as above
    executor["volumeMounts"] = [
        *mounts,
        *({"name": volume, "mountPath": path, "readOnly": fixed} for volume, path, fixed in added),
    ]
    return [volume for volume, _, _ in added]


def _executor(executor: Object, workspace: str, folder: str, agent: Agent) -> None:
    executor.setdefault("name", pod.EXECUTOR_CONTAINER)
    executor.pop("args", None)
    executor["command"] = list(pod.agent_command(folder))
    executor["workingDir"] = workspace
    env: list[Object] = executor.get("env") or []
    kept = sorted(each["name"] for each in env if (each.get("name") or "").startswith(_KUBELETS_PREFIX))
    executor["env"] = [
        *env,
        {"name": pod.POD_UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": pod.OPERATOR_KEYS_VARIABLE, "value": agent.keys},
        # Two are one: else Kubernetes puts a variable's value in place of $(NAME).
        {"name": pod.WORKSPACE_VARIABLE, "value": workspace.replace("$", "$$")},
        {"name": pod.KEPT_VARIABLE, "value": " ".join(kept)},  # said where there is none: else the image's own counts
    ]
    # The file is writable by steps, and is mounted wherever the template says: not over what is the agent's.
    executor["terminationMessagePath"] = "/dev/termination-log"
    executor["terminationMessagePolicy"] = "File"
    executor["securityContext"] = _confined(executor.get("securityContext") or {})


def _largest_file(spec: Object, executor: Object) -> int | None:
    """Bytes of the largest file that a step can write without its pod being evicted; None where that is not known."""
    limit = amount(((executor.get("resources") or {}).get("limits") or {}).get("ephemeral-storage"))
    volumes = [each for each in spec.get("volumes") or () if isinstance(each, dict)]
    if limit is None or any(set(each) - _BOUNDED_VOLUMES for each in volumes):
        return None
    sizes = [amount((each.get("emptyDir") or {}).get("sizeLimit")) for each in volumes]
    return int(max([limit, *(size for size in sizes if size is not None)]))


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


def _without_raw(security: Object) -> Object:
    """Drop NET_RAW beside the executor. Runtimes give it to each container: one could read what the operator and the
    holder send to the agent, over the network that a pod's containers share.
    """
    capabilities = security.get("capabilities") or {}
    drop = capabilities.get("drop") or []
    kept = drop if {"ALL", "NET_RAW"} & set(drop) else [*drop, "NET_RAW"]
    return {**security, "capabilities": {**capabilities, "drop": kept}}


def _agent_container(agent: Agent) -> Object:
    found: Object = {
        "name": pod.AGENT_CONTAINER,
        "image": agent.image,
        "command": list(pod.IDLE_COMMAND),
        "lifecycle": {"postStart": {"exec": {"command": list(pod.INSTALL_COMMAND)}}},
        "volumeMounts": [{"name": FOLDER_VOLUME, "mountPath": pod.INSTALL_FOLDER}],
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
