"""conftest_examples on a cluster: the same files, with `--arl-backend kubernetes`; some are skipped and say why."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.cluster.installation import Installation, missing, remove, start_operator

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"
POOLS = ("python-39-std", "small", "grading")
_STALE = 1200
"""Seconds after which a run that claimed the namespace `default` is taken for dead."""


@pytest.fixture
def default() -> Iterator[Installation]:
    """An operator that serves the namespace `default`, which the samples of the ARL's README name; for one run at a time."""
    if reason := missing():
        pytest.skip(reason)
    found = Installation("default", "", f"arl-test-{secrets.token_hex(4)}-system")
    if not _claimed(found):
        pytest.skip("another run, or somebody's own pools, are in the namespace `default`")
    try:
        start_operator(found)
        text = re.sub(r"image: python:\S+", f"image: {found.images['python']}", (EXAMPLES / "pools.yaml").read_text())
        found.kubectl("apply", "-f", "-", text=text)
        for name in POOLS:
            found.wait("condition=Ready", f"warmpool/{name}")
        yield found
    finally:
        remove(found)
        found.kubectl("delete", "configmap/arl-test")


def _claimed(found: Installation) -> bool:
    """Whether this run has the namespace. Making an object of one name is what only one of two can do."""
    there = found.kubectl(
        "get", "configmap/arl-test", "-o", "jsonpath={.metadata.creationTimestamp}", check=False
    ).stdout
    if there and time.time() - datetime.fromisoformat(there).timestamp() > _STALE:
        found.kubectl("delete", "warmpools,sandboxes,tasks", "--all", check=False)
        found.kubectl("delete", "configmap/arl-test", "--ignore-not-found")
    if found.kubectl("create", "configmap", "arl-test", check=False).returncode != 0:
        return False
    if found.kubectl("get", "warmpools", "-o", "name", check=False).stdout:
        found.kubectl("delete", "configmap/arl-test")
        return False
    return True


@pytest.mark.timeout(420)
def test_the_examples_pass_and_leave_nothing(default: Installation) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"),
            *("--arl-backend", "kubernetes", "--arl-namespace", "default", "--arl-pool", POOLS[0]),
            str(EXAMPLES),
        ],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}{run.stderr}\n{default.report()}"
    reasons = set(re.findall(r"^SKIPPED \[\d+\] .*?: (.*)$", run.stdout, re.MULTILINE))
    assert all("which no pod has" in reason or "podPidsLimit" in reason for reason in reasons), reasons
    assert len(reasons) == 3
    assert re.search(r"^arl: \d+ sandboxes, \d+ steps, 0 left", run.stdout, re.MULTILINE), run.stdout
    left = default.kubectl("get", "sandboxes,tasks", "-o", "name").stdout
    assert left == ""
    leases = default.kubectl("get", "leases", "-l", "arl.infra.io/run", "-o", "name").stdout
    assert leases == ""
