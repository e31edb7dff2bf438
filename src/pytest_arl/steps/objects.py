"""Steps as objects of a cluster have them: bounds of their fields, and texts that JSON can hold."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

__all__ = [
    "DURATION",
    "LONGEST_PATH",
    "LONGEST_WORD",
    "MOST_WORDS",
    "SHOWN",
    "Duration",
    "fits",
    "is_text",
    "readable",
    "spelled",
]

LONGEST_WORD = 128 * 1024
"""Characters of a word of a command and of a variable: the kernel's bound too."""
LONGEST_PATH = 4096
MOST_WORDS = 1024
"""Words of one command, and variables of one step."""
SHOWN = 200
"""Characters of a text in a step that is only described."""

DURATION = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"
Duration = Annotated[str, Field(pattern=DURATION, max_length=32, description="A Go duration such as 90s or 1m30s.")]


def readable(text: str) -> str:
    """Text that can be sent as JSON: bytes that are no UTF-8 become U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def spelled(text: str) -> str:
    """Text that any encoder takes: bytes that are no UTF-8 are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def fits(text: str, longest: int) -> bool:
    """True if JSON holds the text exactly, and it has at most ``longest`` characters."""
    return len(text) <= longest and (text.isascii() or is_text(os.fsencode(text)))


def is_text(data: bytes) -> bool:
    """True if the bytes are UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
