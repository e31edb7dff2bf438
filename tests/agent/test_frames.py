"""The wire by itself: what is encoded comes back, and nothing that a peer sends does more than raise ProtocolError."""

from __future__ import annotations

import tracemalloc
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_arl.agent import frames
from pytest_arl.agent.frames import MAX_DEPTH, MAX_PAYLOAD, Parser, ProtocolError

NOTHING = b"N"
EMPTY_DICT = b"d\0\0\0\0"

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
).filter(lambda value: depth(value) <= MAX_DEPTH)
kinds = st.sampled_from([frames.STDOUT, frames.DATA, frames.HELLO, frames.STEP, frames.PONG])
streams = st.integers(0, 2**32 - 1)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def nested(levels: int) -> bytes:
    return b"l\0\0\0\1" * levels + NOTHING


def count(number: int) -> bytes:
    return number.to_bytes(4, "big")


def list_of(number: int, item: bytes) -> bytes:
    return b"l" + count(number) + item * number


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(values)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert frames.decode(frames.encode(value)) == value


def test_numbers_keep_their_type() -> None:
    assert [type(item) for item in frames.decode(frames.encode([1, 1.0, True]))] == [int, float, bool]  # type: ignore[attr-defined] # a list


def test_file_names_that_are_no_utf8_come_back_as_they_were() -> None:
    name = b"caf\xe9\xff".decode("utf-8", "surrogateescape")

    assert frames.decode(frames.encode(name)) == name


@pytest.mark.parametrize("buffer", [bytearray(b"ab"), memoryview(b"ab")])
def test_every_kind_of_buffer_is_bytes_on_the_other_side(buffer: bytearray | memoryview) -> None:
    assert frames.decode(frames.encode(buffer)) == b"ab"


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": 1j}, [test_numbers_keep_their_type], {1: 2}])
def test_a_type_that_the_wire_has_not_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="cannot encode"):
        frames.encode(value)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_that_does_not_fit_is_a_value_error(number: int) -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        frames.encode([number])


@given(st.binary())
def test_bytes_that_are_no_value_raise_protocol_error_and_nothing_else(data: bytes) -> None:
    try:
        frames.decode(data)
    except ProtocolError:
        return


@given(values, st.data())
def test_a_value_with_a_byte_changed_raises_protocol_error_or_is_another_value(value: object, data: Any) -> None:
    raw = bytearray(frames.encode(value))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        frames.decode(raw)
    except ProtocolError:
        return


@given(values, st.integers(0))
def test_a_value_that_is_cut_short_is_refused(value: object, place: int) -> None:
    raw = frames.encode(value)
    with pytest.raises(ProtocolError):
        frames.decode(raw[: place % len(raw)])


def test_bytes_behind_a_value_are_refused() -> None:
    with pytest.raises(ProtocolError, match="bytes after"):
        frames.decode(NOTHING + b"x")


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(ProtocolError, match="twice"):
        frames.decode(b"d" + count(2) + (count(1) + b"k" + NOTHING) * 2)


def test_a_key_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(ProtocolError, match="garbled"):
        frames.decode(b"d" + count(1) + count(1) + b"\xff" + NOTHING)


def test_a_value_may_nest_as_deep_as_the_limit_and_no_deeper() -> None:
    frames.decode(nested(MAX_DEPTH))
    with pytest.raises(ProtocolError, match="too deep"):
        frames.decode(nested(MAX_DEPTH + 1))


def test_a_hundred_thousand_levels_are_refused_at_once() -> None:
    with pytest.raises(ProtocolError, match="too deep"):
        frames.decode(nested(100_000))


@pytest.mark.parametrize("kind", [b"b", b"s", b"l", b"d"])
def test_a_length_that_is_not_there_takes_no_memory(kind: bytes) -> None:
    with held_memory() as held, pytest.raises(ProtocolError):
        frames.decode(kind + b"\xff\xff\xff\xff")
    assert held() < 100_000


