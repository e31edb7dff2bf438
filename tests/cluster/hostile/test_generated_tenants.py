"""Tenants of every role who make what they like, beside a neighbour who must not notice.

    ARL_TEST_ATTACK_SECONDS=3600 .venv/bin/pytest --timeout=0 -n 0 -rP -m generated tests/cluster/hostile

for an hour; a minute without that. ``-rP`` shows how much was made, and what it did to the neighbour and the operator.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_arl.cluster.pod import POOL_LABEL, RUN_LABEL, STATUS_IDLE, STATUS_LABEL
from tests.cluster.hostile import conversations
from tests.cluster.hostile.bystanders import Neighbour, unharmed
from tests.cluster.hostile.conftest import Ground
from tests.cluster.hostile.conversations import examples
from tests.cluster.hostile.objects import CHANGES, everything
from tests.cluster.hostile.tenants import Tenant, agent_pod, sandbox, task
from tests.cluster.installation import Installation, Json, pool

SECONDS = float(os.environ.get("ARL_TEST_ATTACK_SECONDS") or 60)

pytestmark = [pytest.mark.generated, pytest.mark.timeout(900 + SECONDS), pytest.mark.usefixtures("alone")]

FIRST_SEED = int(os.environ.get("ARL_TEST_ATTACK_SEED") or 0)
MOST_SLOWER, ALLOWED_SECONDS = 5.0, 1.0
"""Of the neighbour's p95; 1.5 without the second is what is hoped for, and more than a busy machine keeps."""

MOST_STANDING = 250
"""Objects of a kind that stand at one time: the cluster's store is everybody's, and its quota not what is tested here."""

_FLOOD = 400
"""Small Tasks at once."""


