"""Ways from one object to many, such as from a Sandbox to its Tasks. What has nothing in it is not kept."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Table"]

K = TypeVar("K")
V = TypeVar("V")


class Table(dict[K, dict[str, V]], Generic[K, V]):
    """A table by key, and in it by UID or name. A key of which nothing is known has nothing, and takes no place."""

    def __missing__(self, key: K) -> dict[str, V]:
        return {}

    def add(self, key: K, which: str, value: V) -> None:
        """Take note of one."""
        self.setdefault(key, {})[which] = value

    def drop(self, key: K, which: str) -> None:
        """One is gone."""
        there = self.get(key)
        if there is not None:
            there.pop(which, None)
            if not there:
                del self[key]
