"""The operator beside an API server that is away, and beside an operator that is not ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cluster.clients import Cutter, cutter, rewritten
from tests.cluster.operator_room import Room, command, room

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with room(tmp_path_factory.mktemp("outage") / "log") as found:
        yield found


@pytest.fixture
def way(here: Room) -> Iterator[Cutter]:
    """A way to the API server; the room's operator is stopped, for the test to start one that takes this way."""
    here.stop()
    with cutter() as found:
        yield found
    here.stop()
    here.start()


def _running(here: Room, sandbox: str) -> None:
    here.sandbox(sandbox)
    here.ready(sandbox)
    here.tasks(command(f"{sandbox}-t", sandbox, "sh", "-c", "echo x >> lines; sleep 4; wc -l < lines"))
    here.until("task", f"{sandbox}-t", lambda task: task.get("status", {}).get("state") == "Running")


def _succeeded_once(here: Room, sandbox: str) -> None:
    status = here.finished(f"{sandbox}-t")
    assert (status["state"], status["stdout"]) == ("Succeeded", "1\n")


def test_a_task_ends_well_though_the_api_server_is_away_meanwhile(here: Room, way: Cutter, tmp_path: Path) -> None:
    # What is tried here is the task, not the lease: a busy machine makes the outage longer than its six seconds.
    here.start(config=rewritten(tmp_path / "config", server=way.url), lease_seconds=60)
    _running(here, "short")
    way.closed = True
    assert way.cut() >= 1, "control: there were connections to cut"
    here.tasks(command("short-next", "short", "echo", "next"))
    time.sleep(6)
    assert (here.get("task", "short-t") or {})["status"]["state"] == "Running", "control: nobody could write its end"
    way.closed = False
    _succeeded_once(here, "short")
    assert here.finished("short-next")["stdout"] == "next\n"
    assert here.runs()


def test_an_operator_that_cannot_renew_its_lease_ends_and_its_successor_goes_on(
    here: Room, way: Cutter, tmp_path: Path
) -> None:
    here.start(config=rewritten(tmp_path / "config", server=way.url), lease_seconds=6)
    _running(here, "long")
    way.closed = True
    way.cut()
    assert here.died(30) == 3
    assert "the lease is lost" in here.log()
    way.closed = False
    here.start(config=tmp_path / "config")
    _succeeded_once(here, "long")


@pytest.mark.parametrize(("age", "refused"), [(0, True), (3600, False)])
def test_there_is_no_operator_beside_the_original_one(here: Room, age: int, refused: bool) -> None:
    renewed = datetime.now(UTC) - timedelta(seconds=age)
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 15, "renewTime": renewed.isoformat()}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "arl-operator.infra.io"}}
    here.stop()
    here.apply(lease | {"spec": spec})
    here.start()
    try:
        if refused:
            assert here.died(60) == 1
            assert f"the original ARL operator runs in namespace {here.namespace}" in here.log()
        else:
            name = f"beside-{age}"
            here.sandbox(name)
            here.ready(name)
            assert here.runs()
    finally:
        here.kubectl("delete", "lease", "arl-operator.infra.io")
        here.stop()
        here.start()
