"""Names in messages: the nearest right one, lists of them, and the name of a type.

Standard library only, and cheap: start-up imports it. What only an error needs is imported by that error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["hint", "nearest", "one_of", "type_name"]


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
    """A name to write instead of ``word``: the nearest known name, or all of them."""
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
