import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_arl.errors import UsageError
from pytest_arl.text.units import (
    format_duration,
    format_quantity,
    format_size,
    go_duration,
    parse_duration,
    parse_quantity,
    parse_timeout,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90.0),
        (0.25, 0.25),
        ("90s", 90.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("250ms", 0.25),
        ("1.5m", 90.0),
        (".5s", 0.5),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("90", 90.0),
        (" 90s ", 90.0),
        (0, 0.0),
    ],
)
def test_a_duration_is_seconds_or_as_go_writes_it(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "bad", ["", "abc", "90 s", "1d", "-5s", "-1", -1, math.nan, math.inf, True, None, b"1s", [], "1e400"]
)
def test_what_is_no_duration_is_a_usage_error(bad: object) -> None:
    with pytest.raises(UsageError, match="must be"):
        parse_duration(bad)


@given(st.floats(min_value=0, max_value=3e8))
def test_a_duration_survives_being_written_as_go_writes_it(seconds: float) -> None:
    assert parse_duration(go_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("none", [None, math.inf, "none", "None"])
def test_no_timeout_has_its_words(none: object) -> None:
    assert parse_timeout(none) is None


@pytest.mark.parametrize("zero", [0, 0.0, "0s"])
def test_a_timeout_of_nothing_is_refused(zero: object) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        parse_timeout(zero)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512Mi", 512 * 2**20), ("2Gi", 2**31), ("1.5Gi", 3 * 2**29), ("1k", 1000), ("3M", 3_000_000), ("77", 77), (0, 0)],
)
def test_a_quantity_is_bytes_or_as_kubernetes_writes_it(text: object, size: int) -> None:
    assert parse_quantity(text) == size


@pytest.mark.parametrize("bad", ["", "512MB", "Mi", "-1Mi", -1, 1.5, True, None, "1 Gi", "1m"])
def test_what_is_no_quantity_is_a_usage_error(bad: object) -> None:
    with pytest.raises(UsageError, match="512Mi"):
        parse_quantity(bad)


@given(st.integers(min_value=0, max_value=2**60))
def test_a_quantity_survives_being_written(size: int) -> None:
    assert parse_quantity(format_quantity(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.00042, "0.4 ms"),
        (0.005, "5 ms"),
        (0.00996, "10 ms"),
        (0.0121, "12 ms"),
        (0.9996, "1.0 s"),
        (4.12, "4.1 s"),
        (10, "10 s"),
        (99.96, "100 s"),
        (130.4, "130 s"),
    ],
)
def test_a_duration_for_people_is_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0Mi"), (400_000, "0.4Mi"), (2**20, "1Mi"), (241 * 2**20 + 7, "241Mi"), (2**31, "2048Mi")]
)
def test_a_size_for_people_has_the_unit_of_a_pools_limits(size: int, text: str) -> None:
    assert format_size(size) == text
