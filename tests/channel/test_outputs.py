"""The whole of an output, fetched part by part from an agent that may say anything of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_arl import SandboxLost
from pytest_arl.agent import frames
from pytest_arl.agent_client import kept_output
from tests.channel.fake import FakeAgent, Server, sandbox_and_agent

PART = 10
Parts = Callable[[int], tuple[bytes, dict[str, Any]]]


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_output, "_PART", PART)
    monkeypatch.setattr(kept_output, "_MOST_EMPTY", 5)


def fetched(part: Parts) -> bytes:
    """What a caller gets of an agent that answers each part so."""

    def answer(agent: FakeAgent, _kind: int, stream: int, value: Any) -> None:
        data, end = part(value["from"])
        if data:
            agent.send_raw(frames.frame(frames.DATA, stream, data))
        agent.send(frames.END, stream, end)

    with sandbox_and_agent() as (sandbox, agent):
        Server(agent, answer)
        return b"".join(sandbox.output("id", 0, "stdout"))


def kept(text: bytes, lost: range) -> Parts:
    """An agent that has lost some of what was printed."""

    def part(start: int) -> tuple[bytes, dict[str, Any]]:
        found = bytes(byte for at, byte in enumerate(text) if start <= at < start + PART and at not in lost)
        return found, {"size": len(text), "lost": len(lost)}

    return part


def test_all_parts_are_one_output() -> None:
    text = bytes(range(95))
    assert fetched(kept(text, range(0))) == text
    assert fetched(kept(b"", range(0))) == b""


def test_the_count_of_lost_output_follows_the_kept_output() -> None:
    with pytest.raises(Exception, match="50 of the 100 bytes"):
        fetched(kept(bytes(100), range(20, 70)))


def test_as_many_parts_in_a_row_as_may_be_lost() -> None:
    with pytest.raises(Exception, match="no longer kept"):
        fetched(kept(bytes(100), range(20, 70)))  # five parts
    with pytest.raises(SandboxLost, match="less of an output than it announced"):
        fetched(kept(bytes(110), range(20, 80)))  # six


@pytest.mark.parametrize("lost", [0, 1, (1 << 62) - 1, 1 << 62])
def test_an_output_without_an_end_is_the_agents_end(lost: int) -> None:
    asked: list[int] = []

    def part(start: int) -> tuple[bytes, dict[str, Any]]:
        asked.append(start)
        return b"", {"size": 1 << 62, "lost": lost}

    with pytest.raises(Exception, match=r"less of an output|no longer kept"):
        fetched(part)
    assert len(asked) <= 7


def test_a_part_that_is_short_without_a_loss_is_the_agents_end() -> None:
    with pytest.raises(SandboxLost, match="less of an output than it announced"):
        fetched(lambda _start: (b"12345", {"size": 100, "lost": 0}))


def test_an_output_in_crumbs_is_the_agents_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of each part, and the rest lost: so it says."""
    monkeypatch.setattr(kept_output, "_MOST_SHORT", 6)
    asked: list[int] = []

    def part(start: int) -> tuple[bytes, dict[str, Any]]:
        asked.append(start)
        return b"x", {"size": 1 << 62, "lost": 1 << 61}

    with pytest.raises(SandboxLost, match="less of an output than it announced"):
        fetched(part)
    assert len(asked) == 7


def test_an_output_that_gets_longer_meanwhile_is_as_long_as_it_was() -> None:
    """A process in the background prints on."""
    asked: list[int] = []

    def part(start: int) -> tuple[bytes, dict[str, Any]]:
        asked.append(start)
        return b"0123456789", {"size": 35 + 10 * len(asked), "lost": 0}

    assert fetched(part) == b"0123456789" * 5
    assert asked == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("second", [{"size": 20, "lost": 0}, {"size": 100, "lost": 9}])
def test_an_agent_that_says_something_else_of_an_output_is_given_up(second: dict[str, Any]) -> None:
    ends = iter([{"size": 100, "lost": 10}, second])
    with pytest.raises(SandboxLost, match="contradicted"):
        fetched(lambda _start: (b"0123456789", next(ends)))
