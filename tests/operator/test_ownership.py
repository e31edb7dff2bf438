from typing import Any

import pytest

from pytest_arl.cluster.objects import Key, controller, is_name, owner, uid
from pytest_arl.operator.ownership import CLAIM, Ownership, maker_of
from tests.operator.objects import owned_by, pod, sandbox

POOL = Key("ns", "pool")


def claimed(ours: Ownership, claimer: Any, **more: Any) -> Any:
    found = pod("p", ownerReferences=owned_by("Sandbox", uid(claimer)), **more)
    found["metadata"]["annotations"] = ours.mark(found, claimer)
    return found


def test_a_claim_outlives_its_operator_and_a_new_key() -> None:
    claimer = sandbox()
    its = claimed(Ownership([b"old"]), claimer)
    assert Ownership([b"old"]).sandbox(its) == uid(claimer)
    assert Ownership([b"new", b"old"]).sandbox(its) == uid(claimer)
    assert Ownership([b"new"]).sandbox(its) is None
    assert Ownership().sandbox(its) is None, "without a key nothing is believed"


@pytest.mark.parametrize("text", ["", " ", "u", "u ", "u 00", "\udc80 x", "x" * 100_000, "u " + "0" * 64, "a b c"])
def test_no_other_text_is_a_claim(text: str) -> None:
    its = pod("p", ownerReferences=owned_by("Sandbox", "u"))
    its["metadata"]["annotations"] = {CLAIM: text}
    assert Ownership([b"k"]).claimed(its) is None


def test_one_digit_of_a_claim_counts() -> None:
    ours, claimer = Ownership([b"k"]), sandbox()
    its = claimed(ours, claimer)
    right = its["metadata"]["annotations"][CLAIM]
    for wrong in (right[:-1], right + "0", right[:-1] + ("0" if right[-1] != "0" else "1")):
        its["metadata"]["annotations"] = {CLAIM: wrong}
        assert ours.claimed(its) is None
    its["metadata"]["annotations"] = {CLAIM: right}
    assert ours.claimed(its) == uid(claimer)


def test_an_owner_is_one_of_its_kinds_group() -> None:
    for wrong in ("v1", "apps/v1", "arl.infra.io", "arl.infra.io.evil/v1", "no.such/v1"):
        stranger = pod("p", ownerReferences=owned_by("Sandbox", "u", apiVersion=wrong))
        assert owner(stranger, "Sandbox") is None, wrong
        assert controller(stranger, "Sandbox") is None
    for version in ("arl.infra.io/v1alpha1", "arl.infra.io/v2"):
        assert owner(pod("p", ownerReferences=owned_by("Sandbox", "u", apiVersion=version)), "Sandbox") == "u"


def test_of_several_owners_the_controller_counts() -> None:
    both = pod("p", ownerReferences=[*owned_by("ReplicaSet", "r", controller=False), *owned_by("Sandbox", "u")])
    assert maker_of(both) is None
    assert (controller(both, "Sandbox") or {})["uid"] == "u"
    assert owner(both, "ReplicaSet") == "r"


def test_of_replica_sets_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_arl.operator.ownership._MOST_MAKERS", 3)
    ours = Ownership()
    ours.applied(POOL, "d")
    makers = [pod(f"p{number}", ownerReferences=owned_by("ReplicaSet", f"r{number}")) for number in range(4)]
    for number in range(4):
        ours.learn(f"r{number}", "d")
    assert [ours.made_by(POOL, each) for each in makers] == [False, True, True, True]


def test_strangers_are_looked_at_again() -> None:
    ours = Ownership()
    ours.applied(POOL, "d")
    ours.learn("r", None)
    maker = maker_of(pod("p", ownerReferences=owned_by("ReplicaSet", "r")))
    assert maker is not None
    assert ours.knows(maker)
    ours.forget_strangers()
    assert not ours.knows(maker)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "../healthz", "A", "a..b", "-a", "a" * 254, "a\n"])
def test_what_is_no_name_is_no_part_of_a_path(text: str) -> None:
    assert not is_name(text)
    assert is_name("a.b-c1")
    assert is_name("a" * 253)
