"""Imports of this process from a folder of ``sys.path`` that sandboxes can write, as pytest's rootdir often is.

A module that code in a sandbox puts there would be found before one that is installed, and metadata that it puts there
(``*.dist-info``) can name any module as a plugin of anything: whatever imports late, as plugins of pytest do when a
test fails, would run what the sandbox chose. So such a folder is frozen: Python finds in it what was there before.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_arl.host_files.late_metadata import guard_metadata, metadata_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.abc import PathEntryFinder
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["freeze_imports"]

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Content:
    """The modules and metadata that Python finds in a frozen folder.

    Attributes:
        origins: for each name of a module, the file that it is, relative to the folder; None for a folder that is no
            regular package.
        metadata: names of the folders and files with the metadata of distributions; None where they are not frozen.
        whole: whether every name is frozen, not only those in ``origins``.
    """

    origins: dict[str, str | None] = field(default_factory=dict)
    metadata: tuple[str, ...] | None = None
    whole: bool = False


_frozen: dict[_Identity, _Content] = {}


class _Frozen:
    """Another finder of the same folder, but for what is frozen."""

    def __init__(self, finder: PathEntryFinder, path: str, content: _Content) -> None:
        self._finder = finder
        self._path = path
        self._content = content

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """See :class:`importlib.abc.PathEntryFinder`."""
        name = fullname.rpartition(".")[2]
        origins = self._content.origins
        if name not in origins:
            return None if self._content.whole else self._finder.find_spec(fullname, target)
        spec = self._finder.find_spec(fullname, target)
        return spec if spec is not None and _origin(spec, self._path) == origins[name] else None

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """See :func:`pkgutil.iter_modules`."""
        import pkgutil  # noqa: PLC0415 - whoever asks has it

        for name, is_package in pkgutil.iter_importer_modules(self._finder, prefix):  # type: ignore[attr-defined]
            if self.find_spec(name.removeprefix(prefix)) is not None:
                yield name, is_package

    def invalidate_caches(self) -> None:
        """See :class:`importlib.abc.PathEntryFinder`."""
        self._finder.invalidate_caches()


def freeze_imports(folder: os.stat_result, path: str) -> None:
    """Limit imports of this process, from folders of ``sys.path`` that sandboxes can write, to the present files.

    Args:
        folder: what sandboxes can write, with all below it.
        path: where that is, without links. In a folder of ``sys.path`` around it, only the name on the way to it is
            frozen: an ``__init__.py`` would make a package of it.
    """
    changed = False
    for entry in sys.path:
        with suppress(OSError):
            state = os.stat(entry or ".")  # noqa: PTH116 - a string in
            if os.path.samestat(state, folder):
                changed |= _freeze(entry, state, None)
            elif (name := _name_below(state, path)) is not None:
                changed |= _freeze(entry, state, name)
    if changed:
        _install()


def _freeze(entry: str, state: os.stat_result, only: str | None) -> bool:
    """Record what an entry of ``sys.path`` has, or its module of that name. False if that is frozen already."""
    from pkgutil import get_importer  # noqa: PLC0415 - few pools need it

    identity = state.st_dev, state.st_ino
    before = _frozen.get(identity, _Content())
    if before.whole or only in before.origins:
        return False
    where = os.path.abspath(entry)  # noqa: PTH100 - a string in, a string out
    finder = get_importer(where)
    if finder is None:
        return False
    # More than names: beside coverage.xml, coverage.py would be another module, and a folder is a package of its own
    # once it has an __init__.py.
    names = {name.partition(".")[0] for name in os.listdir(where)} if only is None else {only}  # noqa: PTH208 - the same
    specs = {name: finder.find_spec(name) for name in names}
    origins = {name: _origin(spec, where) for name, spec in specs.items() if spec is not None}
    metadata = metadata_in(where) if only is None else None
    _frozen[identity] = _Content({**origins, **before.origins}, metadata, whole=only is None)
    return True


def _origin(spec: ModuleSpec, folder: str) -> str | None:
    return None if spec.origin is None else os.path.relpath(spec.origin, folder)


def _name_below(folder: os.stat_result, path: str) -> str | None:
    """The name in a folder that leads to a path, if it does."""
    while (parent := os.path.dirname(path)) != path:  # noqa: PTH120 - a string in, a string out
        if os.path.samestat(os.stat(parent), folder):  # noqa: PTH116 - the same
            return os.path.basename(path).partition(".")[0]  # noqa: PTH119 - the same
        path = parent
    return None


def _install() -> None:
    """Have every finder of a frozen folder made by us, in whatever spelling its path comes."""
    if _find_frozen not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_frozen)
    for path in list(sys.path_importer_cache):
        if _content(path) is not None:
            sys.path_importer_cache.pop(path, None)
    guard_metadata(_metadata)


def _find_frozen(path: str) -> _Frozen:
    """A hook of ``sys.path_hooks``."""
    content = _content(path)
    if content is not None:
        for hook in sys.path_hooks:
            if hook is not _find_frozen:
                with suppress(ImportError):
                    return _Frozen(hook(path), os.path.abspath(path), content)  # type: ignore[arg-type]  # noqa: PTH100
    raise ImportError("nothing is frozen there", path=path)


def _content(path: Any) -> _Content | None:
    try:
        state = os.stat(path or ".")  # noqa: PTH116 - whatever is in sys.path
    except (OSError, TypeError, ValueError):
        return None
    return _frozen.get((state.st_dev, state.st_ino))


def _metadata(path: Any) -> tuple[str, ...] | None:
    content = _content(path)
    return None if content is None else content.metadata
