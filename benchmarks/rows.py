"""What is compared. A row is one measurement, which may give several figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ROWS", "Figure", "Row", "chosen"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        key: its name, for ``--only`` and JSON.
        text: what was measured.
        unit: ``ms``, ``s``, ``MB``, ``/s`` or empty for a count. Samples are in that unit.
        reach: what pytest-arl aims at, in words.
    """

    key: str
    text: str
    unit: str
    reach: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        key: names the function of :mod:`benchmarks.samples`.
        figures: what it gives.
        samples: how many, and how many with ``--quick``.
        warm_up: samples before those, thrown away.
        budget: seconds after which a contender has enough samples, if it has three.
        patience: seconds for one sample, then the contender has none.
    """

    key: str
    figures: tuple[Figure, ...]
    samples: int
    quick: int
    warm_up: int = 2
    budget: float = 30.0
    patience: float = 60.0


ROWS = (
    Row(
        "life",
        (
            Figure("create", "a sandbox, from asking to ready", "ms", "10 ms; warm 0.3 ms"),
            Figure("close", "closing it", "ms", "1 ms"),
        ),
        samples=100,
        quick=5,
    ),
    Row("echo", (Figure("echo", "`echo hi`", "ms", "1.5 × subprocess.run"),), samples=300, quick=20),
    Row("python", (Figure("python", "`python3 -c pass`", "ms"),), samples=50, quick=5),
    Row("write", (Figure("write", "write a file of 1 MB", "ms", "1.5 ms"),), samples=100, quick=5),
    Row("output", (Figure("output", "10 MB of stdout", "ms", "8 ms"),), samples=30, quick=3),
    Row(
        "flood",
        (
            Figure("flood", "1 GB of stdout", "s"),
            Figure("flood-memory", "1 GB of stdout: the caller's memory grows by", "MB", "32 MB"),
        ),
        samples=3,
        quick=1,
        warm_up=0,
        patience=90,
    ),
    Row("hundred", (Figure("hundred", "100 × `echo hi`, one after another", "ms"),), samples=10, quick=1, warm_up=1),
    Row("task", (Figure("task", "the same as one task of 100 steps", "ms"),), samples=10, quick=1, warm_up=1),
    Row(
        "crowd",
        (Figure("crowd", "50 sandboxes at once, 5 × `echo hi` in each", "ms", "400 ms"),),
        samples=10,
        quick=1,
        warm_up=1,
    ),
    Row(
        "timeout",
        (
            Figure("late", "a timeout over a tree of TERM-proof setsid children comes late by", "ms", "5 ms"),
            Figure("survivors", "of the 11 processes, alive after that", "", "0"),
        ),
        samples=10,
        quick=2,
        warm_up=1,
    ),
    Row(
        "memory",
        (Figure("memory", "memory of an idle sandbox (PSS, of 20)", "MB", "4 MB"),),
        samples=3,
        quick=1,
        warm_up=0,
    ),
    Row(
        "rate",
        (Figure("rate", "sandboxes a second (create, `echo hi`, close; 2 at a time, 10 s)", "/s"),),
        samples=1,
        quick=1,
        warm_up=0,
    ),
    Row(
        "left",
        (
            Figure("left", "a daemon started in a sandbox: processes alive after close", "", "0"),
            Figure("left-killed", "the same after `kill -9` of the caller", "", "0"),
            Figure("left-folders", "folders and cgroups left by that", "", "0"),
        ),
        samples=1,
        quick=1,
        warm_up=0,
    ),
)


def chosen(names: set[str]) -> tuple[Row, ...]:
    """The rows that have one of these names, of the row or of a figure; all of them for no names."""
    if not names:
        return ROWS
    return tuple(row for row in ROWS if names & {row.key, *(figure.key for figure in row.figures)})
