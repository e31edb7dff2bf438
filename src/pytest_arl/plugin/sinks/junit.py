"""The record as properties in junitxml."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_arl.plugin.record import failing_step
from pytest_arl.plugin.report_sinks import ReportSink
from pytest_arl.steps import step_type
from pytest_arl.text.untrusted import one_line, tail

if TYPE_CHECKING:
    import pytest

    from pytest_arl.plugin.record import StepRecord, TestRecord

__all__ = ["MAX_PROPERTIES", "Sink"]

MAX_PROPERTIES = 100
"""junitxml properties of a test; the failing step comes first, so that it is always among them."""

_PREFIX = "arl."
_LINES = 20


class Sink(ReportSink):
    """``--junitxml``."""

    def before_report(self, item: pytest.Item, record: TestRecord, *, failed: bool) -> None:
        """Say in ``user_properties`` what ran, in place of what an earlier phase or attempt said."""
        item.user_properties[:] = [pair for pair in item.user_properties if not str(pair[0]).startswith(_PREFIX)]
        item.user_properties += _properties(record, failed=failed)[:MAX_PROPERTIES]


def _properties(record: TestRecord, *, failed: bool) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [(f"{_PREFIX}sandbox", name) for name in list(record.sandboxes)[:4]]
    pairs += [(f"{_PREFIX}isolation", tier) for tier in _tiers(record)]
    if not record.steps:
        return pairs
    pairs.append((f"{_PREFIX}pool", record.steps[-1]["pool"]))
    worst = failing_step(record.steps)
    rest = [step for step in record.steps if step is not worst]
    if failed or worst["outcome"] != "Succeeded":
        pairs += _of_step(worst, ends=True) + [pair for step in rest for pair in _of_step(step)]
    else:
        rest = record.steps
        pairs += [pair for step in rest for pair in _of_step(step)]
    # Last: where there is no room for all, the steps matter more than what each used.
    ordered = rest if worst in rest else [worst, *rest]
    return pairs + [pair for step in ordered for pair in _usage_of(step)]


def _tiers(record: TestRecord) -> list[str]:
    return sorted({where["isolation"] for where in record.sandboxes.values() if "isolation" in where})


def _of_step(step: StepRecord, *, ends: bool = False) -> list[tuple[str, object]]:
    name = f"{_PREFIX}step.{step['number']}"
    asked = step_type(step["type"]).record_command(step)
    code = step["exitCode"]
    pairs = [
        (f"{name}.name", one_line(step["name"])),
        (f"{name}.command", one_line(asked, 1000)),
        (f"{name}.outcome", step["outcome"] or "no result"),
        (f"{name}.exit_code", "" if code is None else code),
        (f"{name}.duration", round(step["duration"] or 0.0, 6)),
    ]
    if ends:
        pairs += [
            (f"{name}.{stream}", "\n".join(tail(step[stream], _LINES)[0]))
            for stream in ("stdout", "stderr")
            if step[stream]
        ]
    return pairs


_USAGE = {"userTime": "user_time", "systemTime": "system_time", "maxRss": "max_rss", "memoryPeak": "memory_peak"}


def _usage_of(step: StepRecord) -> list[tuple[str, object]]:
    """The resources that a step used, in seconds and bytes, as far as they are known."""
    usage = step.get("usage") or {}
    values = [(name, usage.get(key)) for key, name in _USAGE.items()]
    return [
        (f"{_PREFIX}step.{step['number']}.{name}", round(value, 6) if isinstance(value, float) else value)
        for name, value in values
        if value is not None
    ]
