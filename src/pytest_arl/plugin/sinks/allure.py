"""The record as an attachment of a test in allure's results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_arl.plugin.report_sinks import ReportSink

if TYPE_CHECKING:
    import pytest

__all__ = ["Sink"]


class Sink(ReportSink):
    """``--alluredir``."""

    def on_steps(self, report: pytest.TestReport, part: dict[str, Any]) -> None:  # noqa: ARG002 - allure knows which test runs
        """The phase's part of the record."""
        import allure

        body = json.dumps(part, indent=2)
        allure.attach(body, name="arl steps", attachment_type=allure.attachment_type.JSON)
