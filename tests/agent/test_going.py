"""How long processes that were killed are waited for, which is as long as they go."""

from __future__ import annotations

import pytest

from pytest_arl.agent import tree
from pytest_arl.agent.foreground import Going


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids in the sandbox."""
    pids = list(range(2, 302))
    monkeypatch.setattr(tree, "numbers", lambda: pids)
    return pids


def test_as_long_as_they_go_nothing_is_stuck(there: list[int]) -> None:
    going = Going()
    for second in range(30):
        assert going.stuck_for(100.0 + second) <= 1
        del there[:10]


def test_processes_that_stay_count_as_stuck(there: list[int]) -> None:
    going = Going()
    assert going.stuck_for(100.0) == 0
    assert going.stuck_for(103.0) == 3
    there.pop()
    assert going.stuck_for(104.0) == 0
    assert going.stuck_for(110.0) == 6


def test_those_that_come_and_go_are_no_progress(there: list[int]) -> None:
    going = Going()
    going.stuck_for(100.0)
    for second in range(1, 10):
        if second % 2:
            there.append(1000 + second)
        else:
            there.pop()
        assert going.stuck_for(100.0 + second) == second


def test_they_are_not_counted_at_every_look(there: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counted() -> list[int]:
        looks.append(1)
        return there

    monkeypatch.setattr(tree, "numbers", counted)
    going = Going()
    for step in range(200):
        going.stuck_for(100.0 + step * 0.005)
    assert len(looks) <= 6
