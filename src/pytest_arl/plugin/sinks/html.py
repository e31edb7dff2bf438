"""The record as a text beside a test in pytest-html's page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_arl.plugin.report_sinks import ReportSink
from pytest_arl.text.untrusted import neutralise

if TYPE_CHECKING:
    from pytest_arl.plugin.record import StepRecord

__all__ = ["Sink"]


class Sink(ReportSink):
    """``--html``."""

    def on_steps(self, report: Any, part: dict[str, Any]) -> None:
        """A text extra with the steps of this phase."""
        extra = {
            "name": f"arl steps ({report.when})",
            "format_type": "text",
            "content": _as_text(part["steps"]),
            "mime_type": "text/plain",
            "extension": "txt",
        }
        report.extras = [*getattr(report, "extras", []), extra]


def _as_text(steps: list[StepRecord]) -> str:
    parts = []
    for step in steps:
        head = {
            key: value for key, value in step.items() if key not in {"stdout", "stderr"} and value not in (None, [])
        }
        parts.append("\n".join([json.dumps(head), step["stdout"], step["stderr"]]))
    return neutralise("\n".join(parts))