class Hostilities:
    """What the tenants do, each in a thread, until the time is over."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._images = ground.there.images
        self._end = time.monotonic() + SECONDS
        self._broken: list[BaseException] = []
        self._names = (f"h{number}" for number in itertools.count())
        self.answers: Counter[str] = Counter()
        self._seeds = itertools.count(FIRST_SEED)

    def run(self) -> None:
        """All of them; what breaks in one is the test's failure."""
        jobs: list[Callable[[], None]] = [self._objects, self._pools, self._flood, self._agents]
        threads = [threading.Thread(target=self._until_over, args=(job,)) for job in jobs]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        if self._broken:
            raise self._broken[0]

    def _until_over(self, job: Callable[[], None]) -> None:
        try:
            while time.monotonic() < self._end:
                job()
        except BaseException as error:  # noqa: BLE001 - raised by run
            self._broken.append(error)
        finally:
            for each in (self._ground.user, self._ground.pool_admin, self._ground.pod_maker):
                each.close()

    def _told(self, what: str, answer: tuple[int, Json]) -> int:
        self.answers[f"{what} {answer[0]}"] += 1
        return answer[0]

    def _objects(self) -> None:
        """What the role arl-user may make, some of it changed or deleted at once."""
        for plural in ("tasks", "sandboxes", "leases"):
            self._make(self._ground.user, plural, 20)
        self._clear("tasks", "sandboxes", "leases")

    def _pools(self) -> None:
        """What arl-pool-admin may make besides."""
        self._make(self._ground.pool_admin, "warmpools", 5)
        self._wait(2)
        self._clear("warmpools")

    def _make(self, who: Tenant, plural: str, count: int) -> None:
        number = next(self._seeds)
        chance = random.Random(number)
        for kind, made in examples(everything[plural], count, number):
            if time.monotonic() > self._end:
                return
            body: Json = json.loads(json.dumps(made).replace("IMAGE", self._images["busybox"]))
            name = body["metadata"]["name"] = next(self._names) + body["metadata"]["name"]
            if "sandboxRef" in body["spec"] and chance.random() < 0.5:
                body["spec"]["sandboxRef"] = chance.choice(["steady", "no-such"])
            if self._told(kind, who.create(kind, body)) != 201:
                continue
            for _ in range(chance.choice([0, 0, 1, 3])):
                self._told(f"change of {kind}", who.patch(kind, name, chance.choice(CHANGES)))
            if chance.random() < 0.3:
                self._told(
                    f"delete of {kind}",
                    who.delete(kind, name, propagationPolicy=chance.choice(["Orphan", "Background"])),
                )

    def _clear(self, *kinds: str) -> None:
        """Keep what stands bounded; what has a finalizer stands till the end."""
        for kind in kinds:
            names = [
                each["metadata"]["name"] for each in self._ground.user.all(kind) if each["metadata"]["name"] != "steady"
            ]
            who = self._ground.pool_admin
            for name in names if len(names) > MOST_STANDING or kind == "warmpools" else names[: len(names) // 2]:
                who.delete(kind, name)

    def _flood(self) -> None:
        """Small Tasks, as fast as they are taken, for a sandbox that is there and one that is not."""
        user = self._ground.user
        name = next(self._names)
        for number in range(_FLOOD):
            if time.monotonic() > self._end:
                return
            which = ("steady", "no-such")[number % 2]
            self._told("small tasks", user.create("tasks", task(f"{name}-{number}", which, timeout="5s")))
        self._wait(3)
        for number in range(_FLOOD):
            user.delete("tasks", f"{name}-{number}")

    def _agents(self) -> None:
        """Pods that play agents, with a pool's labels and without; a sandbox that may meet one."""
        number = next(self._seeds)
        scripts = examples(conversations.scripts, 12, number)
        name = next(self._names)
        labels = {POOL_LABEL: ("met", "no-such")[number % 2], STATUS_LABEL: STATUS_IDLE, RUN_LABEL: "r"}
        body = agent_pod(name, self._images["python"], scripts, labels=labels)
        status = self._told("agents", self._ground.pod_maker.create("pods", body))
        self._ground.user.create("sandboxes", sandbox(f"{name}-s", "met"))
        self._ground.user.create("tasks", task(f"{name}-t", f"{name}-s", timeout="2s"))
        self._wait(6 if status == 201 else 3)
        self._ground.user.delete("sandboxes", f"{name}-s")
        self._ground.pod_maker.delete("pods", name, gracePeriodSeconds=0)

    def _wait(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self._end - time.monotonic())))


@pytest.fixture
def steady(ground: Ground) -> Iterator[None]:
    """Pools over good pods, and a sandbox of one that floods are for."""
    there = ground.there
    there.apply(pool("met", there.images["python"], replicas=1), sandbox("steady", "met"))
    there.wait("jsonpath={.status.phase}=Ready", "sandbox/steady", seconds=90)
    yield
    there.kubectl("delete", "sandboxes,warmpools,tasks", "--all", "--wait=false")


def test_whatever_tenants_make_their_neighbour_goes_on(
    installation: Installation, ground: Ground, neighbour: Neighbour, steady: Any
) -> None:
    before = neighbour.quiet()
    hostile = Hostilities(ground)
    with unharmed(installation, neighbour):
        with neighbour.going_on():
            hostile.run()
        during, count = neighbour.p95(), len(neighbour.seconds)
        time.sleep(12)  # in which what was made last is told about, and the neighbour's sandbox is looked at
    made = sum(each.made for each in (ground.user, ground.pool_admin, ground.pod_maker))
    asked = sum(each.asked for each in (ground.user, ground.pool_admin, ground.pod_maker))
    print(f"{made} objects made, {asked} requests: {dict(sorted(hostile.answers.items()))}")
    print(
        f"neighbour: {count} Tasks, p95 {before * 1000:.0f} ms before, {during * 1000:.0f} during: {during / before:.2f} x"
    )

    assert made > 50, "what they may make is made: else this tests nothing"
    assert hostile.answers["tasks 201"] > 0
    assert during <= MOST_SLOWER * before + ALLOWED_SECONDS
