"""The most that a step held, told from the figures of a cgroup and of its watcher."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from pytest_arl.agent import memory_page, system
from pytest_arl.agent.memory_watch import MemoryWatch

MI = 1 << 20
OWN = 4 * MI
"""Bytes that the agent holds; as many the cgroup uses while it is alone."""


class Cgroup:
    """Files with the figures of a cgroup of version 2, and the watch that reads them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.agents = OWN
        monkeypatch.setattr(system, "own_bytes", lambda _statm: self.agents)
        for name in ("usage", "peak", "stat"):
            (folder / name).touch()
        self.figures(usage=OWN, anon=OWN)
        page = os.memfd_create("page")
        os.ftruncate(page, memory_page.SIZE)
        self.page = os.dup(page)
        self._opened = [os.open(folder / name, os.O_RDWR) for name in ("usage", "peak", "stat")]
        self.wake = os.eventfd(0)
        usage, peak, stat = self._opened
        self.watch = MemoryWatch(
            {
                "page_fd": page,
                "wake_fd": self.wake,
                "usage_fd": usage,
                "peak_fd": peak,
                "stat_fd": stat,
                "memory": 256 * MI,
                "folders": [],
            }
        )

    def figures(self, *, usage: int, anon: int, peak: int = 0) -> None:
        """Have the kernel say this from now on."""
        (self._folder / "usage").write_text(f"{usage}\n")
        (self._folder / "stat").write_text(f"anon {anon}\nshmem 0\n")
        (self._folder / "peak").write_text(f"{max(usage, peak)}\n")

    def seen(self, *, held: int, usage: int) -> None:
        """Have the watcher say this of the first step."""
        os.pwrite(self.page, pack("=QQQ", 1, held, usage), memory_page.SEEN)

    def close(self) -> None:
        """Close all."""
        for descriptor in (*self._opened, self.wake, self.page, self.watch._statm):
            os.close(descriptor)


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cgroup]:
    found = Cgroup(tmp_path, monkeypatch)
    yield found
    found.close()


def test_memory_left_at_the_end_counts_as_held(cgroup: Cgroup) -> None:
    cgroup.watch.begin()
    cgroup.figures(usage=OWN + 30 * MI, anon=OWN + 30 * MI, peak=OWN + 50 * MI)

    assert cgroup.watch.peak(killed=False) == 50 * MI


@pytest.mark.parametrize(("beyond", "told"), [(MI - 4096, 0), (MI, 9 * MI)])
def test_the_slow_figures_are_read_where_more_than_the_agents_growth_is_used(
    cgroup: Cgroup, beyond: int, told: int
) -> None:
    """The agent keeps the results of its steps. Its growth made each later step a tenth of a millisecond slower."""
    cgroup.watch.begin()
    cgroup.agents += 5 * MI
    # Were they read, they would say 9 MiB.
    cgroup.figures(usage=OWN + 5 * MI + beyond, anon=OWN + 14 * MI)

    assert cgroup.watch.peak(killed=False) == told


def test_what_the_watcher_saw_bounds_it_from_both_sides(cgroup: Cgroup) -> None:
    cgroup.watch.begin()
    cgroup.figures(usage=OWN, anon=OWN, peak=OWN + 40 * MI)
    cgroup.seen(held=10 * MI, usage=OWN + 35 * MI)

    assert cgroup.watch.peak(killed=False) == 15 * MI, "what else was used then is page cache"
    cgroup.seen(held=60 * MI, usage=OWN + 40 * MI)
    assert cgroup.watch.peak(killed=False) == 60 * MI


def test_kills_are_counted_from_the_steps_beginning(cgroup: Cgroup) -> None:
    os.pwrite(cgroup.page, pack("=Q", 3), memory_page.KILLS)
    cgroup.watch.begin()
    assert cgroup.watch.kills_of_step() == 0
    os.pwrite(cgroup.page, pack("=Q", 5), memory_page.KILLS)
    assert (cgroup.watch.kills_of_step(), cgroup.watch.kills) == (2, 5)


@pytest.mark.parametrize("asleep", [False, True])
def test_a_watcher_that_sleeps_is_woken_by_a_step(cgroup: Cgroup, asleep: bool) -> None:
    os.set_blocking(cgroup.wake, False)
    os.pwrite(cgroup.page, pack("=Q", asleep), memory_page.ASLEEP)
    cgroup.watch.begin()
    steps = [int.from_bytes(os.pread(cgroup.page, 8, memory_page.STEP), "little")]
    cgroup.watch.end()
    steps.append(int.from_bytes(os.pread(cgroup.page, 8, memory_page.STEP), "little"))

    assert steps == [1, 2], "odd while it runs"
    if asleep:
        assert os.eventfd_read(cgroup.wake) == 1
    else:
        with pytest.raises(BlockingIOError):
            os.eventfd_read(cgroup.wake)
