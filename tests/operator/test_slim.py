"""What is kept of an object, just below and just above each bound."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.slim import (
    LEGACY_FINALIZER,
    MOST_POD,
    MOST_REFERENCES,
    MOST_TEMPLATE,
    is_too_large,
    slim,
    weight,
)
from pytest_arl.operator.template import Agent, TemplateInvalid, pod_template
from tests.operator.objects import owned_by, pod, pool, sandbox, task


def test_weight_is_about_what_python_takes() -> None:
    assert 700_000 < weight(["x" * 700_000]) < 701_000
    assert 2_800_000 < weight(["\U0001f600" * 700_000]) < 2_801_000
    assert 1_000_000 < weight([{}] * 20_000) < 2_000_000


def test_nesting_without_an_end_is_heavy_and_ends() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert weight(deep) > MOST_TEMPLATE


def test_an_object_with_too_many_owners_counts_as_having_none() -> None:
    body = sandbox()
    body["metadata"]["ownerReferences"] = owned_by("Lease", "u") * MOST_REFERENCES
    assert len(slim("sandboxes", body)["metadata"]["ownerReferences"]) == MOST_REFERENCES
    body["metadata"]["ownerReferences"] = owned_by("Lease", "u") * (MOST_REFERENCES + 1)
    assert "ownerReferences" not in slim("sandboxes", body)["metadata"]


LONG = "\U0001f600" + "a" * 340_000


@pytest.mark.parametrize(
    "reference",
    [
        {"name": LONG},
        {"uid": LONG},
        {"apiVersion": f"coordination.k8s.io/{LONG}"},
        {"kind": LONG},
        {"apiVersion": "x.y/v1"},
        {"kind": "Nope"},
        {"name": "a" * 254},
    ],
    ids=["name", "uid", "group", "kind", "another group", "another kind", "one too long"],
)
def test_of_owners_those_are_kept_that_are_asked_for(reference: dict[str, str]) -> None:
    """The API server bounds no text in a reference."""
    body = sandbox()
    (good,) = owned_by("Lease", "u")
    body["metadata"]["ownerReferences"] = [{**good, **reference, "x": "y"}, {**good, "name": "a" * 253}]
    assert slim("sandboxes", body)["metadata"]["ownerReferences"] == [{**good, "name": "a" * 253}]


def test_of_finalizers_the_one_that_is_looked_for() -> None:
    body = sandbox()
    body["metadata"]["finalizers"] = ["a/b"] * 10_000
    assert "finalizers" not in slim("sandboxes", body)["metadata"]
    body["metadata"]["finalizers"].append(LEGACY_FINALIZER)
    assert slim("sandboxes", body)["metadata"]["finalizers"] == [LEGACY_FINALIZER]


def test_of_a_lease_what_is_read_while_it_is_short() -> None:
    meta = {"name": "arl-l", "namespace": "ns", "uid": "u", "resourceVersion": "3", "x": LONG}
    spec = {"holderIdentity": "h" * 253, "leaseDurationSeconds": 5, "renewTime": "t", "strategy": LONG}
    kept = slim("leases", {"metadata": meta, "spec": spec})
    assert kept["metadata"].keys() == meta.keys() - {"x"}
    assert kept["spec"] == {"holderIdentity": "h" * 253, "leaseDurationSeconds": 5, "renewTime": "t"}
    assert "holderIdentity" not in slim("leases", {"metadata": meta, "spec": {"holderIdentity": "h" * 254}})["spec"]
    assert slim("leases", {"metadata": meta})["spec"] == {}


@pytest.mark.parametrize("where", ["status", "resources"])
def test_a_pod_that_says_too_much_counts_as_one_that_failed(where: str) -> None:
    def made(size: int) -> Any:
        body = pod("p")
        body["status"] = {"phase": "Running", "message": "x"}
        if where == "status":
            body["status"]["message"] = "x" * (1 + size - weight(body["status"]))
            return slim("pods", body)
        container: Any = {"name": "executor", "resources": {"limits": {"x": ""}}}
        body["spec"]["containers"] = [container]
        room = size - weight([[{"name": "executor", "resources": {"limits": {"x": ""}}}], {}])
        container["resources"]["limits"]["x"] = "x" * room
        return slim("pods", body)

    assert made(MOST_POD)["status"]["phase"] == "Running"
    assert made(MOST_POD + 1)["status"]["reason"] == "TooLarge"
    assert weight(made(10**7)) < 4096


def test_annotations_are_kept_of_pods_only_and_ours_only() -> None:
    for kind, body in (("sandboxes", sandbox()), ("pods", pod("p"))):
        body["metadata"] |= {"annotations": {"a": "b", CLAIM: "c"}, "managedFields": [{}]}
        kept = slim(kind, body)["metadata"]
        assert kept.get("annotations") == ({CLAIM: "c"} if kind == "pods" else None)
        assert "managedFields" not in kept
        assert "managedFields" in body["metadata"]


@pytest.mark.parametrize(("size", "kept"), [(512, True), (513, False)])
def test_an_annotation_that_is_longer_than_any_of_ours_is_none(size: int, kept: bool) -> None:
    body = pod("p")
    body["metadata"]["annotations"] = {CLAIM: "c" * size}
    assert (CLAIM in slim("pods", body)["metadata"].get("annotations", {})) is kept


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
    many = {f"arl.infra.io/a{number}": "x" for number in range(50_000)}
    body["metadata"]["labels"] = {"arl.infra.io/run": "r", "arl.infra.iox/a": "b", **many}
    assert slim(kind, body)["metadata"]["labels"] == {"arl.infra.io/run": "r"}
