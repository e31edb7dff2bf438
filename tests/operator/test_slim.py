"""What is kept of an object, just below and just above each bound."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from pytest_arl.cluster.pod import LEASE_LABEL, POOL_LABEL, RUN_LABEL, STATUS_LABEL, WORKER_LABEL
from pytest_arl.operator.ownership import CLAIM
from pytest_arl.operator.slim import (
    LEGACY_FINALIZER,
    MOST_POD,
    MOST_STATUS,
    MOST_TEMPLATE,
    cut,
    is_too_large,
    outlined,
    slim,
    weight,
)
from pytest_arl.operator.template import Agent, TemplateInvalid, pod_template
from tests.operator.objects import command, owned_by, pod, pool, sandbox, task


def test_weight_is_about_what_python_takes() -> None:
    assert 700_000 < weight(["x" * 700_000]) < 701_000
    assert 2_800_000 < weight(["\U0001f600" * 700_000]) < 2_801_000
    assert 1_000_000 < weight([{}] * 20_000) < 2_000_000


def test_nesting_without_an_end_is_heavy_and_ends() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert weight(deep) > MOST_TEMPLATE


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


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("pods", [("ReplicaSet", "r"), ("Sandbox", "s1")]),
        ("sandboxes", [("Lease", "l1")]),
        ("tasks", [("Sandbox", "s1")]),
        ("leases", []),
        ("warmpools", []),
    ],
)
def test_of_many_owners_one_of_each_kind_that_is_asked_for_is_kept(kind: str, kept: list[tuple[str, str]]) -> None:
    """However many there are, and of whatever kind: 64 of them took 210 KB."""
    references = [
        *(owned_by("Deployment", f"d{number}", apiVersion=f"apps/v{number}")[0] for number in range(5000)),
        *(owned_by(its, which, controller=its == "ReplicaSet")[0] for its, which in OWNERS),
    ]
    for each in references[:5000]:
        each["controller"] = False
    body = some(kind)
    body["metadata"]["ownerReferences"] = references
    found = slim(kind, body)["metadata"].get("ownerReferences", [])
    assert [(each["kind"], each["uid"]) for each in found] == kept


OWNERS = [("Sandbox", "s1"), ("Lease", "l1"), ("ReplicaSet", "r"), ("Sandbox", "s2"), ("Lease", "l2")]


@pytest.mark.parametrize(("size", "kept"), [(64, True), (65, False)])
@pytest.mark.parametrize("part", ["apiVersion", "uid"])
def test_a_part_of_a_reference_that_is_longer_than_any_makes_it_none(part: str, size: int, kept: bool) -> None:
    (good,) = owned_by("Lease", "u")
    body = sandbox(owners=[{**good, part: ("coordination.k8s.io/" if part == "apiVersion" else "").ljust(size, "v")}])
    assert ("ownerReferences" in slim("sandboxes", body)["metadata"]) is kept


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

    assert made(MOST_POD - 64)["status"]["phase"] == "Running"  # a list may have room for more
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


def test_above_its_bound_nothing_more_is_weighed() -> None:
    class Counted(list[Any]):
        looked = 0

        def __iter__(self) -> Any:
            Counted.looked += 1
            return super().__iter__()

    value = {"first": Counted([None] * 10), "rest": [Counted([None] * 1000) for _ in range(1000)]}
    assert weight(value, 1000) > 1000
    assert Counted.looked <= 1
    Counted.looked = 0
    assert weight(Counted([None] * 1_000_000), 1_000_000) > 1_000_000
    assert Counted.looked == 0, "no place is made for each of a million"
    whole = weight(value)
    assert (weight(value, whole), Counted.looked > 1000) == (whole, True)
    assert weight(value, whole - 1) > whole - 1


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
def test_of_labels_those_are_kept_that_are_asked_for(kind: str) -> None:
    body = some(kind)
    many = {f"arl.infra.io/a{number}": "x" for number in range(50_000)}
    ours = {POOL_LABEL: "p", STATUS_LABEL: "s", RUN_LABEL: "r", WORKER_LABEL: "w", LEASE_LABEL: "l"}
    body["metadata"]["labels"] = {**ours, "arl.infra.iox/a": "b", **many}
    asked = {
        "pods": (POOL_LABEL, STATUS_LABEL),
        "sandboxes": (RUN_LABEL, WORKER_LABEL),
        "leases": (LEASE_LABEL, RUN_LABEL),
    }.get(kind, ())
    assert slim(kind, body)["metadata"].get("labels", {}) == {label: ours[label] for label in asked}


def some(kind: str) -> Any:
    made = {"pods": lambda: pod("p"), "sandboxes": sandbox, "tasks": task, "warmpools": pool}
    return made[kind]() if kind in made else {"metadata": {"name": "l", "namespace": "ns", "uid": "u"}, "spec": {}}


def worst_task() -> Any:
    """Names of 256 steps, and everything else, as long as the API server takes them, a character beyond U+FFFF in each.

    In Python such a text has four bytes for each character.
    """
    face = "\U0001f600"
    steps = [command(face + f"{number:03}" + "a" * 59, face + "x" * 1000) for number in range(256)]
    body = task("t" * 253, *steps, traceID=face + "a" * 255, proof="f" * 64, payloadHash="f" * 64, timeout="1s" * 16)
    body["metadata"] |= {"managedFields": [{"x": face * 10_000}], "finalizers": [face * 100] * 1000}
    (good,) = owned_by("Sandbox", face + "u" * 63, name=face + "n" * 252)
    body["metadata"]["ownerReferences"] = [good] * 64
    message = {"type": "Started", "status": "False", "reason": "R", "message": face + "m" * 4000}
    body["status"] = {"state": "Pending", "startTime": "t", "conditions": [message], "stdout": face * 100_000}
    return body


def test_a_task_that_was_cut_is_small_whatever_is_in_it() -> None:
    kept = cut("tasks", slim("tasks", worst_task()))
    assert weight(kept) < 6 * 1024
    assert kept["spec"] == {"sandboxRef": "sb", "steps": [], "proof": "f" * 64}
    assert kept["status"] == {"state": "Pending", "startTime": "t"}


def test_what_is_kept_takes_no_more_than_its_weight() -> None:
    """As Python itself counts what is allocated."""
    raw = [json.dumps(worst_task()) for _ in range(20)]
    tracemalloc.start()
    kept = [cut("tasks", slim("tasks", json.loads(each))) for each in raw]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < sum(map(weight, kept)) + 20 * 1024
    assert taken > sum(map(weight, kept)) / 2


def test_a_running_task_that_was_read_again_has_the_names_of_its_steps() -> None:
    body = task("t", command("one", "x" * 1000), command("two", "y" * 1000), traceID="trace", retries=2)
    found = outlined(body)
    assert found["spec"]["steps"] == [{"name": "one", "type": "Command"}, {"name": "two", "type": "Command"}]
    assert (found["spec"]["traceID"], found["spec"]["retries"]) == ("trace", 2)
    assert "x" * 100 not in json.dumps(found)


def test_of_a_sandbox_what_is_asked_for_is_kept() -> None:
    face = "\U0001f600"
    holder = {"run": face * 63, "worker": "w", "test": face * 1024, "secretHash": "f" * 64, "sealedKey": "ab" * 512}
    body = sandbox(holder=holder, resources={"limits": {"memory": "1Gi"}}, keepAlive=True, another=face * 100_000)
    body["status"] = {"phase": "Ready", "podName": "p", "conditions": [{"type": "Ready"}], "more": face * 100_000}
    kept = slim("sandboxes", body)
    assert kept["spec"]["holder"] == {"secretHash": "f" * 64, "sealedKey": "ab" * 512}
    assert kept["spec"].keys() == {"poolRef", "holder", "resources", "keepAlive"}
    assert kept["status"] == {"phase": "Ready", "podName": "p", "conditions": [{"type": "Ready"}]}


@pytest.mark.parametrize(("kind", "left"), [("sandboxes", {"phase": "Ready"}), ("tasks", {}), ("warmpools", {})])
def test_a_status_that_is_larger_than_ours_is_not_kept(kind: str, left: dict[str, str]) -> None:
    def made(size: int) -> Any:
        body = some(kind)
        given = {"phase": "Ready", "conditions": [{"type": "A", "message": ""}]}
        asked = given if kind != "tasks" else {"conditions": given["conditions"]}
        given["conditions"][0]["message"] = "x" * (size - weight(asked))  # type: ignore[index]  # a list
        return slim(kind, {**body, "status": given})["status"]

    assert made(MOST_STATUS[kind])["conditions"]
    assert made(MOST_STATUS[kind] + 1) == left
