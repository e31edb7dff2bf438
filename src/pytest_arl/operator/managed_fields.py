"""``managedFields`` of objects: which of them an object's maker has filled, so that writing to it costs too much.

They are what the maker sends: a megabyte of names, in any order. Before each write of an object the API server sorts
them, by a time that grows with the square of their number: seconds of a processor for some ten thousand, minutes for
what fits into an object (seen with Kubernetes 1.34). It goes on with that after the caller has given up, and a caller
that asks again has it begin again. A write that empties them reads none, and a deletion reads none either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_arl.cluster.objects import Object

__all__ = ["MOST_NAMES", "ManagedFields"]

MOST_NAMES = 2000
"""Names of fields that are left alone: a Task of 256 steps that was applied has some 1,500. So many take the API server
0.03 s, in the worst order.
"""

_LEAST_BYTES = 8 * MOST_NAMES
"""Of a text with more names: each is at least ``"f:":{},``. A shorter one is not looked at."""

_MOST_CROWDED = 10_000
"""UIDs that are remembered. The oldest is forgotten, until its object is seen again."""


class ManagedFields:
    """UIDs of the objects that have more names of fields than anybody needs, as they were seen last."""

    def __init__(self) -> None:
        self._crowded: dict[str, None] = {}

    def note(self, found: Object, size: int) -> None:
        """Look at an answer of the API server, of ``size`` bytes: an object, or a list."""
        items = found.get("items")
        for body in items if isinstance(items, list) else [found]:
            meta = body.get("metadata") if isinstance(body, dict) else None
            if not isinstance(meta, dict) or not isinstance(which := meta.get("uid"), str):
                continue
            if size > _LEAST_BYTES and _has_more_names(meta.get("managedFields"), MOST_NAMES):
                self._crowded[which] = None
                if len(self._crowded) > _MOST_CROWDED:
                    del self._crowded[next(iter(self._crowded))]
            else:
                self._crowded.pop(which, None)

    def are_crowded(self, which: str) -> bool:
        """True for the UID of an object that is to be emptied before it is written to."""
        return which in self._crowded


def _has_more_names(value: Any, most: int) -> bool:
    """True if there are more keys than that in a value, in all that it holds."""
    names, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            names += len(each)
            if names > most:
                return True
            left += each.values()
        elif isinstance(each, list):
            left += each[: most + 1]
    return False
