"""Metadata of distributions that this process reads from a folder which sandboxes can write.

:mod:`importlib.metadata` looks for it again in each folder of ``sys.path`` whenever it is asked, and what is registered
there as an entry point is imported. In a frozen folder it finds what was there before; that this is still what it was
then is seen to by whoever lets sandboxes write there.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    Lookup = Callable[[Any], "tuple[str, ...] | None"]

__all__ = ["guard_metadata", "metadata_in"]

_ENDINGS = (".dist-info", ".egg-info")


def metadata_in(folder: str) -> tuple[str, ...]:
    """The names in a folder that Python takes for a distribution's metadata."""
    return tuple(name for name in os.listdir(folder) if name.lower().endswith(_ENDINGS))  # noqa: PTH208 - strings


def guard_metadata(lookup: Lookup) -> None:
    """Limit this process to the metadata that is known.

    Args:
        lookup: gives the names that a folder of ``sys.path`` had, or None for one that is not frozen.
    """
    import importlib.metadata  # noqa: PLC0415 - few pools need it, and it is slow to load

    _guard(importlib.metadata, lookup)
    if not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard(lookup))


class _Guard:
    """Is asked for distributions before every other finder, and finds none.

    The package ``importlib_metadata``, which some libraries prefer, and copies of it have finders of their own, which
    come with the first import of it.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def find_spec(self, *_: object) -> None:
        """See :class:`importlib.abc.MetaPathFinder`."""

    def find_distributions(self, *_: object, **__: object) -> Iterable[Any]:
        """See :class:`importlib.metadata.DistributionFinder`. The finders after this one are looked up later."""
        for finder in sys.meta_path:
            kind = finder if isinstance(finder, type) else type(finder)
            if kind.__name__ == "MetadataPathFinder" and (module := sys.modules.get(kind.__module__)) is not None:
                _guard(module, self._lookup)
        return ()


def _guard(module: ModuleType, lookup: Lookup) -> None:
    """Guard the finder of a module that has the interface of :mod:`importlib.metadata`."""
    kind: Any = module.MetadataPathFinder
    if hasattr(kind.find_distributions, "arl_guards"):
        return
    find = kind().find_distributions  # bound, whether it is the class's or an instance's

    def find_distributions(context: Any = None) -> Iterator[Any]:
        """See :class:`importlib.metadata.DistributionFinder`."""
        context = module.DistributionFinder.Context() if context is None else context
        for entry in context.path:
            known = lookup(entry)
            if known is None:
                yield from find(type(context)(**{**vars(context), "path": [entry]}))
            else:
                named = (name for name in known if _matches(name, context.name))
                yield from (module.Distribution.at(os.path.join(entry, name)) for name in named)  # noqa: PTH118

    find_distributions.arl_guards = True  # type: ignore[attr-defined]
    kind.find_distributions = staticmethod(find_distributions)


def _matches(file: str, name: str | None) -> bool:
    """True if a file or folder with metadata is that of a distribution, by the rules of Python's own finder."""
    return name is None or _normal(file.rpartition(".")[0].partition("-")[0]) == _normal(name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
