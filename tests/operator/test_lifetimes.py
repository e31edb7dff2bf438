from typing import Any

import pytest

from pytest_arl.backends.kubernetes import object_names
from pytest_arl.cluster.pod import RUN_LABEL
from pytest_arl.operator.lifetimes import (
    IDLE_SECONDS,
    MOST_FINISHED,
    Clock,
    Lifetimes,
    expired,
    is_of_a_run,
    limits_of,
    surplus,
)
from tests.operator.objects import owned_by, pool, sandbox


def test_a_sandbox_that_nobody_holds_ends_after_ten_idle_minutes() -> None:
    assert limits_of(sandbox(), pool()) == Lifetimes(IDLE_SECONDS, None)
    assert limits_of(sandbox(), None) == Lifetimes(IDLE_SECONDS, None)


def test_one_that_is_kept_or_has_a_lease_does_not() -> None:
    assert limits_of(sandbox(keepAlive=True), pool()) == Lifetimes(None, None)
    assert limits_of(sandbox(owners=owned_by("Lease", "u")), pool()) == Lifetimes(None, None)


def test_its_own_limits_come_before_its_pools() -> None:
    defaults = pool(sandbox={"idleTimeoutSeconds": 30, "maxLifetimeSeconds": 60})
    assert limits_of(sandbox(), defaults) == Lifetimes(30, 60)
    assert limits_of(sandbox(idleTimeoutSeconds=5, maxLifetimeSeconds=6), defaults) == Lifetimes(5, 6)


def test_zero_is_never() -> None:
    defaults = pool(sandbox={"idleTimeoutSeconds": 30, "maxLifetimeSeconds": 60})
    assert limits_of(sandbox(idleTimeoutSeconds=0, maxLifetimeSeconds=0), defaults) == Lifetimes(None, None)


@pytest.mark.parametrize(
    ("idle", "busy", "reason"), [(9.9, False, None), (10.0, False, "IdleTimeout"), (1000.0, True, None)]
)
def test_a_running_task_is_never_idle(idle: Any, busy: Any, reason: Any) -> None:
    found = expired(Lifetimes(10, None), age=5000, idle=idle, busy=busy)
    assert (found[0] if found else None) == reason


def test_a_lifetime_ends_also_a_busy_sandbox() -> None:
    assert expired(Lifetimes(None, 60), age=59.9, idle=0, busy=True) is None
    found = expired(Lifetimes(None, 60), age=60, idle=0, busy=True)
    assert found is not None
    assert found[0] == "LifetimeEnded"


def test_only_the_oldest_finished_tasks_go() -> None:
    finished = [(f"2026-01-01T00:{number:02}:00Z", f"t{number}", f"u{number}") for number in range(MOST_FINISHED + 3)]
    assert surplus(list(reversed(finished))) == ["u0", "u1", "u2"]
    assert surplus(finished[:MOST_FINISHED]) == []


def lease(renewed: Any, seconds: Any = 60) -> Any:
    return {"spec": {"renewTime": renewed, "leaseDurationSeconds": seconds}}


def test_a_lease_runs_out_by_our_own_clock_whatever_its_holders_clock_says() -> None:
    clock = Clock()
    clock.see("u", lease("1999-01-01T00:00:00Z"), 100.0)
    assert not clock.over("u", lease("1999-01-01T00:00:00Z"), 160.0)
    assert clock.over("u", lease("1999-01-01T00:00:00Z"), 160.1)


def test_a_renewal_counts_from_when_it_was_seen() -> None:
    clock = Clock()
    clock.see("u", lease("a"), 100.0)
    clock.see("u", lease("b"), 150.0)
    clock.see("u", lease("b"), 205.0)
    assert not clock.over("u", lease("b"), 210.0)
    assert clock.over("u", lease("b"), 210.1)


def test_a_lease_never_seen_is_not_over() -> None:
    assert not Clock().over("u", lease("a"), 1e9)


def test_a_lease_that_says_no_duration_lasts_a_minute() -> None:
    clock = Clock()
    clock.see("u", {"spec": {"renewTime": "a"}}, 0.0)
    assert not clock.over("u", {"spec": {"renewTime": "a"}}, 60.0)
    assert clock.over("u", {"spec": {"renewTime": "a"}}, 60.1)


def runs_lease(**changes: Any) -> Any:
    """As the client makes it."""
    name = object_names.lease_name("0f" * 16, "gw1")
    labels = object_names.own_labels("0f" * 16, "gw1", name, "1.0")
    body: Any = {"metadata": {"name": name, "labels": labels}, "spec": {"holderIdentity": name}}
    body["metadata"] |= changes.pop("metadata", {})
    return body | changes


def test_a_lease_is_a_runs_if_name_label_and_holder_agree() -> None:
    assert is_of_a_run(runs_lease())
    right = runs_lease()["metadata"]["labels"]
    for wrong in (
        runs_lease(spec={"holderIdentity": "somebody"}),
        runs_lease(spec={}),
        runs_lease(spec=None),
        runs_lease(metadata={"labels": {RUN_LABEL: "r1"}}),
        runs_lease(metadata={"labels": {}}),
        runs_lease(metadata={"labels": right | {object_names.LEASE_LABEL: "another"}}),
        runs_lease(metadata={"name": "another"}),
        {
            "metadata": {"name": "leader", "labels": {RUN_LABEL: "r1", object_names.LEASE_LABEL: "leader"}},
            "spec": {"holderIdentity": "leader"},
        },
    ):
        assert not is_of_a_run(wrong), wrong


@pytest.mark.parametrize(("seconds", "over"), [(3599.0, False), (3601.0, True)])
def test_a_lease_lasts_an_hour_at_most_whatever_it_says(seconds: float, over: bool) -> None:
    clock = Clock()
    lease = {"metadata": {"uid": "u"}, "spec": {"renewTime": "t", "leaseDurationSeconds": 2147483647}}
    clock.see("u", lease, 0.0)
    assert clock.over("u", lease, seconds) is over
