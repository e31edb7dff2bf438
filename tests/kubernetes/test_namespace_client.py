"""What the client takes from a WarmPool."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pytest_arl import BackendUnavailable, UsageError
from pytest_arl.backends.kubernetes import namespace_client
from pytest_arl.backends.kubernetes.api import Api
from pytest_arl.backends.kubernetes.namespace_client import NamespaceClient, Pool
from pytest_arl.cluster.kinds import path
from tests.kubernetes.fake import FakeApi

GI = 2**30


def warm_pool(sandbox: dict[str, Any] | None = None, **sizes: str | int | None) -> dict[str, Any]:
    """One with volumes of those sizes at the paths of ``workspace`` and ``tmp``; None is a volume without a size."""
    paths = {"workspace": "/workspace", "tmp": "/tmp"}
    executor = {
        "name": "executor",
        "image": "i",
        "volumeMounts": [{"name": name, "mountPath": paths[name]} for name in sizes],
    }
    volumes = [{"name": name, "emptyDir": {"sizeLimit": size} if size else {}} for name, size in sizes.items()]
    spec: dict[str, Any] = {
        "replicas": 1,
        "template": {"spec": {"containers": [executor], "volumes": volumes}},
    }
    return {"metadata": {"name": "p"}, "spec": spec | ({} if sandbox is None else {"sandbox": sandbox})}


def test_what_is_kept_is_what_the_pool_says() -> None:
    assert Pool.read(warm_pool({"kept": "5Mi"})).kept == 5 * 2**20
    assert Pool.read(warm_pool({"kept": "5Mi"}, workspace="1Gi", tmp="1Gi")).kept == 5 * 2**20
    assert Pool.read(warm_pool({"kept": "0"})).kept == 0


def test_where_it_does_not_say_it_is_four_times_what_a_sandbox_can_hold() -> None:
    assert Pool.read(warm_pool(workspace="1Gi", tmp="512Mi")).kept == 6 * GI
    assert Pool.read(warm_pool({"outputLimit": "1Ki"}, workspace=GI, tmp="8Gi")).kept == 36 * GI


@pytest.mark.parametrize(
    "sizes",
    [{}, {"workspace": "1Gi"}, {"tmp": "1Gi"}, {"workspace": "1Gi", "tmp": None}, {"workspace": "1e9", "tmp": "1Gi"}],
)
def test_where_that_is_not_known_it_is_16_gi(sizes: dict[str, str | int | None]) -> None:
    assert Pool.read(warm_pool(None, **sizes)).kept == 16 * GI


@pytest.mark.parametrize("field", ["kept", "outputLimit"])
def test_a_size_that_is_none_is_named(field: str) -> None:
    with pytest.raises(UsageError, match=rf"^spec\.sandbox\.{field} must be bytes or a size such as .*, not 'lots'$"):
        Pool.read(warm_pool({field: "lots"}))


def test_what_is_shown_of_a_pool_shows_nothing_else() -> None:
    body = warm_pool()
    template = body["spec"]["template"]["spec"]
    template["runtimeClassName"] = "gvisor\x1b[2K\r\n===== 12 passed ====="
    template["containers"][0]["resources"] = {"limits": {"memory": "1Gi\x1b[2K\n"}}
    pool = Pool.read(body)
    assert pool.isolation.startswith("pod+gvisor")
    assert pool.isolation.isprintable()
    assert pool.limits["memory"].isprintable()


@pytest.mark.parametrize(
    "template", [{"spec": {"containers": ["x"]}}, {"spec": [1]}, [1], {"spec": {"containers": [{"volumeMounts": [1]}]}}]
)
def test_a_template_that_is_none_is_told_with_the_pools_name(api: Api, fake: FakeApi, template: Any) -> None:
    body = {"spec": {"replicas": 1, "template": template}, "status": {"taskKey": "00"}}
    fake.put(path("warmpools", "n", "odd"), body)
    with pytest.raises(BackendUnavailable, match=r"'odd'.* not a pod template"):
        NamespaceClient(api, "n", "run").pool("odd")


def test_a_new_pool_is_waited_for_until_its_operator_has_seen_it(api: Api, fake: FakeApi) -> None:
    """Before that it has published no key, and a Task would have no proof."""
    where = path("warmpools", "n", "new")
    body = warm_pool()
    fake.put(where, body)
    key = f"{(1 << 2047) + 1:x}"
    later = threading.Timer(0.3, lambda: fake.put(where, body | {"status": {"taskKey": key}}))
    later.start()
    assert NamespaceClient(api, "n", "run").pool("new").task_key == int(key, 16)


def test_a_pool_that_no_operator_has_looked_at_gives_no_sandbox_to_everybody(
    api: Api, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its key, a Sandbox is held by nobody: each Task of the namespace is run in it."""
    monkeypatch.setattr(namespace_client, "_FIRST_STATUS_SECONDS", 0.3)
    fake.put(path("warmpools", "n", "new"), warm_pool())
    with pytest.raises(BackendUnavailable, match="no operator has looked at pool 'new'"):
        NamespaceClient(api, "n", "run").pool("new")


@pytest.mark.parametrize(("asked", "output"), [("1Ki", 1024), ("1Pi", 1 << 50), ("9999999999999Ti", 1 << 50)])
def test_no_more_of_an_output_is_asked_for_than_an_agent_is_told(asked: str, output: int) -> None:
    body = warm_pool()
    body["spec"]["sandbox"] = {"outputLimit": asked}
    assert Pool.read(body).output == output
