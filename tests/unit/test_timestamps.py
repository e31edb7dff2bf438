"""Moments as Kubernetes writes them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_arl.text.timestamps import now, parse_timestamp, timestamp


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1700000000.25, "2023-11-14T22:13:20.250000Z"),
        (0.9999996, "1970-01-01T00:00:01.000000Z"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_a_moment_is_written_in_utc_with_its_microseconds(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
    assert parse_timestamp(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", ["1970-01-01T00:00:01Z", "1970-01-01T00:00:01.000Z", "1970-01-01T02:00:01+02:00"])
def test_every_way_to_write_a_moment_is_read(text: str) -> None:
    assert parse_timestamp(text) == 1


@pytest.mark.parametrize(
    "text", ["0000-01-01T00:00:00Z", "last Tuesday", "", None, 5, ["1970-01-01T00:00:01Z"], "9" * 10**6]
)
def test_what_is_no_moment_that_a_clock_shows_is_none(text: Any) -> None:
    assert parse_timestamp(text) is None


def test_now_is_now() -> None:
    assert parse_timestamp(now()) == pytest.approx(time.time(), abs=10)
