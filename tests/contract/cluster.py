"""The contract's pools as WarmPools: what a template can say of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from textwrap import dedent
from typing import Any

import pytest

from tests.cluster.installation import Installation, images, installed, locked, pool, shared_folder

__all__ = ["cluster_pools"]

Json = dict[str, Any]

_HOME = {"name": "HOME", "value": "/home/arl"}
_OURS = {
    # As sandboxes on this machine are: an ordinary user, whose own folders are all that can be written.
    "securityContext": {"readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
}

_COPY = """
    set -e
    python=$(readlink -f "$(command -v python3)")
    mkdir -p /toolbox/bin /toolbox/lib
    cp "$python" /toolbox/bin/python3
    version=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    cp -r "$version" "/toolbox/lib/$(basename "$version")"
    for file in "$python" "$version"/lib-dynload/*.so; do ldd "$file"; done |
        sed -n 's/.* \\(\\/[^ ]*\\) (.*/\\1/p' | sort -u | while read -r library; do cp -L "$library" /toolbox/lib/; done
    cp -L /lib64/ld-linux-x86-64.so.2 /toolbox/lib/ 2>/dev/null || true
"""
"""Python, its library and what these need, where a pool's image has none: brought by a volume, as a user would."""
_INSTALL = "cp /bin/busybox /toolbox/bin/ && /toolbox/bin/busybox --install -s /toolbox/bin"


def _volume(name: str, size: str | None = None) -> Json:
    """An emptyDir. In memory it has a size that a full one shows as any disk does; on disk the pod is evicted."""
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size} if size else {}}


def _mount(name: str, path: str, **more: Any) -> Json:
    return {"name": name, "mountPath": path, **more}


def _toolbox(found: Installation) -> Json:
    """A folder of a node with programs for sandboxes whose image has none: filled once, mounted by all of them."""
    node = found.get("nodes")["items"][0]["metadata"]["labels"]["kubernetes.io/hostname"]
    path = f"/var/tmp/{found.namespace}-toolbox"
    volume = f"{found.namespace}-toolbox"
    common = {"storageClassName": "", "accessModes": ["ReadWriteMany"]}
    # A pool's template has no hostPath: who manages the cluster gives a folder of the node by a claim.
    found.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": path},
                "claimRef": {"namespace": found.namespace, "name": "toolbox"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "toolbox"},
            "spec": {**common, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
        },
    )
    return {
        "node": {"kubernetes.io/hostname": node},
        "volume": {"name": "toolbox", "persistentVolumeClaim": {"claimName": "toolbox", "readOnly": True}},
        "path": path,
        "claimed": volume,
    }


def _run_on_node(found: Installation, toolbox: Json, name: str, *scripts: tuple[str, str]) -> None:
    """Run shell scripts there, each in the image of that role, one after another."""
    containers = [
        {
            "name": role,
            "image": images()[role],
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", dedent(script)],
            "volumeMounts": [
                _mount("parent", "/parent"),
                _mount("parent", "/toolbox", subPath=os.path.basename(toolbox["path"])),
            ],
        }
        for role, script in scripts
    ]
    parent = {"name": "parent", "hostPath": {"path": os.path.dirname(toolbox["path"])}}
    spec = {
        "restartPolicy": "Never",
        "nodeSelector": toolbox["node"],
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": [parent],
    }
    found.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    found.wait("jsonpath={.status.phase}=Succeeded", f"pod/{name}")
    found.kubectl("delete", "pod", name)


def _take_away(found: Installation, toolbox: Json) -> None:
    """The folder itself, once no pod is left for which kubelet would make it anew."""
    found.kubectl("delete", "sandboxes,warmpools", "--all", "--cascade=foreground", "--timeout=120s")
    found.wait("delete", "pods", "--all", seconds=120)
    found.kubectl("delete", "persistentvolumeclaim/toolbox", f"persistentvolume/{toolbox['claimed']}", "--timeout=60s")
    _run_on_node(found, toolbox, "toolbox-away", ("busybox", f"rm -rf /parent/{os.path.basename(toolbox['path'])}"))


