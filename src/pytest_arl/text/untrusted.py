"""Text that came out of a sandbox, made safe and short enough to print.

A sandbox may print anything: sequences that rename the terminal, erase lines above it or write to the
clipboard, and lines that a CI runner obeys (``::add-path::``, ``##vso[...]``). Here they become visible
characters. What is kept in files by ``--arl-output`` is left as it was: a file does nothing by itself.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "bounded",
    "cpu_time",
    "cut_line",
    "disarm_workflow_commands",
    "duration",
    "memory_used",
    "neutralise",
    "one_line",
    "printable",
    "quoted_command",
    "tail",
]

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
)
"""C0 and C1 but newline and tab, line separators, what turns the direction of writing, and lone surrogates."""

_LONGEST_IN_JSON = 6
"""Bytes that a byte of output takes at most: a NUL is written as ``\\u0000``."""

_WIDTH = 200
"""Characters of a line that is cut."""

_COLOUR = re.compile(r"\x1b\[([0-9;]{0,20})m")

_RESETS = frozenset({"", "0", "00"})

_SHOWN = _RESETS | {
    *("1", "01", "3", "03", "4", "04", "22", "23", "24", "39", "49"),
    *(str(code) for base in (30, 90) for code in range(base + 1, base + 7)),
    "90",  # grey
}
"""Attributes that leave a text readable. Others hide it: 8 does, and so does a colour that is the background's."""

# Each pattern reads a text once: white space of the same line alone, and nothing to go back for.
_LINE_COMMAND = re.compile(r"^((?:[^\S\n]|\x1b\[[0-9;]*m)*)::(?=[A-Za-z])", re.MULTILINE)
"""GitHub's runner obeys it at the start of a line. White space may come before it, and so may colours."""

_INLINE_COMMAND = re.compile(r"##(?=(?:vso|teamcity)?\[)")
"""Azure's agent, GitHub's runner (an older form) and TeamCity search the whole line for it, so that what stands before
it changes nothing: it must be broken up.
"""

_SECTION = re.compile(r"(?<![.\\])(?<![^\Wm])(?=section_(?:start|end):\d)")
"""GitLab's. It is none in the middle of a word, but for one that ends with an m, as a colour does."""


class _Spelled(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = text = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
        return text


_spelled = _Spelled()


def printable(text: str) -> str:
    """The text with every control character spelled out, as in ``repr``; newlines and tabs stay."""
    return _CONTROL.sub(lambda match: match[0].translate(_spelled), text.replace("\r\n", "\n"))


def disarm_workflow_commands(text: str) -> str:
    """The text with a backslash in what a CI runner would obey."""
    text = _INLINE_COMMAND.sub(r"#\\#", _LINE_COMMAND.sub(r"\1\\::", text))
    return _SECTION.sub(r"\\", text)


def neutralise(text: str, *, keep_colours: bool = False) -> str:
    """Neither a terminal nor a CI runner acts on what this returns; colours may stay, up to the end of the text."""
    return disarm_workflow_commands(_with_colours(text) if keep_colours else printable(text))


def _with_colours(text: str) -> str:
    parts = []
    at, coloured = 0, False
    for match in _COLOUR.finditer(text):
        codes = match[1].split(";")
        if _SHOWN.issuperset(codes):
            parts += [printable(text[at : match.start()]), match[0]]
            at, coloured = match.end(), codes[-1] not in _RESETS
    parts.append(printable(text[at:]))
    if coloured:
        parts.append("\x1b[0m\n" if text.endswith("\n") else "\x1b[0m")
        parts[-2] = parts[-2].removesuffix("\n")
    return "".join(parts)


def one_line(text: str, width: int = _WIDTH) -> str:
    """The text on a line of about ``width`` characters that nothing acts on; line breaks and tabs are spelled out."""
    return _short(text, width, lambda line: line.replace("\n", "\\n").replace("\t", "\\t"))


def _short(text: str, width: int, spell: Callable[[str], str] = str) -> str:
    # Cut first, as most of a long text is not shown; disarmed last, as a cut may take what disarms.
    return disarm_workflow_commands(cut_line(spell(printable(cut_line(text, width))), width))


def bounded(data: bytes, limit: int) -> str:
    """Decode, keeping head and tail, such that the text takes at most ``limit`` bytes as JSON."""
    if len(data) * _LONGEST_IN_JSON + 2 <= limit:
        return data.decode("utf-8", "replace")
    text = _cut_middle(data, limit).decode("utf-8", "replace") if len(data) > limit else data.decode("utf-8", "replace")
    while (size := len(json.dumps(text))) > limit:
        keep = int(len(text) * limit / size * 0.95) // 2
        text = f"{text[:keep]}\n[...]\n{text[-keep:] if keep else ''}" if keep > 10 else ""
    return text


def _cut_middle(data: bytes, limit: int) -> bytes:
    half = max(0, limit // 2 - 8)
    return data[:half] + b"\n[...]\n" + data[-half:]


def cut_line(line: str, width: int = _WIDTH) -> str:
    """One line, at most ``width`` characters, with the end kept as well as the start."""
    if len(line) <= width:
        return line
    half = (width - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def tail(text: str, lines: int) -> tuple[list[str], int]:
    """The last lines of a text, each safe to print and none of them overlong, and how many there were."""
    if not text:
        return [], 0
    body = text.removesuffix("\n")
    last = body.rsplit("\n", lines)[-lines:] if lines else []
    return [_short(line.removesuffix("\r"), _WIDTH) for line in last], body.count("\n") + 1


def quoted_command(argv: list[str]) -> str:
    """An argv as one line that could be pasted into a shell."""
    import shlex

    return shlex.join(argv)


def duration(seconds: float) -> str:
    """A duration for people: ``0.8 ms``, ``41 ms``, ``4.10 s``."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s"


def cpu_time(usage: Mapping[str, Any] | None) -> str:
    """``cpu 3.90 s``; empty where it is not known."""
    return "" if usage is None else f"cpu {duration(usage['userTime'] + usage['systemTime'])}"


def memory_used(usage: Mapping[str, Any] | None, limit: str | None = None) -> str:
    """``peak 241 of 256 Mi`` of all processes together, else ``largest 113 Mi`` of one; empty where it is not known."""
    if usage is None:
        return ""
    peak, largest = usage["memoryPeak"], usage["maxRss"]
    if peak is None:
        return "" if largest is None else f"largest {_mebibytes(largest)} Mi"
    most = "" if limit is None else _of(limit)
    return f"peak {_mebibytes(peak)}{most} Mi"


def _of(limit: str) -> str:
    """`` of 256``; empty where a cluster's pool says it in a way that we do not read."""
    from pytest_arl.errors import UsageError
    from pytest_arl.text.units import parse_quantity

    try:
        return f" of {_mebibytes(parse_quantity(limit))}"
    except UsageError:
        return ""


def _mebibytes(size: int) -> str:
    """Bytes in units of 2**20, as exactly as a reader wants them: ``0.4``, ``241``."""
    mebibytes = size / 2**20
    return f"{mebibytes:.0f}" if mebibytes >= 10 or size % 2**20 == 0 else f"{mebibytes:.1f}"
