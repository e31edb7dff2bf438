"""The contract's pools as WarmPools: what a template can say of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.installation import Installation, images, installed, pool, shared_folder

__all__ = ["cluster_pools"]

_HOME = {"name": "HOME", "value": "/home/arl"}
_OURS = {
    # As sandboxes on this machine are: an ordinary user, whose own folders are all that can be written.
    "securityContext": {"readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
}


def _volume(name: str, size: str | None = None) -> dict[str, Any]:
    """An emptyDir. In memory it has a size that a full one shows as any disk does; on disk the pod is evicted."""
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size} if size else {}}


def _pools() -> list[dict[str, Any]]:
    image = images()["python"]
    home = {"name": "home", "mountPath": "/home/arl"}
    own = {"env": [_HOME], "volumeMounts": [home], **_OURS}
    furnished = [_HOME, {"name": "GREETING", "value": "hello"}, {"name": "PATH_LIKE", "value": "$HOME/*"}]
    small = pool(
        "small",
        image,
        container={
            **own,
            "volumeMounts": [
                home,
                {"name": "work", "mountPath": "/workspace"},
                {"name": "temporary", "mountPath": "/tmp"},
                {"name": "shared", "mountPath": "/dev/shm"},
            ],
            "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        },
        volumes=[_volume("home", "8Mi"), _volume("work", "8Mi"), _volume("temporary", "8Mi"), _volume("shared", "128Mi")],
    )
    small["spec"]["sandbox"] = {"outputLimit": "64Ki"}
    return [
        pool("default", image, container=own, volumes=[_volume("home")]),
        pool("furnished", image, replicas=1, container={**own, "env": furnished}, volumes=[_volume("home")]),
        small,
    ]


@contextmanager
def cluster_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A namespace that has them. $ARL_TEST_NAMESPACE is one that an operator serves already."""
    prepared = os.environ.get("ARL_TEST_NAMESPACE")
    if prepared:
        yield _applied(Installation(prepared, "", prepared))
    else:
        with installed(shared_folder(tmp_path_factory)) as found:
            yield _applied(found)


def _applied(found: Installation) -> str:
    found.apply(*_pools())
    for each in _pools():
        found.wait("condition=Ready", f"warmpool/{each['metadata']['name']}", seconds=120)
    return found.namespace