def _bring(found: Json, toolbox: Json, role: str) -> Json:
    """A pool over an image without Python, or without anything: its sandboxes' programs come from that folder."""
    spec = found["spec"]["template"]["spec"]
    executor = spec["containers"][0]
    spec["nodeSelector"] = toolbox["node"]
    spec["volumes"] = [*spec.get("volumes", ()), toolbox["volume"]]
    mounts = [("/toolbox", ""), ("/lib64", "lib")]
    if role == "pause":
        mounts.append(("/bin", "bin"))  # where scripts look for a shell
    executor["volumeMounts"] = [
        *executor.get("volumeMounts", ()),
        *(_mount("toolbox", path, readOnly=True, **({"subPath": part} if part else {})) for path, part in mounts),
    ]
    executor["env"] = [
        *executor.get("env", ()),
        {"name": "PATH", "value": "/toolbox/bin:/usr/bin:/bin"},
        {"name": "LD_LIBRARY_PATH", "value": "/toolbox/lib"},
        {"name": "PYTHONHOME", "value": "/toolbox"},
    ]
    return found


def _pools(role: str, toolbox: Json | None) -> list[Json]:
    image = images()[role]
    home = _mount("home", "/home/arl")
    own: Json = {"env": [_HOME], "volumeMounts": [home], **_OURS}
    furnished = [_HOME, {"name": "GREETING", "value": "hello"}, {"name": "PATH_LIKE", "value": "$HOME/*"}]
    bounded = {"work": ("/workspace", "8Mi"), "temporary": ("/tmp", "8Mi"), "shared": ("/dev/shm", "128Mi")}
    small = pool(
        "small",
        image,
        container={
            **own,
            "volumeMounts": [home, *(_mount(name, path) for name, (path, _) in bounded.items())],
            "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        },
        volumes=[_volume("home", "8Mi"), *(_volume(name, size) for name, (_, size) in bounded.items())],
    )
    small["spec"]["sandbox"] = {"outputLimit": "64Ki"}
    timed = pool("timed", image, replicas=1, container=own, volumes=[_volume("home")])
    timed["spec"]["sandbox"] = {"cpuTime": "2s"}
    found = [
        pool("default", image, replicas=4, container=own, volumes=[_volume("home")]),
        pool("furnished", image, replicas=1, container={**own, "env": furnished}, volumes=[_volume("home")]),
        small,
        timed,
    ]
    if name := os.environ.get("ARL_TEST_GVISOR_CLASS"):
        for each in found:
            each["spec"]["template"]["spec"]["runtimeClassName"] = name
    return found if toolbox is None else [_bring(each, toolbox, role) for each in found]


@contextmanager
def cluster_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A namespace that has them. $ARL_TEST_NAMESPACE is one that an operator serves already, $ARL_TEST_CONTRACT_IMAGE
    the role of the image that they are over: python, or busybox or pause with Python in a volume.
    """
    role = os.environ.get("ARL_TEST_CONTRACT_IMAGE", "python")
    prepared = os.environ.get("ARL_TEST_NAMESPACE")
    with ExitStack() as keep:
        if prepared:
            found = Installation(prepared, "", prepared)
        else:
            found = keep.enter_context(installed(shared_folder(tmp_path_factory)))
        toolbox = None
        if role != "python":
            toolbox = _toolbox(found)
            keep.callback(_take_away, found, toolbox)
            _run_on_node(found, toolbox, "toolbox", ("python", _COPY), ("busybox", _INSTALL))
        pools = _pools(role, toolbox)
        with locked(shared_folder(tmp_path_factory)):  # two at once would each find none, and one be refused
            found.apply(*pools)
        for each in pools:
            found.wait("condition=Ready", f"warmpool/{each['metadata']['name']}", seconds=120)
        yield found.namespace
