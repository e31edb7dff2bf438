"""What is said of a pool whose sandboxes have Secrets or tokens."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl.operator.exposure import exposed, told
from tests.operator.objects import pool

VOLUMES = [
    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "in"}}]}},
    {"name": "secret", "secret": {"secretName": "team-secret"}},
    {"name": "plain", "emptyDir": {}},
]


def with_volumes(*mounted: str, beside: Any = (), **container: Any) -> Any:
    mounts = [{"name": each, "mountPath": f"/{each}"} for each in mounted]
    the_pool = pool(volumeMounts=mounts, **container)
    spec = the_pool["spec"]["template"]["spec"]
    spec["volumes"] = VOLUMES
    spec["serviceAccountName"] = "podmaker"
    spec["containers"] += beside
    return the_pool


@pytest.mark.parametrize(
    ("the_pool", "said"),
    [
        (with_volumes("secret"), "the Secret team-secret (volume secret)"),
        (with_volumes("token"), "a token of the service account podmaker (volume token), the Secret in (volume token)"),
        (
            with_volumes(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
            "the Secret s (variable A)",
        ),
        (
            with_volumes(envFrom=[{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "c"}}]),
            "the Secret all (envFrom)",
        ),
    ],
)
def test_secrets_that_steps_can_read_are_named(the_pool: Any, said: str) -> None:
    assert exposed(the_pool) == f"every step of its sandboxes can read {said}"
    assert [(each["type"], each["status"]) for each in told(the_pool, exposed(the_pool))] == [
        ("ExposesSecrets", "True")
    ]


def test_what_only_another_container_has_is_not_named() -> None:
    beside = {"name": "db", "image": "d", "volumeMounts": [{"name": "secret", "mountPath": "/s"}]}
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}, {"name": "B", "value": "b"}]
    the_pool = with_volumes("plain", beside=[beside], env=env)
    assert exposed(the_pool) == ""
    assert told(the_pool, exposed(the_pool)) == []


def test_a_pool_that_exposed_something_says_when_it_no_longer_does() -> None:
    the_pool = with_volumes("plain")
    the_pool["status"] = {"conditions": [{"type": "ExposesSecrets", "status": "True"}]}
    assert [each["status"] for each in told(the_pool, exposed(the_pool))] == ["False"]
    assert [each["status"] for each in told(the_pool, "")] == ["False"]
