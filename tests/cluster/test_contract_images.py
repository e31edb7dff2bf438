"""The contract's sections on running, time and files, over images that have no Python, and none of anything.

What the tests run in their sandboxes comes from a volume then: the images, and so the agent's resources, stay bare.
The image with nothing is the harder one; the other takes four minutes more, and so runs where ARL_TEST_ALL_IMAGES is set.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.installation import missing

ROOT = Path(__file__).parents[2]
SECTIONS = ("running", "time", "files")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ["busybox", "pause"])
def test_the_contract_holds_over_an_image_without_python(role: str) -> None:
    if reason := missing():
        pytest.skip(reason)
    if role == "busybox" and not os.environ.get("ARL_TEST_ALL_IMAGES"):
        pytest.skip("four minutes more: set ARL_TEST_ALL_IMAGES; test_small_images.py has the shorter way")
    # A run of its own, no worker of this one: what workers share (installation.py) is not its business.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    files = [str(ROOT / "tests" / "contract" / f"test_{section}.py") for section in SECTIONS]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={**own, "ARL_TEST_CONTRACT_IMAGE": role},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
    *_, totals, isolation = run.stdout.splitlines()
    passed = re.match(r"(\d+) passed", totals)
    assert passed, totals
    assert int(passed[1]) > 140, totals
    assert re.fullmatch(r"arl: \d+ sandboxes, \d+ steps, 0 left \(pod\)", isolation), isolation