@pytest.mark.parametrize("item", [NOTHING, EMPTY_DICT], ids=["nothings", "dicts"])
def test_items_without_number_are_refused_before_they_are_made(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_ITEMS", 10_000)
    body = b"l" + count(100) + list_of(2_000, item) * 100
    with held_memory() as held, pytest.raises(ProtocolError, match="items"):
        frames.decode(body)
    assert held() < 100 * 10_000 + len(body)


def test_a_message_may_have_as_many_items_as_the_limit() -> None:
    assert frames.decode(list_of(frames.MAX_ITEMS, NOTHING)) == [None] * frames.MAX_ITEMS


def test_a_list_longer_than_expected_is_refused() -> None:
    assert frames.decode(list_of(7, NOTHING), 7) == [None] * 7
    with pytest.raises(ProtocolError, match="items"):
        frames.decode(list_of(8, NOTHING), 7)


@given(st.lists(st.tuples(kinds, streams, values)), st.lists(st.integers(0), max_size=8))
def test_however_a_stream_is_cut_the_same_messages_come_out(
    sent: list[tuple[int, int, object]], places: list[int]
) -> None:
    raw, expected = b"", []
    for kind, stream, value in sent:
        body = frames.encode(value)
        raw += frames.message(kind, stream, value) if kind >= frames.HELLO else frames.frame(kind, stream, body)
        expected.append((kind, stream, value if kind >= frames.HELLO else body))
    parser = Parser()

    found = [each for piece in cut_at(raw, places) for each in parser.feed(piece)]

    assert found == expected
    assert parser.between


def test_a_byte_at_a_time_is_enough() -> None:
    parser = Parser()
    raw = frames.message(frames.STEP, 7, {"text": "x" * 50}) + frames.frame(frames.DATA, 7, b"y")

    found = [each for byte in raw for each in parser.feed(bytes([byte]))]

    assert found == [(frames.STEP, 7, {"text": "x" * 50}), (frames.DATA, 7, b"y")]


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD - 5, MAX_PAYLOAD - 4, 3 * MAX_PAYLOAD, 3 * MAX_PAYLOAD + 1])
def test_a_message_of_any_size_is_whole_again(size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"z" * (size % 256)

    assert Parser().feed(frames.message(frames.REPLY, 9, value)) == [(frames.REPLY, 9, value)]


_SIZES = st.sampled_from([0, 5, 16 * 1024 - 30, 16 * 1024, MAX_PAYLOAD - 9, 2 * MAX_PAYLOAD - 60, 2 * MAX_PAYLOAD])
_LARGE_ONES = st.lists(
    st.tuples(st.sampled_from([frames.TASK, frames.REPLY, frames.DATA, frames.MORE]), streams, _SIZES),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50)
@given(_LARGE_ONES, st.lists(st.integers(1, 300_000), max_size=12))
def test_large_frames_are_whole_again_however_they_are_cut(sent: list[tuple[int, int, int]], sizes: list[int]) -> None:
    """One that stands for itself, one behind another, one between the parts of a message of another stream."""
    raw, behind = b"", b""
    expected: list[tuple[int, int, object]] = []
    ends: list[tuple[int, int, object]] = []
    for turn, (kind, number, size) in enumerate(sent):
        stream, content = number - number % 8 + turn, bytes([turn]) * size
        value = {"content": content, "more": [content[:9]]}
        if kind == frames.DATA:
            raw += frames.frame(kind, stream, content[:MAX_PAYLOAD])
            expected.append((kind, stream, content[:MAX_PAYLOAD]))
        elif kind == frames.MORE and size > MAX_PAYLOAD:
            whole = frames.message(frames.REPLY, stream, value)
            raw, behind = raw + whole[: MAX_PAYLOAD + 9], whole[MAX_PAYLOAD + 9 :] + behind
            ends.insert(0, (frames.REPLY, stream, value))
        else:
            raw += b"".join(frames.pieces(frames.TASK, stream, value))
            expected.append((frames.TASK, stream, value))
    raw += behind
    parser, found = Parser(), []
    for size in sizes:
        found += parser.feed(raw[:size])
        raw = raw[size:]
    found += parser.feed(raw)

    assert found == expected + ends
    assert parser.between


@given(values, streams)
def test_a_message_in_pieces_is_the_message(value: object, stream: int) -> None:
    assert b"".join(frames.pieces(frames.TASK, stream, value)) == frames.message(frames.TASK, stream, value)


@pytest.mark.parametrize("size", [MAX_PAYLOAD - 4, 3 * MAX_PAYLOAD + 1])
def test_large_values_are_not_copied_on_their_way(size: int) -> None:
    content = bytes(size)
    value = {"content": content, "names": ["x" * 20] * 9}

    pieces = frames.pieces(frames.TASK, 3, value)

    assert b"".join(pieces) == frames.message(frames.TASK, 3, value)
    assert sum(len(piece) for piece in pieces if isinstance(piece, memoryview) and piece.obj is content) == size


def test_content_is_a_view_that_nobody_can_write_to() -> None:
    raw = frames.message(frames.WRITE, 3, {"content": bytes(3 * MAX_PAYLOAD)})
    ((_, _, value),) = Parser().feed(raw)

    assert isinstance(value, dict)
    assert isinstance(value["content"], memoryview)
    assert value["content"].readonly


def test_no_frame_of_a_long_message_is_longer_than_the_limit() -> None:
    raw = frames.message(frames.REPLY, 1, bytes(5 * MAX_PAYLOAD))
    sizes = []
    while raw:
        size, _, _ = frames.HEADER.unpack_from(raw)
        sizes.append(size)
        raw = raw[frames.HEADER.size + size :]

    assert max(sizes) == MAX_PAYLOAD
    assert len(sizes) == 6


def test_long_messages_of_two_streams_may_be_mixed_frame_by_frame() -> None:
    one, two = (frames.message(frames.REPLY, stream, bytes([stream]) * 2 * MAX_PAYLOAD) for stream in (1, 2))
    step = MAX_PAYLOAD + frames.HEADER.size
    mixed = b"".join(raw[at : at + step] for at in range(0, len(one), step) for raw in (one, two))

    found = Parser().feed(mixed)

    assert [(stream, value) for _, stream, value in found] == [
        (1, b"\1" * 2 * MAX_PAYLOAD),
        (2, b"\2" * 2 * MAX_PAYLOAD),
    ]


def test_bytes_of_a_stream_may_come_between_the_parts_of_its_message() -> None:
    raw = frames.message(frames.REPLY, 1, bytes(2 * MAX_PAYLOAD))
    first = MAX_PAYLOAD + frames.HEADER.size

    found = Parser().feed(raw[:first] + frames.frame(frames.DATA, 1, b"x") + raw[first:])

    assert [kind for kind, _, _ in found] == [frames.DATA, frames.REPLY]


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 3 * MAX_PAYLOAD)
    with pytest.raises(ValueError, match="over the limit"):
        frames.message(frames.REPLY, 1, bytes(3 * MAX_PAYLOAD))


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_waited_for_or_raise_protocol_error(pieces: list[bytes]) -> None:
    parser = Parser()
    try:
        for piece in pieces:
            parser.feed(piece)
    except ProtocolError:
        return


