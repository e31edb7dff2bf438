"""A tenant of every role in a namespace of its own, and a neighbour in another one."""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pytest_arl import SandboxSession
from tests.cluster.hostile.bystanders import Neighbour
from tests.cluster.hostile.tenants import Tenant, tenant
from tests.cluster.installation import Installation, shared_folder

_PODS = [{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "create", "patch", "delete"]}]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the hostile are.

    Attributes:
        there: kubectl of an administrator in their namespace.
        user: has the role arl-user there.
        pool_admin: has arl-user and arl-pool-admin.
        pod_maker: may make, label and delete pods.
    """

    there: Installation
    user: Tenant
    pool_admin: Tenant
    pod_maker: Tenant


@pytest.fixture(scope="session")
def ground(installation: Installation) -> Iterator[Ground]:
    """The namespace, with the bound on pods that an administrator sets, and its tenants."""
    there = dataclasses.replace(installation, namespace=installation.hostile_namespace)
    quota = {"hard": {"pods": "14"}}
    there.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}, "spec": quota})
    user = tenant(there, "user", role="arl-user")
    pool_admin = tenant(there, "pool-admin", role="arl-user")
    there.make(
        "rolebinding", "makes-pools", "--clusterrole=arl-pool-admin", f"--serviceaccount={there.namespace}:pool-admin"
    )
    pod_maker = tenant(there, "pod-maker", rules=_PODS)
    yield Ground(there, user, pool_admin, pod_maker)
    for each in (user, pool_admin, pod_maker):
        each.close()
    # What has a finalizer would keep the namespace for ever.
    for kind in ("tasks", "sandboxes", "warmpools", "leases", "pods"):
        _free(there, kind)


def _free(there: Installation, kind: str) -> None:
    listed = there.kubectl("get", kind, "-o", "jsonpath={range .items[?(@.metadata.finalizers)]}{.metadata.name} {end}")
    for name in listed.stdout.split():
        there.kubectl("patch", kind, name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}', check=False)
    there.kubectl("delete", kind, "--all", "--wait=false", check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody else is in that namespace: pytest-xdist may give a part of these tests to another worker."""
    with (shared_folder(tmp_path_factory) / "hostile.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")  # while it is open, one sandbox fewer may be in this process
def neighbour(installation: Installation, python_pool: str) -> Iterator[Neighbour]:
    """Somebody who runs tests in the first namespace."""
    with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
        yield Neighbour(session)
