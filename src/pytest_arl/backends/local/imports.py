"""Imports of this process from a folder that sandboxes can write: pytest's rootdir, if it is on ``sys.path``.

A module that code in a sandbox puts there would be found before one that is installed: whatever imports late, as
plugins of pytest do when a test fails, would run it here.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import FileFinder, ModuleSpec
    from types import ModuleType

__all__ = ["freeze_imports"]


class _Frozen:
    """The finder of a folder, for the modules that were there when this was made."""

    def __init__(self, finder: FileFinder, path: str) -> None:
        self._finder = finder
        names = {name.partition(".")[0] for name in os.listdir(path)}  # noqa: PTH208 - a string in, a string out
        # More than their names: beside coverage.xml, coverage.py would be another module, and a folder is a package
        # of its own once it has an __init__.py.
        self._origins = {name: spec.origin for name in names if (spec := finder.find_spec(name)) is not None}

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """As :class:`importlib.abc.PathEntryFinder` has it."""
        name = fullname.rpartition(".")[2]
        if name not in self._origins:
            return None
        spec = self._finder.find_spec(fullname, target)
        return spec if spec is not None and spec.origin == self._origins[name] else None

    def invalidate_caches(self) -> None:
        """The same."""
        self._finder.invalidate_caches()


def freeze_imports(folder: os.stat_result) -> None:
    """From now on find no module in a folder of ``sys.path`` but those that it has now, in this process."""
    from pkgutil import get_importer  # noqa: PLC0415 - few pools need it

    for entry in sys.path:
        where = entry or os.getcwd()  # noqa: PTH109 - the key in the cache is this string
        with suppress(OSError):
            finder = get_importer(where) if os.path.samestat(os.stat(where), folder) else None  # noqa: PTH116
            if finder is not None and not isinstance(finder, _Frozen):
                frozen = _Frozen(finder, where)  # type: ignore[arg-type]  # of a folder, as it could be listed
                sys.path_importer_cache[where] = frozen
