"""The same figures three times: for a terminal, for a page, for a program."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from benchmarks.statistics import median, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.compare import Measured
    from benchmarks.rows import Figure

__all__ = ["as_json", "as_markdown", "as_text", "fill_in", "number"]


def number(value: float, unit: str) -> str:
    """A value with as many digits as mean something."""
    value = abs(value) if abs(value) < 0.005 else value  # no "-0.00"
    if not unit:
        return f"{value:.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".replace(" /s", "/s")


def _ratio(cell: Measured, base: Measured | None) -> str:
    if base is None or not base.samples or not cell.samples or median(base.samples) <= 0:
        return ""
    ratio = median(cell.samples) / median(base.samples)
    return f"{ratio:.0f} ×" if ratio >= 100 else f"{ratio:.1f} ×" if ratio >= 10 else f"{ratio:.2f} ×"


def _base(cells: Sequence[Measured]) -> Measured | None:
    """Ratios are against the first contender: subprocess.run, or the run of pytest without a sandbox."""
    return cells[0] if cells and cells[0].samples else None


def as_text(figures: Iterable[Figure], cells: Sequence[Measured], labels: Mapping[str, str]) -> str:
    """One block for each figure, one line for each contender."""
    lines: list[str] = []
    for figure in figures:
        mine = [cell for cell in cells if cell.figure == figure.key]
        if not mine:
            continue
        aim = f"   (aim: {figure.reach})" if figure.reach else ""
        width = max(32, *(len(labels[cell.contender]) for cell in mine)) + 2
        lines += ["", f"{figure.key}: {figure.text}{aim}"]
        for cell in mine:
            label = f"  {labels[cell.contender]:<{width}}"
            if cell.missing and not cell.samples:
                lines.append(label + textwrap.shorten(cell.missing, 110))
                continue
            middle, high = (
                number(median(cell.samples), figure.unit),
                number(percentile(cell.samples, 0.95), figure.unit),
            )
            ratio = _ratio(cell, _base(mine)) if figure.unit in {"ms", "s"} else ""
            lines.append(f"{label}{middle:>10}   p95 {high:>10}   n {len(cell.samples):>4}   {ratio:>8}".rstrip())
    return "\n".join(lines).lstrip("\n")


def as_markdown(figures: Iterable[Figure], cells: Sequence[Measured], labels: Mapping[str, str]) -> str:
    """One line for each figure, one column for each contender: median, and the 95th percentile where it says more."""
    keys = [key for key in labels if any(cell.contender == key for cell in cells)]
    lines = ["| | " + " | ".join(labels[key] for key in keys) + " |", "|---|" + "---:|" * len(keys)]
    for figure in figures:
        mine = {cell.contender: cell for cell in cells if cell.figure == figure.key}
        if mine:
            row = [_cell(mine.get(key), figure, _base(list(mine.values()))) for key in keys]
            lines.append(f"| {figure.text} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(cell: Measured | None, figure: Figure, base: Measured | None) -> str:
    if cell is None:
        return ""
    if not cell.samples:
        return "–" if cell.missing == "has no such thing" else cell.missing.replace("|", "\\|")
    text = number(median(cell.samples), figure.unit)
    if len(cell.samples) > 1 and figure.unit == "ms":
        text += f"<br>p95 {number(percentile(cell.samples, 0.95), figure.unit)}"
    if figure.unit in {"ms", "s"} and base is not None and cell is not base:
        text += f"<br>{_ratio(cell, base)}"
    return text


def as_json(cells: Iterable[Measured]) -> list[dict[str, object]]:
    """Every sample."""
    return [
        {"figure": cell.figure, "contender": cell.contender, "samples": cell.samples, "missing": cell.missing}
        for cell in cells
    ]


def fill_in(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its marks, ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page = marks.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", page)  # noqa: B023 - called at once
    return page
