"""What `pytest-arl gc` removes, and above all what it does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pytest_arl.cli import gc
from pytest_arl.cli import main as run_main
from pytest_arl.cli.gc import Selection, collect, what_is_left
from tests.cli.conftest import FakeCluster

Json = dict[str, Any]

NOW = 1_800_000_000.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/team/leases"
SANDBOXES = "/apis/arl.infra.io/v1alpha1/namespaces/team/sandboxes"


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def meta(name: str, run: str, age: float) -> Json:
    return {
        "name": name,
        "namespace": "team",
        "labels": {"arl.infra.io/run": run},
        "creationTimestamp": at(NOW - age),
    }


def lease(run: str, *, renewed: float, age: float = 1000, name: str = "") -> Json:
    """A Lease that was renewed that many seconds ago."""
    spec = {"renewTime": at(NOW - renewed), "leaseDurationSeconds": 60}
    return {"metadata": meta(name or f"lease-{run}", run, age), "spec": spec}


def sandbox(name: str, run: str, *, kept: bool = False, age: float = 1000) -> Json:
    return {"metadata": meta(name, run, age), "spec": {"poolRef": "p", "keepAlive": kept}}


def left(cluster: FakeCluster, choice: Selection | None = None) -> dict[str, tuple[int, int]]:
    found = what_is_left(cluster, "team", choice or Selection(), now=NOW)
    return {one.run: (len(one.leases), len(one.sandboxes)) for one in found if one}


@pytest.fixture
def busy(cluster: FakeCluster) -> FakeCluster:
    """One run that lives, one that was killed, one whose Lease is gone, and one that kept a sandbox."""
    cluster.put_list(LEASES, lease("lives", renewed=10), lease("killed", renewed=200))
    cluster.put_list(
        SANDBOXES,
        sandbox("a", "lives"),
        sandbox("b", "killed"),
        sandbox("c", "killed"),
        sandbox("d", "gone"),
        sandbox("e", "keeper", kept=True),
    )
    return cluster


def test_ended_runs_are_cleared_and_living_ones_and_kept_sandboxes_are_not(busy: FakeCluster) -> None:
    assert left(busy) == {"killed": (1, 2), "gone": (0, 1)}


def test_only_what_carries_a_run_is_asked_for(busy: FakeCluster) -> None:
    left(busy)
    assert {query["labelSelector"] for _, query in busy.asked} == {"arl.infra.io/run"}


def test_a_lease_that_may_yet_be_renewed_by_a_slow_clock_counts_as_held(cluster: FakeCluster) -> None:
    cluster.put_list(LEASES, lease("slow", renewed=100), lease("over", renewed=121))
    assert left(cluster) == {"over": (1, 0)}


def test_one_living_process_is_enough_for_a_run_to_live(cluster: FakeCluster) -> None:
    cluster.put_list(LEASES, lease("r", renewed=500, name="gw0"), lease("r", renewed=1, name="gw1"))
    cluster.put_list(SANDBOXES, sandbox("a", "r"))
    assert left(cluster) == {}


def test_kept_sandboxes_go_when_they_are_asked_for(busy: FakeCluster) -> None:
    assert left(busy, Selection(kept=True))["keeper"] == (0, 1)
    busy.put_list(LEASES, lease("keeper", renewed=1))
    assert "keeper" not in left(busy, Selection(kept=True))


def test_a_run_that_is_named_goes_whatever_it_does(busy: FakeCluster) -> None:
    busy.put_list(LEASES, lease("lives", renewed=1))
    busy.put_list(SANDBOXES, sandbox("a", "lives", kept=True))
    assert left(busy, Selection(run="lives")) == {"lives": (1, 1)}
    assert {query["labelSelector"] for _, query in busy.asked} == {"arl.infra.io/run=lives"}


def test_what_is_young_stays_if_age_is_asked_for(cluster: FakeCluster) -> None:
    cluster.put_list(SANDBOXES, sandbox("old", "r", age=4000), sandbox("young", "r", age=100))
    assert left(cluster, Selection(older_than=3600)) == {"r": (0, 1)}


def test_all_of_a_run_goes_with_one_request_for_each_kind(busy: FakeCluster) -> None:
    (killed,) = [one for one in what_is_left(busy, "team", Selection(), now=NOW) if one.run == "killed"]
    collect(busy, killed)
    assert busy.deleted == [(SANDBOXES, "arl.infra.io/run=killed"), (LEASES, "arl.infra.io/run=killed")]


def test_a_part_of_a_run_goes_one_by_one(cluster: FakeCluster) -> None:
    cluster.put_list(SANDBOXES, sandbox("kept", "r", kept=True), sandbox("not-kept", "r"))
    (found,) = what_is_left(cluster, "team", Selection(), now=NOW)
    collect(cluster, found)
    assert cluster.deleted == [(f"{SANDBOXES}/not-kept", "")]


def test_every_page_of_a_long_list_is_read(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: dict[str, Json] = {
        "": {"items": [sandbox("a", "r")], "metadata": {"continue": "x"}},
        "x": {"items": [sandbox("b", "r")], "metadata": {}},
    }

    def get(path: str, **query: str) -> Json | None:
        return pages[query.get("continue", "")] if path == SANDBOXES else None

    monkeypatch.setattr(cluster, "get", get)
    assert left(cluster) == {"r": (0, 2)}


# --- the command


@pytest.fixture
def connected(busy: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(gc, "connect", lambda settings: busy)
    monkeypatch.setattr("time.time", lambda: NOW)
    return busy


def test_gc_removes_objects_and_lists_them(connected: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["gc"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "removed 1 Sandbox of run gone in namespace team",
        "removed 1 Lease, 2 Sandboxes of run killed in namespace team",
    ]
    assert len(connected.deleted) == 3


def test_a_dry_run_removes_nothing(connected: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["gc", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("would remove 1 Sandbox of run gone")
    assert connected.deleted == []


def test_nothing_to_remove_is_said(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gc, "connect", lambda settings: cluster)
    assert run_main(["gc"]) == 0
    assert capsys.readouterr().out == "nothing is left in namespace team\n"


def test_an_age_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["gc", "--older-than", "yesterday"]) == 2
    assert "--older-than must be seconds or a duration" in capsys.readouterr().err
