"""How messages are put: the nearest right name, and untrusted text made safe to print.

Standard library only, and cheap: start-up imports it. What only an error needs is imported by that error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "command_line",
    "hint",
    "last_lines",
    "nearest",
    "one_of",
    "printable",
    "readable",
    "shorten",
    "shown",
    "type_name",
]

_COMMAND_LINE_LENGTH = 80
"""Characters of a command that a message shows: it shares its line with a name, an outcome and a time."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that ``word`` was probably meant to be, whatever its case and separators; None if none is near."""
    import difflib  # noqa: PLC0415 - only an error needs it

    plain = {name.lower().replace("_", "").replace("-", ""): name for name in known}
    found = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def one_of(known: Iterable[str]) -> str:
    """``a, b or c``."""
    names = list(known)
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def hint(word: str, known: Iterable[str]) -> str:
    """What to write instead of ``word``: the nearest known name, or all of them."""
    names = list(known)
    best = nearest(word, names)
    listed = f"known: {', '.join(names)}"
    return f"did you mean {best!r}? ({listed})" if best else listed


def type_name(value: object) -> str:
    """The type of a value that must not be printed itself (it may be a secret), with its article."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters of ``text``; a cut is marked."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def printable(text: str) -> str:
    """Text with every control character but newline and tab spelled out, so that no terminal obeys it."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def readable(text: str, length: int) -> str:
    """Somebody else's text, safe to print, at most ``length`` characters; no more of it is looked at than that."""
    return shorten(printable(shorten(text, length)), length)


def shown(value: object, length: int) -> str:
    """Somebody else's value within a sentence: on one line, safe to print, at most ``length`` characters."""
    return readable(str(value), length).replace("\n", " ")


def command_line(command: Sequence[str], length: int = _COMMAND_LINE_LENGTH) -> str:
    """A command on one line, quoted as a shell would want it and cut to ``length`` characters."""
    import shlex  # noqa: PLC0415 - messages only

    # A command may hold megabytes: quote no more of it than can be shown.
    words = [word[: length + 1] for word in command[: length + 1]]
    return shorten(printable(shlex.join(words)).replace("\n", "\\n").replace("\t", "\\t"), length)


def last_lines(text: str, *, count: int = 10, width: int = 200) -> list[str]:
    """The last lines of an output that have anything on them, safe to print and each at most ``width`` characters."""
    tail = text[-count * width * 2 :].replace("\r\n", "\n").split("\n")
    return [shorten(printable(line), width) for line in tail if line.strip()][-count:]
