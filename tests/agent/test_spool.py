"""What is kept of output: everything while there is room, then both ends, and never a byte that was not printed."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_arl.agent.spool import EXTENT, INLINE, Capture, Spool


@pytest.fixture
def spool() -> Iterator[Spool]:
    spool = Spool(None, capacity=8 * EXTENT)
    yield spool
    os.close(spool.fd)


@pytest.fixture
def filled(spool: Spool) -> Capture:
    return printed(spool, 5 * EXTENT // 2)


def whole(capture: Capture) -> bytes:
    return b"".join(capture.read(0, capture.size))


def numbered(size: int, start: int = 0) -> bytes:
    """Bytes that say where they are, so that no two pieces of them are alike."""
    first = start // 8
    return array("Q", range(first, first + size // 8 + 2)).tobytes()[start % 8 :][:size]


def printed(spool: Spool, size: int, *, keep_ends: int = EXTENT) -> Capture:
    capture = Capture(spool, keep_ends)
    for at in range(0, size, 300_000):
        capture.append(numbered(min(300_000, size - at), at))
    return capture


def in_use(spool: Spool) -> int:
    return spool._extents - len(spool._free)


def test_short_output_stays_in_memory(spool: Spool) -> None:
    capture = printed(spool, INLINE)

    assert capture.inline == numbered(INLINE)
    assert os.fstat(spool.fd).st_size == 0


def test_a_byte_more_goes_to_the_file_with_all_before_it(spool: Spool) -> None:
    capture = printed(spool, INLINE)
    capture.append(b"!")

    assert capture.inline is None
    assert whole(capture) == numbered(INLINE) + b"!"
    assert capture.memory < 1000


def test_output_that_fits_is_kept_whole(spool: Spool) -> None:
    capture = printed(spool, 5 * EXTENT + 17)

    assert whole(capture) == numbered(5 * EXTENT + 17)
    assert (capture.size, capture.lost) == (5 * EXTENT + 17, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.integers(0, 3 * EXTENT), st.integers(0, 3 * EXTENT))
def test_any_part_can_be_read(filled: Capture, start: int, end: int) -> None:
    end = min(end, filled.size)
    assert b"".join(filled.read(start, end)) == numbered(max(0, end - start), start)


def test_pieces_fit_into_a_frame(spool: Spool) -> None:
    assert max(map(len, printed(spool, 3 * EXTENT).read(0, 3 * EXTENT))) <= 252 * 1024


def test_output_beyond_the_file_keeps_both_ends(spool: Spool) -> None:
    size = 40 * EXTENT + 1234
    capture = printed(spool, size, keep_ends=EXTENT)

    assert b"".join(capture.read(0, EXTENT)) == numbered(EXTENT)
    assert b"".join(capture.read(size - EXTENT, size)) == numbered(EXTENT, size - EXTENT)
    assert capture.size == size


def test_lost_output_is_counted_exactly_and_never_made_up(spool: Spool) -> None:
    size = 40 * EXTENT + 1234
    capture = printed(spool, size)
    kept = whole(capture)

    assert capture.lost == size - len(kept) > 0
    assert kept.startswith(numbered(EXTENT))
    assert kept.endswith(numbered(2 * EXTENT, size - 2 * EXTENT))


def test_endless_output_takes_no_more_than_the_file(spool: Spool) -> None:
    capture = printed(spool, 100 * EXTENT)

    assert os.fstat(spool.fd).st_size <= 8 * EXTENT
    assert capture.memory <= 64 * 9


def test_a_capture_may_use_all_of_the_file_before_it_loses_anything(spool: Spool) -> None:
    assert printed(spool, 8 * EXTENT).lost == 0


def test_what_is_released_is_used_again(spool: Spool) -> None:
    for _ in range(5):
        capture = printed(spool, 6 * EXTENT)
        assert capture.lost == 0
        capture.release()

    assert in_use(spool) == 0
    assert os.fstat(spool.fd).st_size <= 6 * EXTENT


def test_releasing_twice_gives_nothing_back_twice(spool: Spool) -> None:
    capture = printed(spool, 2 * EXTENT)
    capture.release()
    capture.release()

    assert sorted(spool._free) == [0, EXTENT]


def test_a_released_capture_is_never_read_as_another_ones_output(spool: Spool) -> None:
    capture = printed(spool, 3 * EXTENT)
    reading = capture.read(0, 3 * EXTENT)
    first = next(reading)
    capture.release()
    other = Capture(spool, EXTENT)
    other.append(b"secret" * EXTENT)

    assert first + b"".join(reading) == numbered(len(first))


def test_the_spool_asks_for_room_before_anything_is_lost(spool: Spool) -> None:
    old = printed(spool, 8 * EXTENT)

    def make_room() -> bool:
        if old.size == 0:
            return False
        old.release()
        return True

    spool.make_room = make_room

    assert whole(printed(spool, 8 * EXTENT)) == numbered(8 * EXTENT)


def test_two_captures_share_the_file_without_mixing(spool: Spool) -> None:
    one, two = Capture(spool, EXTENT), Capture(spool, EXTENT)
    for at in range(0, 3 * EXTENT, 100_000):
        one.append(numbered(100_000, at))
        two.append(b"2" * 100_000)

    assert whole(one) == numbered(one.size)
    assert set(whole(two)) == {ord("2")}


class Disk:
    """Stands for os.pwrite of a disk with so many bytes left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def pwrite(self, fd: int, data: memoryview, place: int) -> int:
        if not self.left:
            raise OSError(28, "No space left on device")
        size = min(len(data), self.left)
        self.left -= size
        return REAL_PWRITE(fd, data[:size], place)


REAL_PWRITE = os.pwrite


def test_a_full_disk_ends_nothing_and_what_was_written_before_is_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", Disk(700_000).pwrite)

    capture = printed(spool, 3 * EXTENT)

    assert whole(capture) == numbered(700_000)
    assert (capture.size, capture.lost) == (3 * EXTENT, 3 * EXTENT - 700_000)


def test_a_disk_that_was_full_for_a_while_leaves_no_hole_that_reads_as_zeros(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(700_000)
    monkeypatch.setattr(os, "pwrite", disk.pwrite)
    capture = printed(spool, 900_000)
    disk.left = 10 * EXTENT
    capture.append(numbered(100_000, 900_000))

    assert whole(capture) == numbered(700_000)


def test_a_file_that_cannot_grow_is_used_for_as_much_as_it_has(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    printed(spool, 5 * EXTENT).release()
    spool.refuse_growth()
    size = 20 * EXTENT
    capture = printed(spool, size)
    kept = whole(capture)

    assert in_use(spool) == 5
    assert len(kept) == 5 * EXTENT
    assert kept.endswith(numbered(EXTENT, size - EXTENT))


def test_a_disk_that_cannot_be_read_loses_what_is_on_it_and_raises_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = printed(spool, 2 * EXTENT)

    def broken(_fd: int, _size: int, _place: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)

    assert whole(capture) == b""


def test_without_a_file_the_spool_makes_one_in_memory() -> None:
    spool = Spool(None)
    assert "memfd" in os.readlink(f"/proc/self/fd/{spool.fd}")
    os.close(spool.fd)
