"""The drawings: how cost grows, and that nothing piles up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.soak import KINDS
from benchmarks.statistics import median

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Points = Sequence[tuple[float, float]]

__all__ = ["Missing", "draw_growth", "draw_soak"]

_BLUE, _ORANGE, _GREEN, _GREY = "#2563eb", "#d97706", "#059669", "#9ca3af"
_WINDOW = 25


class Missing(Exception):
    """matplotlib is not installed; the text says how to get it."""


def _pyplot() -> Any:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
    except ImportError:
        raise Missing("plots need matplotlib: pip install -e '.[benchmarks]'") from None
    mpl.use("svg")
    # No date and fixed ids: the same figures give the same file. Text as text, so that it can be searched.
    mpl.rcParams.update({"svg.hashsalt": "pytest-arl", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})
    mpl.rcParams.update({"grid.color": "#e5e7eb", "axes.axisbelow": True, "axes.titlesize": 10})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"})
    import matplotlib.pyplot as plt  # noqa: PLC0415 - as above

    return plt


def _save(plt: Any, figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    # matplotlib ends lines with a blank here and there.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _smooth(points: Points) -> Points:
    """Medians of windows, for a line through a cloud."""
    size = max(1, min(_WINDOW, len(points) // 8))
    windows = [points[at : at + size] for at in range(0, len(points), size)]
    return [(median([x for x, _ in part]), median([y for _, y in part])) for part in windows]


def draw_growth(lines: Mapping[str, Points], path: Path) -> None:
    """Four drawings in one file."""
    plt = _pyplot()
    figure, ((living, steps), (output, task)) = plt.subplots(2, 2, figsize=(9.2, 6.4))
    for key, text, colour in (("create", "create", _BLUE), ("close", "close", _GREEN)):
        _cloud(living, lines[key], text, colour)
    _label(living, "Making and closing a sandbox", "sandboxes alive", "ms")
    _cloud(steps, lines["step"], "echo hi", _BLUE)
    _label(steps, "A step", "sandboxes alive", "ms")
    for key, text, colour in (("output", "pytest-arl", _BLUE), ("output-subprocess", "subprocess.run", _GREY)):
        output.loglog(*zip(*lines[key], strict=True), marker="o", markersize=3, color=colour, label=text)
    _label(output, "A step that prints", "bytes printed", "ms")
    task.semilogx(*zip(*lines["steps"], strict=True), marker="o", markersize=3, color=_BLUE, label="echo hi")
    _label(task, "A step of a long task", "steps in the task", "ms for each step")
    for axes in (living, steps, task):
        axes.set_ylim(bottom=0)
    _save(plt, figure, path)


def _cloud(axes: Any, points: Points, text: str, colour: str) -> None:
    axes.plot(*zip(*points, strict=True), ".", markersize=2, color=colour, alpha=0.35)
    axes.plot(*zip(*_smooth(points), strict=True), color=colour, linewidth=1.6, label=text)
    top = sorted(y for _, y in points)[int(len(points) * 0.99)]
    axes.set_ylim(0, max(axes.get_ylim()[1] if axes.lines[2:] else 0, top * 1.3))


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8)


def draw_soak(samples: Mapping[str, Sequence[float]], path: Path) -> None:
    """One small drawing for each kind."""
    plt = _pyplot()
    figure, rows = plt.subplots(3, 3, figsize=(9.2, 6.4), sharex=True)
    for axes, (kind, text) in zip(rows.flat, KINDS.items(), strict=True):
        times = kind in ("milliseconds", "processor")
        axes.plot(samples["sandboxes"], samples[kind], color=_ORANGE if times else _BLUE, linewidth=1.4)
        axes.set_title(text)
        high = max(value for value in samples[kind] if value == value)  # noqa: PLR0124 - not a number is not itself
        axes.set_ylim(0, max(1.0, high * 1.25))
        if not times and kind != "memory":
            axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in rows[-1]:
        axes.set_xlabel("sandboxes so far")
    _save(plt, figure, path)
