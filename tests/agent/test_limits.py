"""Which limits are watched."""

from __future__ import annotations

import os

import pytest

from pytest_arl.agent.limits import Limits


@pytest.mark.parametrize(("tasks", "counted", "blamed"), [(1, False, "processes"), (-1, False, None), (1, True, None)])
def test_tasks_are_counted_where_a_limit_bounds_them_and_no_cgroup_counts(
    tasks: int, counted: bool, blamed: str | None
) -> None:
    """A limit of -1 is none, as the kernel has it; this process alone is as many as 1."""
    counter = os.memfd_create("pids.events")
    try:
        limits = Limits(
            oom_fd=None,
            pids_fd=counter if counted else None,
            memory=None,
            processes=1,
            folders=[],
            rlimits={"NPROC": tasks},
        )
        limits.begin(0, alone=True)
        limits.sample()
        assert limits.blame() == blamed
    finally:
        os.close(counter)
