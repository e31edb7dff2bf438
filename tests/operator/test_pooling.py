from typing import Any

from pytest_arl.cluster.objects import name, uid
from pytest_arl.operator.pooling import AT_ONCE, QUIET_SECONDS, Pods, pool_trouble, refill, share, sort_pods
from tests.operator.objects import pod


def names(pods: Any) -> Any:
    return [name(each) for each in pods]


def test_the_oldest_ready_pod_is_claimed_first() -> None:
    young = pod("a-young", creationTimestamp="2026-01-01T00:00:09Z")
    old = pod("z-old", creationTimestamp="2026-01-01T00:00:01Z")
    found = sort_pods([young, old], ())
    assert names(found.ready) == ["z-old", "a-young"]
    plan = share(["a"], (), found)
    assert [(who, name(got)) for who, got in plan.claims] == [("a", "z-old")]


def test_first_come_first_served() -> None:
    found = sort_pods([pod("p1"), pod("p2")], ())
    plan = share(["first", "second", "third"], (), found)
    assert [who for who, _ in plan.claims] == ["first", "second"]
    assert plan.cold == ["third"]


def test_a_pod_that_is_spoken_for_leaves_or_failed_is_not_claimed() -> None:
    reserved, leaving = pod("r"), pod("l", deletionTimestamp="2026-01-01T00:00:00Z")
    failed = pod("f", status={"phase": "Failed"})
    good = pod("good")
    assert names(sort_pods([reserved, leaving, failed, good], {uid(reserved)}).ready) == ["good"]


def test_a_ready_pod_without_an_address_is_still_starting() -> None:
    found = sort_pods([pod("p", status={"podIP": None})], ())
    assert names(found.starting) == ["p"]
    assert not found.ready


def test_a_waiting_claim_gets_a_starting_pod_before_one_is_created() -> None:
    found = sort_pods([pod("starts", ready=False)], ())
    assert share(["a"], (), found).cold == []
    assert share(["a", "b"], (), found).cold == ["b"]


def test_a_gated_pod_is_started_for_a_waiting_claim_before_one_is_created() -> None:
    found = sort_pods([pod("gated", ready=False, gated=True)], ())
    plan = share(["a", "b"], (), found)
    assert names(plan.lift) == ["gated"]
    assert plan.cold == ["b"]


def test_a_pod_whose_gate_is_being_lifted_counts_as_starting() -> None:
    gated = pod("gated", ready=False, gated=True)
    found = sort_pods([gated], (), {uid(gated)})
    assert names(found.starting) == ["gated"]
    assert share(["a"], (), found).lift == []


def test_other_resources_than_the_pools_mean_a_pod_of_its_own() -> None:
    plan = share(["plain", "special"], {"special"}, sort_pods([pod("p1"), pod("p2")], ()))
    assert [who for who, _ in plan.claims] == ["plain"]
    assert plan.cold == ["special"]


def gated(count: int) -> list[Any]:
    return [pod(f"g{number}", ready=False, gated=True) for number in range(count)]


def test_a_pool_fills_at_once_but_only_so_many_at_a_time() -> None:
    assert len(refill(sort_pods(gated(10), ()), 10, 0, QUIET_SECONDS)) == AT_ONCE
    starting = [pod(f"s{number}", ready=False) for number in range(AT_ONCE)]
    assert refill(sort_pods([*gated(6), *starting], ()), 10, 0, QUIET_SECONDS) == []


def test_during_a_burst_replacements_wait_while_a_quarter_of_the_pool_is_there() -> None:
    ready = [pod(f"r{number}") for number in range(3)]
    assert refill(sort_pods([*ready, *gated(7)], ()), 10, 1, 0.1) == []


def test_a_pool_is_refilled_before_it_is_empty_also_during_a_burst() -> None:
    ready = [pod(f"r{number}") for number in range(1)]
    assert len(refill(sort_pods([*ready, *gated(9)], ()), 10, 1, 0.1)) == 2


def test_a_pool_of_one_is_refilled_during_a_burst() -> None:
    assert len(refill(sort_pods(gated(1), ()), 1, 1, 0.0)) == 1


def test_a_suite_that_takes_one_after_another_finds_them_started() -> None:
    """3 in a second: of pods that take 2 s to start, 6 have to be on their way."""
    ready = [pod("r0"), *(pod(f"s{number}", ready=False) for number in range(2))]
    assert len(refill(sort_pods([*ready, *gated(7)], ()), 10, 15, 0.1)) == 2, "no more than 4 start at a time"
    ready = [pod(f"r{number}") for number in range(5)]
    assert len(refill(sort_pods([*ready, *gated(5)], ()), 10, 15, 0.1)) == 1
    assert refill(sort_pods([pod("r0"), pod("r1")], ()), 2, 15, 0.1) == [], "a pool is never more than it is"


def test_a_burst_is_no_rate() -> None:
    ready = [pod(f"r{number}") for number in range(10)]
    assert refill(sort_pods([*ready, *gated(10)], ()), 20, 10, 0.01) == []


def test_after_the_burst_the_rest_comes() -> None:
    ready = [pod(f"r{number}") for number in range(8)]
    assert len(refill(sort_pods([*ready, *gated(2)], ()), 10, 0, QUIET_SECONDS)) == 2


def test_a_pools_trouble_is_that_of_a_pod_that_starts() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}, "name": "executor"}
    found = pool_trouble(Pods(starting=[pod("p", ready=False, status={"containerStatuses": [waiting]})]))
    assert found is not None
    assert found.reason == "ImagePullBackOff"
    assert pool_trouble(Pods(starting=[pod("p", ready=False)])) is None
