"""The memory for a namespace's objects: so many bytes of each kind, and no more.

A namespace's quota bounds objects only where its administrator has set one. What finds no room is kept in its least
form, see :func:`pytest_arl.operator.slim.cut`; a new object for which there is no room even so is left out until there
is some. Kinds have a bound each, so that Tasks, which anybody makes by the thousand, take no room from Sandboxes.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from pytest_arl.cluster.objects import uid
from pytest_arl.operator.slim import cut, weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.cluster.objects import Object

__all__ = ["LEAST", "MOST", "MemoryShares"]

MOST = {
    "warmpools": 8 * 1024 * 1024,
    "sandboxes": 12 * 1024 * 1024,
    "tasks": 24 * 1024 * 1024,
    "pods": 24 * 1024 * 1024,
    "leases": 2 * 1024 * 1024,
}
"""Bytes of a namespace that are kept, by kind. With the quota that docs/cluster.md recommends nothing is left out."""

_WHOLE_TASK = 256 * 1024
"""Bytes of a Task that is kept whole while it waits."""

_SMALL_TASK = 4 * 1024
"""Bytes of a Task that is kept whole however many others there are: most run one command. One that has to be read first
waits for the others that have to.
"""

_WHOLE_TASKS = 8 * 1024 * 1024
"""Bytes of a namespace's Tasks up to which one more is kept whole."""

LEAST = 512
"""Bytes that an object takes beside its own: its keys, and the tables in which it is."""


class MemoryShares:
    """The room that is taken, by UID of what takes it."""

    def __init__(self, left_out: Callable[[str, Object], None]) -> None:
        """``left_out`` is told the first object of a kind and namespace for which there is no room."""
        self._left_out = left_out
        self._taken: dict[str, tuple[str, str, int]] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._full: set[tuple[str, str]] = set()

    def held(self, kind: str, namespace: str) -> int:
        """Bytes that are taken."""
        return self._held[kind, namespace]

    def has(self, kind: str, namespace: str, which: str, size: int, most: int | None = None) -> bool:
        """True if an object of that size has room there, in place of what it was."""
        _, _, before = self._taken.get(which, ("", "", 0))
        return self._held[kind, namespace] - before + LEAST + size <= (MOST[kind] if most is None else most)

    def fit(self, kind: str, body: Object) -> Object | None:
        """Take room for a slim object, and give the form of it that is kept; None where it is left out.

        What is known already has a little more room, and its least form in any case: nothing is forgotten that is used.
        """
        which, namespace, size = (
            uid(body),
            body["metadata"]["namespace"],
            weight(body, _WHOLE_TASK if kind == "tasks" else math.inf),
        )
        most = self._most(kind, which)
        whole = min(most, _WHOLE_TASKS) if kind == "tasks" and size > _SMALL_TASK else most
        if (kind == "tasks" and size > _WHOLE_TASK) or not self.has(kind, namespace, which, size, whole):
            body = cut(kind, body)
            size = weight(body)
        return body if self.keep(kind, body, size) else None

    def keep(self, kind: str, body: Object, size: int) -> bool:
        """Take so much room for an object, in place of what it was; False where it is left out."""
        which, namespace = uid(body), body["metadata"]["namespace"]
        if which not in self._taken and not self.has(kind, namespace, which, size):
            if (kind, namespace) not in self._full:
                self._full.add((kind, namespace))
                self._left_out(kind, body)
            return False
        self._full.discard((kind, namespace))
        self.give_back(which)
        self._taken[which] = kind, namespace, LEAST + size
        self._held[kind, namespace] += LEAST + size
        return True

    def _most(self, kind: str, which: str) -> int:
        return MOST[kind] * 5 // 4 if which in self._taken else MOST[kind]

    def give_back(self, which: str) -> None:
        """It is gone."""
        kind, namespace, size = self._taken.pop(which, ("", "", 0))
        if size:
            self._held[kind, namespace] -= size
            if not self._held[kind, namespace]:
                del self._held[kind, namespace]
