"""Text that we did not write, made safe and short enough to print.

A sandbox may print anything: sequences that rename the terminal, erase lines above it or write to the
clipboard, and lines that a CI runner obeys (``::add-path::``, ``##vso[...]``). Here they become visible
characters. What is kept in files by ``--arl-output`` is left as it was: a file does nothing by itself.

The patterns are compiled by the first text that needs them, so that importing this costs a run nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "bounded",
    "command_line",
    "disarm_workflow_commands",
    "neutralise",
    "one_line",
    "printable",
    "readable",
    "shorten",
    "tail",
]

_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
"""C0 and C1 but newline and tab, line separators, what turns the direction of writing, and lone surrogates."""

_LONGEST_IN_JSON = 6
"""Bytes that a byte of output takes at most: a NUL is written as ``\\u0000``."""

_WIDTH = 200
"""Characters of a line that is cut."""

_COMMAND_LINE_LENGTH = 80
"""Characters of a command that a message shows: it shares its line with a name, an outcome and a time."""

_CUT = " ... "

_COLOUR = r"\x1b\[([0-9;]{0,20})m"

_RESETS = frozenset({"", "0", "00"})

_SHOWN = _RESETS | {
    *("1", "01", "3", "03", "4", "04", "22", "23", "24", "39", "49"),
    *(str(code) for base in (30, 90) for code in range(base + 1, base + 7)),
    "90",  # grey
}
"""Attributes that leave a text readable. Others hide it: 8 does, and so does a colour that is the background's."""

# Each pattern reads a text once: white space of the same line alone, and nothing to go back for.
_LINE_COMMAND = r"(?m)^((?:[^\S\n]|\x1b\[[0-9;]*m)*)::(?=[A-Za-z])"
"""GitHub's runner obeys it at the start of a line. White space may come before it, and so may colours."""

_INLINE_COMMAND = r"##(?=(?:vso|teamcity)?\[)"
"""Azure's agent, GitHub's runner (an older form) and TeamCity search the whole line for it, so that what stands before
it changes nothing: it must be broken up.
"""

_SECTION = r"(?<![.\\])(?<![^\Wm])(?=section_(?:start|end):\d)"
"""GitLab's. It is none in the middle of a word, but for one that ends with an m, as a colour does."""


class _Spelled(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = text = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
        return text


_spelled = _Spelled({0x0D: "\\r"})


def printable(text: str) -> str:
    """The text with every control character spelled out, as in ``repr``; newlines and tabs stay."""
    return re.sub(_CONTROL, lambda match: match[0].translate(_spelled), text.replace("\r\n", "\n"))


def disarm_workflow_commands(text: str) -> str:
    """The text with a backslash in what a CI runner would obey."""
    text = re.sub(_INLINE_COMMAND, r"#\\#", re.sub(_LINE_COMMAND, r"\1\\::", text))
    return re.sub(_SECTION, r"\\", text)


def neutralise(text: str, *, keep_colours: bool = False) -> str:
    """Text on which neither a terminal nor a CI runner acts; colours may stay, up to its end."""
    return disarm_workflow_commands(_with_colours(text) if keep_colours else printable(text))


def _with_colours(text: str) -> str:
    parts = []
    at, coloured = 0, False
    for match in re.finditer(_COLOUR, text):
        codes = match[1].split(";")
        if _SHOWN.issuperset(codes):
            parts += [printable(text[at : match.start()]), match[0]]
            at, coloured = match.end(), codes[-1] not in _RESETS
    parts.append(printable(text[at:]))
    if coloured:
        parts.append("\x1b[0m\n" if text.endswith("\n") else "\x1b[0m")
        parts[-2] = parts[-2].removesuffix("\n")
    return "".join(parts)


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, start and end; the cut between them is marked."""
    if len(text) <= length:
        return text
    kept = max(0, length - len(_CUT))
    return f"{text[: kept - kept // 2]}{_CUT}{text[len(text) - kept // 2 :]}"[:length]


def readable(text: str, length: int) -> str:
    """Somebody else's text in lines, safe to print, at most ``length`` characters; no more of it is looked at."""
    return shorten(printable(shorten(text, length)), length)


def one_line(text: object, length: int | None = _WIDTH) -> str:
    """Somebody else's text or value on a line that nothing acts on: line breaks and tabs are spelled out.

    It has about ``length`` characters at most; None is no limit.
    """
    return _line(str(text), length, lambda line: line.replace("\n", "\\n").replace("\t", "\\t"))


def _line(text: str, length: int | None, spell: Callable[[str], str] = str) -> str:
    if length is None:
        return disarm_workflow_commands(spell(printable(text)))
    # Cut first, as most of a long text is not shown; disarmed last, as a cut may take what disarms.
    return disarm_workflow_commands(shorten(spell(printable(shorten(text, length))), length))


def command_line(command: Sequence[str], length: int = _COMMAND_LINE_LENGTH) -> str:
    """A command on one line of about ``length`` characters, quoted so that a shell takes it."""
    import shlex

    # A command may hold megabytes: quote no more of it than can be shown.
    if len(command) > length:
        command = [*command[: length // 2], _CUT.strip(), *command[-length // 2 :]]
    return one_line(shlex.join(shorten(word, length) for word in command), length)


def tail(text: str, lines: int) -> tuple[list[str], int]:
    """The last lines of a text, each safe to print and none of them overlong, and how many there were."""
    if not text:
        return [], 0
    body = text.removesuffix("\n")
    last = body.rsplit("\n", lines)[-lines:] if lines else []
    return [_line(line.removesuffix("\r"), _WIDTH) for line in last], body.count("\n") + 1


def bounded(data: bytes, limit: int) -> str:
    """Decode, keeping head and tail, such that the text takes at most ``limit`` bytes as JSON."""
    import json

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