@pytest.mark.parametrize("kind", [0x00, 0x07, 0x3F, frames.LAST + 1, 0xFF])
def test_a_frame_of_no_known_type_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match="type"):
        Parser().feed(frames.frame(kind, 1, NOTHING))


def test_a_frame_over_the_limit_is_refused_from_its_header() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        Parser().feed(frames.HEADER.pack(MAX_PAYLOAD + 1, frames.DATA, 1))


def test_parts_that_are_never_finished_are_held_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 4 * MAX_PAYLOAD)
    parser = Parser()
    with pytest.raises(ProtocolError, match="unfinished"):
        for stream in range(6):
            parser.feed(frames.frame(frames.MORE, stream, bytes(MAX_PAYLOAD)))


def test_a_complete_message_no_longer_counts_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 2 * MAX_PAYLOAD)
    parser = Parser()
    for stream in range(5):
        assert parser.feed(frames.message(frames.REPLY, stream, bytes(MAX_PAYLOAD + 1)))


def test_a_complete_message_of_several_frames_counts_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE", 2 * MAX_PAYLOAD)
    parser = Parser()
    for _ in range(3):
        raw = frames.message(frames.TASK, 1, bytes(2 * MAX_PAYLOAD - 100))
        assert parser.feed(raw[: MAX_PAYLOAD + 50_000]) == []
        assert len(parser.feed(raw[MAX_PAYLOAD + 50_000 :])) == 1
    parser.feed(frames.frame(frames.MORE, 1, bytes(MAX_PAYLOAD)))
    parser.feed(frames.frame(frames.MORE, 2, bytes(MAX_PAYLOAD)))
    with pytest.raises(ProtocolError, match="unfinished"):
        parser.feed(frames.frame(frames.MORE, 3, bytes(MAX_PAYLOAD)))


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD - 1])
def test_a_part_that_is_not_full_is_refused_so_that_empty_ones_are_not_held(size: int) -> None:
    with pytest.raises(ProtocolError, match="only the last may be short"):
        Parser().feed(frames.frame(frames.MORE, 1, bytes(size)))


def test_a_parser_holds_no_more_than_one_unfinished_frame() -> None:
    parser = Parser()
    piece = frames.frame(frames.DATA, 1, bytes(MAX_PAYLOAD))
    with held_memory() as held:
        for _ in range(50):
            parser.feed(piece[:100_000])
            parser.feed(piece[100_000:])
    assert held() < 4 * MAX_PAYLOAD


class held_memory:  # noqa: N801 - reads as a with statement
    """The most memory that was held within the block, in bytes."""

    def __enter__(self) -> Self:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    def __call__(self) -> int:
        return self.peak


@pytest.mark.parametrize(("size", "is_view"), [(16 * 1024 - 1, False), (16 * 1024, True)])
def test_the_content_of_a_large_buffer_is_not_copied(size: int, is_view: bool) -> None:
    overhead = len(frames.encode({"content": b""}))
    value = frames.decode(bytearray(frames.encode({"content": bytes(size - overhead)})))

    assert isinstance(value, dict)
    assert value["content"] == bytes(size - overhead)
    assert isinstance(value["content"], memoryview) == is_view


@pytest.mark.parametrize(("length", "more"), [(32, 1), (33, 0)])
def test_short_keys_are_remembered_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, length: int, more: int
) -> None:
    for table in ("_KEYS", "_NAMES"):
        monkeypatch.setattr(frames, table, {})
    for number in range(511):
        value = {f"{number:0{length}}": number}
        assert frames.decode(frames.encode(value)) == value
    for number in range(511, 1000):
        value = {f"{number:032}": number}
        assert frames.decode(frames.encode(value)) == value

    most = 512 if more else 489
    assert (len(frames._KEYS), len(frames._NAMES)) == (most, most)
