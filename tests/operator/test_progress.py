from typing import Any

import pytest

from pytest_arl.agent import frames
from pytest_arl.operator.progress import Garbled, Progress, level
from pytest_arl.operator.task_message import SENT_BYTES
from tests.operator.objects import command


def ended(index: Any, outcome: Any = "Succeeded", code: Any = 0, **more: Any) -> Any:
    return {"i": index, "outcome": outcome, "code": code, "out": 0, "err": 0, "at": 1.0, "s": 0.1, **more}


def printed(step: Any, data: Any) -> Any:
    return frames.STEP_INDEX.pack(step) + data


def progress(steps: Any = 2) -> Any:
    return Progress([command(f"s{number}") for number in range(steps)])


def test_a_step_with_its_output() -> None:
    found = progress()
    found.take(frames.STEP, ended(0, out=2, err=1, o=b"hi", e=b"!"))
    assert found.ended[0].output == (b"hi", b"!")
    assert not found.done
    found.take(frames.DONE, {"ran": 1})
    assert found.done


def test_output_that_came_before_its_step_is_that_steps() -> None:
    found = progress()
    for kind, data in (
        (frames.STDOUT, b"head"),
        (frames.STDERR, b"err"),
        (frames.STDOUT_TAIL, b"tail"),
        (frames.STDERR_TAIL, b"or"),
    ):
        found.take(kind, printed(0, data))
    found.take(frames.STEP, ended(0, out=100, err=5))
    found.take(frames.STEP, ended(1))
    assert found.ended[0].output == (b"headtail", b"error")
    assert found.ended[1].output == (b"", b"")


def test_memory_is_bounded_whatever_comes() -> None:
    found = progress()
    for _ in range(100):
        found.take(frames.STDOUT, printed(0, b"x" * 65536))
    found.take(frames.STEP, ended(0, out=6553600))
    assert len(found.ended[0].output[0]) == 2 * SENT_BYTES


def test_a_refusal_ends_a_tasks_progress() -> None:
    found = progress()
    found.take(frames.ERROR, {"text": "another boot"})
    assert (found.done, found.refused) == (True, ("another boot", "another boot"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (frames.STEP, {}),
        (frames.STEP, None),
        (frames.STEP, ended(1)),
        (frames.STEP, {**ended(0), "code": "x"}),
        (frames.STEP, {**ended(0), "code": None}),
        (frames.STEP, {**ended(0), "code": True}),
        (frames.STEP, {**ended(0), "code": 256}),
        (frames.STEP, {**ended(0), "code": -1}),
        (frames.STEP, {**ended(0), "code": 1}),
        (frames.STEP, {**ended(0), "i": 0.0}),
        (frames.STEP, {**ended(0), "o": 1 << 62}),
        (frames.STEP, {**ended(0), "e": "text"}),
        (frames.STEP, {**ended(0), "o": b"x" * (2 * SENT_BYTES + 1)}),
        (frames.STEP, {**ended(0), "out": -1}),
        (frames.STEP, {**ended(0), "outcome": "Skipped"}),
        (frames.STEP, {**ended(0, "Failed"), "code": 0}),
        (frames.STEP, {**ended(0), "limit": ["memory"]}),
        (frames.STEP, {**ended(0), "limit": "x" * 129}),
        (frames.STEP, {**ended(0), "signal": 9}),
        (frames.STEP, {**ended(0), "signal": "SIG\x1b[2J"}),
        (frames.STEP, {**ended(0), "limit": "memory\n12 passed"}),
        (frames.STEP, {**ended(0), "s": float("nan")}),
        (frames.STEP, {**ended(0), "s": float("inf")}),
        (frames.STEP, {**ended(0), "at": -1.0}),
        (frames.STEP, {**ended(0), "at": 253_402_300_800.0}),
        (frames.STEP, {**ended(0), "u": 1 << 62}),
        (frames.STDOUT, b""),
        (frames.STDOUT, printed(1, b"x")),
        (frames.PONG, {}),
    ],
)
def test_what_no_agent_sends_is_garbled(kind: Any, value: Any) -> None:
    with pytest.raises(Garbled):
        progress().take(kind, value)


@pytest.mark.parametrize(
    "change",
    [{"code": 255, "outcome": "Failed"}, {"o": b"x" * 2 * SENT_BYTES}, {"limit": "x" * 128}, {"at": 253_402_300_799.0}],
)
def test_values_at_the_bounds_are_accepted(change: Any) -> None:
    found = progress()
    found.take(frames.STEP, ended(0) | change)
    assert len(found.ended) == 1


@pytest.mark.parametrize("value", [{}, {"text": 1 << 62}, {"text": ["another boot"]}, {"text": "x" * (1 << 20)}, None])
def test_a_refusal_without_words_is_one_and_no_code(value: Any) -> None:
    found = progress()
    found.take(frames.ERROR, value)
    assert found.done
    assert found.refused is not None
    assert found.refused.code == ""
    assert 0 < len(found.refused.text) <= 1024


def test_more_steps_than_there_are_is_garbled() -> None:
    found = progress(1)
    found.take(frames.STEP, ended(0))
    with pytest.raises(Garbled):
        found.take(frames.STEP, ended(1))


def test_memory_is_bounded_over_all_steps() -> None:
    found = progress(256)
    for number in range(256):
        found.take(frames.STDOUT, printed(number, b"h" * 100_000 + b"t" * 100_000))
        found.take(frames.STEP, ended(number, out=200_000))
    held = [each for end in found.ended for each in end.output]
    assert sum(map(len, held)) <= 1024 * 1024
    assert held[0].startswith(b"h" * 500)
    assert held[0].endswith(b"t" * 500)


@pytest.mark.parametrize("most", [16 * 1024, 100_000])
def test_a_task_holds_no_more_than_its_share_which_may_shrink_while_it_runs(most: int) -> None:
    share = [1024 * 1024]
    found = progress(16)
    found.most = lambda: share[0]
    for number in range(8):
        found.take(frames.STDOUT, printed(number, b"x" * 200_000))
        found.take(frames.STEP, ended(number, out=200_000))
    share[0] = most
    found.take(frames.STDOUT, printed(8, b"x" * 200_000))
    assert sum(map(len, found._kept)) <= most, "while a step prints, too"
    found.take(frames.STEP, ended(8, out=200_000))
    assert sum(len(each) for end in found.ended for each in end.output) <= most


def test_a_short_output_is_not_shortened_for_long_ones() -> None:
    found = progress(64)
    found.take(frames.STEP, ended(0, out=5, o=b"short"))
    for number in range(1, 64):
        found.take(frames.STDOUT, printed(number, b"x" * 200_000))
        found.take(frames.STEP, ended(number, out=200_000))
    assert found.ended[0].output == (b"short", b"")


@pytest.mark.parametrize(
    ("sizes", "room", "wanted"),
    [([], 10, 0), ([3, 4], 10, 4), ([3, 100], 10, 7), ([100, 100], 10, 5), ([1, 1, 100], 3, 1), ([5], 0, 0)],
)
def test_the_longest_are_cut_to_one_level(sizes: Any, room: Any, wanted: Any) -> None:
    assert level(sizes, room) == wanted
