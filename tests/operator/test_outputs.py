"""Room for the output of Tasks that run."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pytest_arl.operator.outputs import LEAST, MOST_OF_A_NAMESPACE, Outputs
from pytest_arl.operator.progress import MOST_BYTES


@pytest.mark.parametrize(
    ("running", "most"),
    [(0, MOST_BYTES), (1, MOST_BYTES), (16, MOST_BYTES), (17, MOST_OF_A_NAMESPACE // 17), (1024, LEAST), (5000, LEAST)],
)
def test_the_tasks_of_a_namespace_share_its_room_and_leave_others_theirs(running: int, most: int) -> None:
    outputs = Outputs()
    with ExitStack() as all_of_them:
        for _ in range(running):
            all_of_them.enter_context(outputs.running("a"))
        assert (outputs.most("a"), outputs.most("b")) == (most, MOST_BYTES)
    assert outputs.most("a") == MOST_BYTES
    assert not outputs._running
