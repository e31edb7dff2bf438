"""Those who must notice nothing: the operator itself, and somebody who runs tests in another namespace."""

from __future__ import annotations

import json
import re
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_arl import SandboxSession
from tests.cluster.hostile.tenants import task
from tests.cluster.installation import Installation, Json

__all__ = ["Neighbour", "Operator", "operator_now", "still_well", "unharmed", "well"]

MOST_GROWTH = 1.2
ALLOWANCE = 32 * 1024**2
"""Bytes that the operator may hold besides: what it knows of the objects of a test that ran before."""

PEAK_ALLOWANCE = 96 * 1024**2
"""Bytes that it may have held for a moment: a page of a list, and what its parsing takes."""

_STATUS = "print(open('/proc/1/status').read())"
_ROUNDS_SECONDS = 25.0
"""In which a round tells of a Task without a Sandbox: 1 s as promised, and a busy machine."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What would show that it was ended, stuck or filled.

    Attributes:
        pod: its UID.
        restarts: of its container.
        ready_since: since when it is ready; None where it is not.
        epoch: of its Lease.
        held: bytes of memory now.
        peak: bytes at its most.
    """

    pod: str
    restarts: int
    ready_since: str | None
    epoch: int
    held: int
    peak: int


def operator_now(found: Installation) -> Operator:
    """The operator as it is. Fails where there is none that runs."""
    where = found.operator_namespace
    selector = "app.kubernetes.io/name=arl-operator"
    (body,) = json.loads(found.kubectl("get", "pods", "-l", selector, "-o", "json", namespace=where).stdout)["items"]
    name = body["metadata"]["name"]
    state = found.kubectl("exec", name, "--", "python3", "-I", "-S", "-c", _STATUS, namespace=where).stdout
    sizes = {key: int(value) * 1024 for key, value in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", state, re.MULTILINE)}
    lease = json.loads(found.kubectl("get", "lease", "arl-operator", "-o", "json", namespace=where).stdout)
    (ready,) = [each for each in body["status"]["conditions"] if each["type"] == "Ready"]
    return Operator(
        body["metadata"]["uid"],
        sum(each["restartCount"] for each in body["status"]["containerStatuses"]),
        ready["lastTransitionTime"] if ready["status"] == "True" else None,
        lease["spec"]["leaseTransitions"],
        sizes["VmRSS"],
        sizes["VmHWM"],
    )


@dataclass(slots=True)
class Neighbour:
    """Runs Tasks in a sandbox of its own, by the usual client.

    Attributes:
        seconds: what each Task took.
    """

    session: SandboxSession
    seconds: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _broken: list[BaseException] = field(default_factory=list)

    def one(self) -> None:
        """Run a Task; what comes back is right."""
        word = secrets.token_hex(4)
        began = time.monotonic()
        assert self.session.run("echo", word).stdout == f"{word}\n"
        self.seconds.append(time.monotonic() - began)

    def quiet(self, count: int = 40) -> float:
        """The 95th percentile of so many Tasks now."""
        self.seconds.clear()
        for _ in range(count):
            self.one()
            time.sleep(0.02)
        return self.p95()

    def p95(self) -> float:
        return statistics.quantiles(self.seconds, n=20)[-1]

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Run one Task after another beside the block; what fails of them fails there."""
        self.seconds.clear()
        self._stop.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        if self._broken:
            raise self._broken.pop()

    def _run(self) -> None:
        while not self._stop.wait(0.05) or len(self.seconds) < 20:
            try:
                self.one()
            except BaseException as error:  # noqa: BLE001 - told by the thread that waits for it
                self._broken.append(error)
                return


@contextmanager
def unharmed(found: Installation, neighbour: Neighbour) -> Iterator[None]:
    """The block does nothing to the operator and to the neighbour's namespace."""
    before = well(found, neighbour)
    yield
    still_well(found, neighbour, before)


def well(found: Installation, neighbour: Neighbour) -> Operator:
    """The operator, which works for the neighbour."""
    neighbour.one()
    now = operator_now(found)
    assert now.ready_since is not None, found.report()
    return now


def still_well(found: Installation, neighbour: Neighbour, before: Operator) -> None:
    """Check that nothing has happened to it since."""
    neighbour.one()
    _rounds_go_on(found)
    after = operator_now(found)
    grown = f"{before.held >> 20} to {after.held >> 20} MiB, peak {before.peak >> 20} to {after.peak >> 20}"
    print(f"operator: {grown}")
    same = [(each.pod, each.restarts, each.epoch) for each in (before, after)]
    assert same[0] == same[1], f"the operator was ended\n{found.report()}"
    assert after.ready_since == before.ready_since, "the operator was not ready for a while"
    assert after.held <= MOST_GROWTH * before.held + ALLOWANCE, grown
    assert after.peak <= MOST_GROWTH * before.peak + PEAK_ALLOWANCE, grown


def _rounds_go_on(found: Installation) -> None:
    """What no event tells is still looked at: a Task whose Sandbox is not there is told so."""
    name = f"orphan-{secrets.token_hex(3)}"
    found.apply(task(name, "no-such-sandbox"))
    deadline = time.monotonic() + _ROUNDS_SECONDS
    try:
        while not _told(found.get("task", name)):
            assert time.monotonic() < deadline, f"the operator makes no rounds\n{found.report()}"
            time.sleep(0.3)
    finally:
        found.kubectl("delete", "task", name, "--wait=false")


def _told(body: Json) -> bool:
    return any(each["reason"] == "SandboxNotFound" for each in body.get("status", {}).get("conditions", ()))
