"""Columns for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.text.untrusted import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["table"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first is the headings."""
    safe = [[one_line(cell, None) for cell in row] for row in rows]
    safe[0] = [cell.upper() for cell in safe[0]]
    widths = [max(len(cell) for cell in column) for column in zip(*safe, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in safe]
    return "\n".join(lines) + "\n"
