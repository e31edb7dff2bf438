"""An agent's frames, however its bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.agent import frames
from pytest_arl.operator.frame_reader import MOST_ITEMS, FrameReader

Found = list[tuple[int, int, object]]


def reading(wanted: bool = True) -> tuple[FrameReader, Found]:
    found: Found = []
    return FrameReader(lambda *_: wanted, lambda *frame: found.append(frame)), found


SENT = st.lists(
    st.one_of(
        st.tuples(st.just(frames.STDOUT), st.integers(0, 9), st.binary(max_size=40)),
        st.tuples(st.just(frames.STEP), st.integers(0, 9), st.dictionaries(st.text(max_size=3), st.integers(0, 9))),
    ),
    max_size=8,
)


def sent(kind: int, stream: int, value: object) -> bytes:
    return frames.frame(kind, stream, value) if isinstance(value, bytes) else frames.message(kind, stream, value)


@given(SENT, st.integers(1, 50), st.sets(st.integers(0, 9)))
def test_pieces_of_any_size_give_the_same_wanted_frames(given: Found, size: int, streams: set[int]) -> None:
    found: Found = []
    reader = FrameReader(lambda _kind, stream, _size: stream in streams, lambda *frame: found.append(frame))
    data = b"".join(sent(*each) for each in given)
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
        while reader.step():
            pass
    assert found == [each for each in given if each[1] in streams]
    assert not reader._data


def test_of_a_frame_that_nobody_wants_nothing_is_held() -> None:
    reader, found = reading(wanted=False)
    reader.feed(frames.HEADER.pack(frames.MAX_PAYLOAD, frames.STEP, 7))
    for _ in range(frames.MAX_PAYLOAD // 1024):
        reader.feed(bytes(1024))
        reader.step()
        reader.step()
        assert len(reader._data) <= 1024
    assert not reader.step()
    assert found == []


def test_each_call_of_step_takes_one_frame_wanted_or_not() -> None:
    for wanted in (True, False):
        reader, _ = reading(wanted)
        reader.feed(frames.frame(frames.STDOUT, 1, b"x") * 3 + frames.frame(frames.STDOUT, 1) * 2)
        assert [reader.step() for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("kind", [0x00, frames.MORE, 0x07, 0x3F, frames.LAST + 1, 0xFF])
def test_what_no_agent_sends_is_refused_from_its_header(kind: int) -> None:
    reader, _ = reading(wanted=False)
    reader.feed(frames.HEADER.pack(5, kind, 1))
    with pytest.raises(frames.ProtocolError, match="type"):
        reader.step()


@pytest.mark.parametrize("more", [0, 1])
def test_a_frame_has_a_bound(more: int) -> None:
    reader, _ = reading(wanted=False)
    reader.feed(frames.HEADER.pack(frames.MAX_PAYLOAD + more, frames.STDOUT, 1))
    if more:
        with pytest.raises(frames.ProtocolError, match="limit"):
            reader.step()
    else:
        assert not reader.step()


@pytest.mark.parametrize("more", [0, 1])
def test_a_value_has_a_bound_of_items(more: int) -> None:
    reader, found = reading()
    reader.feed(frames.message(frames.STEP, 1, [{} for _ in range(MOST_ITEMS + more)]))
    if more:
        with pytest.raises(frames.ProtocolError, match="items"):
            reader.step()
    else:
        assert reader.step()
        assert found == [(frames.STEP, 1, [{}] * MOST_ITEMS)]


def test_a_byte_at_a_time_costs_what_all_of_it_does() -> None:
    """A frame is not copied for each piece of it that comes."""
    reader, found = reading()
    payload = b"x" * 100_000
    for byte in frames.frame(frames.STDOUT, 1, payload):
        reader.feed(bytes([byte]))
        reader.step()
    assert found == [(frames.STDOUT, 1, payload)]
