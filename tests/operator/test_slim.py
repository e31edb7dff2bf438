"""What is kept of an object, just below and just above each bound."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.slim import MOST_REFERENCES, MOST_TEMPLATE, is_too_large, slim, weight
from pytest_arl.operator.template import Agent, TemplateInvalid, pod_template
from tests.operator.objects import owned_by, pod, pool, sandbox, task


def test_weight_is_about_what_python_takes() -> None:
    assert 700_000 < weight(["x" * 700_000]) < 701_000
    assert 1_000_000 < weight([{}] * 20_000) < 2_000_000


def test_nesting_without_an_end_is_heavy_and_ends() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert weight(deep) > MOST_TEMPLATE


@pytest.mark.parametrize("kind", ["ownerReferences", "finalizers"])
def test_an_object_with_too_many_references_counts_as_having_none(kind: str) -> None:
    body = sandbox()
    body["metadata"][kind] = owned_by("Lease", "u") * MOST_REFERENCES
    assert len(slim("sandboxes", body)["metadata"][kind]) == MOST_REFERENCES
    body["metadata"][kind] = owned_by("Lease", "u") * (MOST_REFERENCES + 1)
    assert kind not in slim("sandboxes", body)["metadata"]


def test_annotations_are_kept_of_pods_only_and_ours_only() -> None:
    for kind, body in (("sandboxes", sandbox()), ("pods", pod("p"))):
        body["metadata"] |= {"annotations": {"a": "b", CLAIM: "c"}, "managedFields": [{}]}
        kept = slim(kind, body)["metadata"]
        assert kept.get("annotations") == ({CLAIM: "c"} if kind == "pods" else None)
        assert "managedFields" not in kept
        assert "managedFields" in body["metadata"]


def test_a_template_that_is_too_large_is_refused_with_a_sentence() -> None:
    def made(size: int) -> Any:
        found = pool()
        found["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": ""}]
        room = size - weight(found["spec"]["template"])
        found["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "X", "value": "x" * room}]
        return slim("warmpools", found)

    agent = Agent("agent:1", None, "", b"secret")
    assert not is_too_large(made(MOST_TEMPLATE))
    assert pod_template(made(MOST_TEMPLATE), agent)
    assert is_too_large(made(MOST_TEMPLATE + 1))
    with pytest.raises(TemplateInvalid, match="larger than 256 KiB"):
        pod_template(made(MOST_TEMPLATE + 1), agent)


@pytest.mark.parametrize("kind", ["pods", "sandboxes", "tasks", "leases", "warmpools"])
def test_of_labels_ours_are_kept(kind: str) -> None:
    body = {"pods": pod("p"), "sandboxes": sandbox(), "tasks": task(), "warmpools": pool()}.get(
        kind, {"metadata": {"name": "l", "namespace": "ns", "uid": "u"}, "spec": {}}
    )
    many = {f"example.com/{number}": "x" for number in range(50_000)}
    body["metadata"]["labels"] = {"arl.infra.io/run": "r", "arl.infra.iox/a": "b", **many}
    assert slim(kind, body)["metadata"]["labels"] == {"arl.infra.io/run": "r"}
