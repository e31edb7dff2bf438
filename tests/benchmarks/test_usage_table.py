"""What a step used, beside what GNU time and the program itself say of the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.usage_table import GNU_TIME, PROGRAMS, Row, table


@pytest.mark.skipif(not Path(GNU_TIME).exists(), reason="GNU time is not installed (apt-get install time)")
def test_usage_is_what_gnu_time_and_the_programs_say() -> None:
    for _ in range(3):  # what else the machine does in between is in one figure and not in the other
        _, rows = table()
        if all(row.agrees for row in rows):
            break

    assert [row for row in rows if not row.agrees] == []
    known = {(row.program, row.figure) for row in rows if row.ours}
    assert {("computes 1 s", "cpu"), ("a child takes 256 MiB", "max_rss"), ("writes 16 MiB", "written")} <= known
    assert len(rows) == 6 * len(PROGRAMS)


@pytest.mark.parametrize(
    ("ours", "gnu", "own", "agrees"),
    [
        (100.0, 100.0, 100.0, True),
        (100.0, 104.0, 96.0, True),
        (100.0, 100.0, 90.0, False),
        (100.0, 110.0, 100.0, False),
        (100.0, None, 100.0, True),
        (100.0, None, 90.0, False),
        (None, 100.0, 100.0, True),
    ],
)
def test_rows_agree_within_five_per_cent(ours: float | None, gnu: float | None, own: float, agrees: bool) -> None:
    assert Row("p", "cpu", ours, gnu, own, least=1.0).agrees is agrees


def test_small_figures_may_differ_by_as_much_as_a_program_takes_by_itself() -> None:
    assert Row("p", "cpu", 1.0, 0.5, 0.2, least=1.0).agrees
    assert not Row("p", "cpu", 1.5, 0.4, 0.5, least=1.0).agrees
