"""The steps of a failing test in its report: one line each, then the end of what the failing one printed.

It must fit a screen, and its titles start with ``Captured stdout`` and ``Captured stderr``, so that
``--show-capture``, junitxml, allure and everything else that reads captured output treat it alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.plugin.record import failing_step
from pytest_arl.plugin.report_sinks import ReportSink
from pytest_arl.steps import step_type
from pytest_arl.text.endings import cpu_time, ending, memory_used
from pytest_arl.text.units import format_duration
from pytest_arl.text.untrusted import one_line, tail

if TYPE_CHECKING:
    import pytest

    from pytest_arl.plugin.record import StepRecord, TestRecord

__all__ = ["Sink", "sections"]

_LINES_OF_STEPS = 12
_LINES_OF_OUTPUT = 10
"""Lines for each stream. With 12 lines of steps, titles and the command, a screen of 40 lines holds it all."""


class Sink(ReportSink):
    """Sections of the report itself."""

    def on_failure(
        self,
        report: pytest.TestReport,
        record: TestRecord,
        steps: list[StepRecord],
        *,
        blamed: str | None,
        verbose: int,
    ) -> None:
        """The steps, and the end of what the failing one printed."""
        report.sections += sections(record, steps, report.when, blamed=blamed, everything=verbose > 1)


def sections(
    record: TestRecord, steps: list[StepRecord], when: str, *, blamed: str | None, everything: bool
) -> list[tuple[str, str]]:
    """Titles and contents for a report of phase ``when``; none where nothing ran.

    ``blamed`` is the name of the step that an error names; ``everything`` shows all that was recorded (``-vv``).
    """
    if not steps:
        return []
    step = failing_step(steps, blamed)
    most = 10**9 if everything else _LINES_OF_OUTPUT
    lines = [_sandbox_line(record, steps), *_step_lines(steps, step, everything=everything)]
    lines += [f"{_title(step)}: {_asked(step)}", *_stream(step, "stdout", most)]
    made = [(f"Captured stdout {when}: arl steps", "\n".join(lines) + "\n")]
    if err := _stream(step, "stderr", most):
        made.append(
            (f"Captured stderr {when}: arl step {_word(step['name'])}", "\n".join([f"{_title(step)}", *err]) + "\n")
        )
    return made


def _sandbox_line(record: TestRecord, steps: list[StepRecord]) -> str:
    names = list(dict.fromkeys(step["sandbox"] for step in steps))
    if len(names) > 1:
        return f"arl: {len(steps)} steps in {len(names)} sandboxes ({', '.join(map(_word, names[:4]))})"
    where = record.sandboxes.get(names[0], {})
    facts = [f"pool {steps[0]['pool']}", *([where["isolation"]] if "isolation" in where else [])]
    return f"arl: sandbox {_word(names[0])} ({_word(', '.join(facts))})"


def _step_lines(steps: list[StepRecord], failing: StepRecord, *, everything: bool) -> list[str]:
    shown = steps if everything or len(steps) <= _LINES_OF_STEPS else _around(steps, failing)
    several = len({step["sandbox"] for step in shown}) > 1
    phases = len({step["phase"] for step in shown}) > 1 or shown[0]["phase"] != "call"
    rows = [_row(step, several=several, phase=phases) for step in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{'>' if step is failing else ' '} "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for step, row in zip(shown, rows, strict=True)
    ]
    if len(shown) < len(steps):
        lines.insert(0, f"  {len(steps) - len(shown)} more steps are not shown (-vv shows them)")
    return lines


def _around(steps: list[StepRecord], failing: StepRecord) -> list[StepRecord]:
    place = next(index for index, step in enumerate(steps) if step is failing)
    first = max(0, min(place - _LINES_OF_STEPS // 2, len(steps) - _LINES_OF_STEPS))
    return steps[first : first + _LINES_OF_STEPS]


def _row(step: StepRecord, *, several: bool, phase: bool) -> list[str]:
    ended = ending(step["outcome"], step["exitCode"], signal=step["signal"], limit=step["limit"])
    row = [str(step["number"]), _word(step["name"]), ended, _duration(step), _usage(step)]
    return row + [step["phase"]] * phase + [_word(step["sandbox"])] * several


def _usage(step: StepRecord) -> str:
    """``peak 241Mi of 256Mi, cpu 3.9 s``, as far as it is known."""
    usage = step.get("usage")
    return ", ".join(part for part in (memory_used(usage, step.get("memoryLimit")), cpu_time(usage)) if part)


def _duration(step: StepRecord) -> str:
    return "-" if step["outcome"] in {None, "Skipped"} else format_duration(step["duration"])


def _title(step: StepRecord) -> str:
    return f"step {step['number']} '{_word(step['name'])}'"


def _asked(step: StepRecord) -> str:
    return step_type(step["type"]).record_line(step)


def _stream(step: StepRecord, name: str, most: int) -> list[str]:
    size = step[f"{name}Size"]
    if not size:
        return []
    shown, count = tail(step[name], most)
    cut = size > len(step[name].encode("utf-8", "replace"))
    if not shown:
        return [f"{name}: {size} bytes, no longer kept"]
    if count > len(shown) or cut:
        return [f"{name} ({size} bytes; its last {len(shown)} lines):", *shown]
    return [f"{name}:", *shown]


def _word(text: str, width: int = 40) -> str:
    return one_line(text, width)
