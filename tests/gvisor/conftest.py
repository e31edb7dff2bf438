from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.pools import LocalPool
from tests.gvisor import runsc
from tests.gvisor.backend import Box
from tests.gvisor.steps import Steps


@pytest.fixture(scope="session")
def started() -> Iterator[runsc.Runsc]:
    """A runsc to start containers with."""
    if reason := runsc.missing():
        pytest.skip(reason)
    with ExitStack() as keep:
        found = runsc.Runsc()
        keep.callback(found.close)
        yield found


@pytest.fixture
def start(started: runsc.Runsc) -> Iterator[Callable[..., Steps]]:
    """Starts sandboxes; ``privileged`` ones have an agent that may have a user of its own."""
    with ExitStack() as keep:

        def make(*, privileged: bool = False, **fields: Any) -> Steps:
            pool = LocalPool("gvisor", Path("/"), **fields)
            box = Box(started, pool, runsc.START_SECONDS, privileged=privileged)
            keep.callback(box.close)
            return Steps(box)

        yield make
