"""What the client takes from a WarmPool."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl import UsageError
from pytest_arl.backends.kubernetes.space import Pool

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
