"""``python -m benchmarks``: measure, print, and write down."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import compare, contenders, felt, growth, machine, plots, profile, report, rows, soak

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__: list[str] = []

_PARTS = ("felt", "growth", "soak", "profile")
"""What is measured beside the rows, by the name that ``--only`` takes."""


def main() -> int:
    """Measure what was asked for."""
    options = _options()
    names = {name.strip() for name in (options.only or "").split(",") if name.strip()}
    known = {*_PARTS, *(figure.key for figure in felt.FIGURES)}
    known |= {name for row in rows.ROWS for name in (row.key, *(figure.key for figure in row.figures))}
    if unknown := names - known:
        print(f"--only knows no {', '.join(sorted(unknown))}; it knows {', '.join(sorted(known))}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="arl-benchmarks-") as scratch:
        try:
            results = _measure(names, Path(scratch), options)
        except contenders.Unavailable as error:
            print(f"--against: {error}", file=sys.stderr)
            return 2
    if options.docs:
        _draw(results, options.docs)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: to see that it works, not what it says")
    parser.add_argument("--only", metavar="NAMES", help="rows, figures or parts, such as create,echo,growth")
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs an environment of its own")
    parser.add_argument(
        "--against", metavar="CHECKOUT", type=Path, help="compare with pytest-arl in another checkout and nothing else"
    )
    parser.add_argument("--seconds", type=float, help="for each contender and row: enough once it has three samples")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to FILE")
    parser.add_argument("--docs", metavar="FOLDER", type=Path, help="write tables and plots into FOLDER, for docs/")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"[{text}]", file=sys.stderr, flush=True)


def _measure(names: set[str], scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    quick: bool = options.quick
    results: dict[str, Any] = {"machine": machine.describe(), "quick": quick}
    for key, value in results["machine"].items():
        print(f"{key}: {value}")
    wanted = rows.chosen(names)
    if wanted:
        _compare(results, wanted, scratch, options)
    if options.against:  # the other parts measure what is here alone
        _write(results, options)
        return results
    if not names or names & {"felt", *(figure.key for figure in felt.FIGURES)}:
        try:
            rounds = 1 if quick else 3 if options.seconds else 10
            cells = felt.measure(scratch, names, rounds, quick=quick, say=_say)
        except contenders.Unavailable as error:
            _say(f"felt: {error}")
        else:
            _show(results, "felt", felt.FIGURES, cells, felt.LABELS)
    if not names or "profile" in names:
        _show(results, "profile", profile.FIGURES, profile.measure(quick=quick, say=_say), profile.LABELS)
    _write(results, options)
    if not names or "growth" in names:
        results["growth"] = growth.measure(quick=quick, say=_say)
    if not names or "soak" in names:
        results["soak"] = soak.measure(quick=quick, say=_say)
        print(soak.as_text(results["soak"]))
    _write(results, options)
    print(f"load at the end: {results['load at the end']}")
    return results


def _write(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Write down what there is by now: half an hour is long enough for something to go wrong."""
    results["load at the end"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _compare(results: dict[str, Any], wanted: tuple[rows.Row, ...], scratch: Path, options: argparse.Namespace) -> None:
    ready, versions = [], {}
    compared = contenders.against(options.against) if options.against else contenders.CONTENDERS
    for contender in compared:
        if contender.requirement and options.no_peers:
            continue
        try:
            ready.append(contenders.prepare(contender, scratch, _say))
        except contenders.Unavailable as error:
            versions[contender.key] = str(error)
    labels = {contender.key: contender.label for contender in compared}
    all_cells: list[compare.Measured] = []

    def introduce(found: dict[str, str]) -> None:
        results["versions"] = versions | found
        for key, version in results["versions"].items():
            print(f"{labels[key]}: {version}")

    def show(row: rows.Row, cells: list[compare.Measured]) -> None:
        print(f"\n{report.as_text(row.figures, cells, labels)}", flush=True)
        all_cells.extend(cells)
        _keep(results, "rows", [figure for row in wanted for figure in row.figures], all_cells, labels)
        _write(results, options)

    compare.compare(ready, wanted, quick=options.quick, seconds=options.seconds, introduce=introduce, show=show)
    print()


def _show(
    results: dict[str, Any],
    part: str,
    figures: Sequence[rows.Figure],
    cells: list[compare.Measured],
    labels: Mapping[str, str],
) -> None:
    print(f"\n{report.as_text(figures, cells, labels)}\n", flush=True)
    _keep(results, part, figures, cells, labels)


def _keep(
    results: dict[str, Any],
    part: str,
    figures: Sequence[rows.Figure],
    cells: list[compare.Measured],
    labels: Mapping[str, str],
) -> None:
    results[part] = report.as_json(cells)
    results.setdefault("tables", {})[part] = report.as_markdown(figures, cells, labels)


def _draw(results: dict[str, Any], folder: Path) -> None:
    """Plots beside the page, tables into it, between their marks."""
    try:
        if "growth" in results:
            plots.draw_growth(results["growth"], folder / "performance-growth.svg")
        if "soak" in results:
            plots.draw_soak(results["soak"], folder / "performance-soak.svg")
    except plots.Missing as error:
        _say(str(error))
    page = folder / "performance.md"
    if page.is_file():
        page.write_text(report.fill_in(page.read_text(), _tables(results)))
    _say(f"written: {folder}")


def _tables(results: dict[str, Any]) -> dict[str, str]:
    tables: dict[str, str] = dict(results.get("tables", {}))
    about = {**results["machine"], "load at the end": results["load at the end"]}
    tables["machine"] = "; ".join(f"{key}: {value}" for key, value in about.items())
    if "versions" in results:
        labels = {contender.key: contender.label for contender in contenders.CONTENDERS}
        tables["versions"] = "\n".join(f"- {labels[key]}: {text}" for key, text in results["versions"].items())
    return tables


if __name__ == "__main__":
    sys.exit(main())
