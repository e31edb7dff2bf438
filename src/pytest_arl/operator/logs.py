"""Logs: one JSON object a line. What a Task holds (commands, environment, content, output) is never in one."""

from __future__ import annotations

import json
import logging
import sys
import traceback

from pytest_arl.text.timestamps import timestamp
from pytest_arl.text.untrusted import shorten

__all__ = ["setup"]

_LONGEST = 8192
"""Characters of a message, and of each text beside it."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "data", {})
        if record.exc_info and record.exc_info[0] is not None:
            # The frames only: a line of source holds no data, an exception's text may.
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = "".join(traceback.format_tb(record.exc_info[2]))[-4000:]
        return _visible(json.dumps(_short(line), default=str, ensure_ascii=False))


def _short(line: dict[str, object]) -> dict[str, object]:
    """A line in which nobody else's words are without an end."""
    return {name: shorten(value, _LONGEST) if isinstance(value, str) else value for name, value in line.items()}


def _visible(text: str) -> str:
    """JSON in which whatever a terminal could obey is escaped: controls, separators, turns of the direction of writing.

    They stand in strings only; whoever reads the JSON has them as they were.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def setup(level: str) -> None:
    """Write to stderr from here on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pytest_arl").setLevel(level.upper())
