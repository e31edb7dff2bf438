"""Logs: one JSON object a line. What a Task holds (commands, environment, content, output) is never in one."""

from __future__ import annotations

import json
import logging
import sys
import traceback

from pytest_arl.operator.objects import now

__all__ = ["setup"]


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": now(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "data", {})
        if record.exc_info and record.exc_info[0] is not None:
            # The frames only: a line of source holds no data, an exception's text may.
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = "".join(traceback.format_tb(record.exc_info[2]))[-4000:]
        return json.dumps(line, default=str, ensure_ascii=False)


def setup(level: str) -> None:
    """Write to stderr from here on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pytest_arl").setLevel(level.upper())
