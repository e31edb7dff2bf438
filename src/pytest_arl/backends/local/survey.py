"""The pools of a run on this machine, looked up before the first sandbox runs.

What code in a sandbox may write must not decide what a later sandbox is given, nor what the Python reads that runs
pytest. So all pools are looked at together, whichever is used first: a folder that one pool mounts writable may hold
what another one mounts.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import ancestry, canonical, inside, trace
from pytest_arl.errors import UsageError
from pytest_arl.host_files.late_metadata import metadata_in
from pytest_arl.pools import usable_pools

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from pytest_arl.backends.local.mount_sources import MountSource, Sources
    from pytest_arl.backends.local.paths import Way
    from pytest_arl.pools import LocalPool, Mount
    from pytest_arl.settings import Settings

__all__ = ["Kept", "Kind", "Survey"]

_CONFIGURATION = (
    "pyproject.toml",
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "tox.ini",
    "setup.cfg",
    "conftest.py",
)
"""Files of pytest's rootdir that pytest reads in every run."""


class Kind(Enum):
    """The reason why something is kept, in words that fit after ``it is``."""

    PROGRAM = "the Python environment or a program that runs pytest and its sandboxes"
    SEARCHED = "on the PATH by which pytest finds its programs"
    IMPORTS = "on sys.path of the Python that runs pytest"
    METADATA = "metadata of a package on sys.path of the Python that runs pytest"
    SETTINGS = "read by pytest in every run"
    ROOT = "the root folder of a pool"
    SOURCE = "what a pool mounts"
    POINT = "where a pool mounts something"


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that no sandbox may replace.

    Attributes:
        path: as it is written; may lead over links.
        kind: why.
        pool: the pool that means it; empty where that is none.
        writable: whether its content may be written by those who may write around it.
    """

    path: str
    kind: Kind
    pool: str = ""
    writable: bool = False


_writable: dict[tuple[int, int], tuple[str, os.stat_result]] = {}
"""Folders that sandboxes here could ever write, by device and inode: the mount as it is written, and the folder."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The target of a path, and for each link on its way the folders that held it then: they may be gone since."""

    way: Way
    source: MountSource
    around: tuple[Container[tuple[int, int]], ...]


class Survey:
    """Holds what was found; :meth:`look_up` finds it again, whatever is there by then.

    Attributes:
        sources: who holds it open.
        pools: those there are now, by name.
        ever: those, and all that there were before.
        start_dir: pytest's rootdir, without links.
        found: where each path of a pool led, by the path as it is written.
        kept: what no sandbox may replace.
    """

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        used: LocalPool,
        programs: Iterable[str],
        earlier: Survey | None = None,
    ) -> None:
        """Look everything up. What is missing or wrong is no error before its own pool is used.

        Args:
            sources: who holds what is found.
            settings: where pools are, and pytest's rootdir.
            used: the pool that is about to be.
            programs: what is started on this machine for a sandbox.
            earlier: the survey before; what its pools may write they may have written.
        """
        self.sources = sources
        self.pools = _usable(settings) | {used.name: used}
        self.ever = [*self.pools.values()]
        self.ever += [pool for pool in (earlier.ever if earlier else ()) if pool not in self.ever]
        self.start_dir = os.path.realpath(settings.start_dir)
        self.found: dict[str, _Found] = {**earlier.found} if earlier else {}
        for pool in self.ever:
            for path in _paths(pool):
                with suppress(OSError, RuntimeError):
                    self._find(path)
        self._remember_writable()
        self.kept = (
            *_of_python(programs),
            *_of_settings(settings),
            *(self._of_run(settings) if self._writes() else ()),
            *(_of_metadata() if self._writes() else ()),
            *(kept for pool in self.ever for kept in _of_pool(pool)),
        )

    def _writes(self) -> bool:
        return any(mount.writable for pool in self.ever for mount in pool.mounts)

    def _of_run(self, settings: Settings) -> Iterator[Kept]:
        """Other files that the run reads and writes. A folder that is missing is made where a sandbox could make it."""
        for path, make in settings.keeps().items():
            if make is not None and not os.path.lexists(path) and self._in_writable(path):
                with suppress(OSError):
                    make()
            yield Kept(canonical(os.path.abspath(path)), Kind.SETTINGS)

    def _in_writable(self, path: Path) -> bool:
        parent = os.path.realpath(path.parent)
        return any(inside(status, parent) is not None for _, status in _writable.values())

    def _find(self, path: Path) -> _Found:
        written = os.fspath(path)
        found = self.found.get(written)
        if found is None:
            way = trace(written)
            around = tuple(ancestry(os.path.dirname(link)) for link in way.links)
            found = self.found[written] = _Found(way, self.sources.open(way.end), around)
        return found

    def look_up(self, path: Path, what: str) -> MountSource:
        """The source that a path of a pool means. Raises OSError and RuntimeError where it does not exist.

        UsageError where a link that a sandbox can write decides: one of an earlier run may have made it.
        BackendUnavailable where it has been replaced since it was found.
        """
        found = self._find(path)
        for link, folders in zip(found.way.links, found.around, strict=True):
            for folder, (text, _) in _writable.items():
                if folder in folders:
                    raise UsageError(
                        f"{what}: {path} leads through the symbolic link {link}, which {text!r} lets sandboxes "
                        f"change: if that is intended, write the path it leads to, {found.way.end}"
                    )
        self.sources.require(found.source, what)
        return found.source

    def _remember_writable(self) -> None:
        for pool in self.ever:
            for mount in pool.mounts:
                found = self.found.get(os.fspath(mount.source))
                if mount.writable and found is not None:
                    status = found.source.status
                    _writable[status.st_dev, status.st_ino] = (mount.text, status)


def _usable(settings: Settings) -> dict[str, LocalPool]:
    try:
        return usable_pools(settings)
    except UsageError:
        return {}  # then the one that is used was made before the file became unreadable


def _paths(pool: LocalPool) -> Iterator[Path]:
    yield from (mount.source for mount in pool.mounts)
    if pool.root is not None:
        yield pool.root


def _of_python(programs: Iterable[str]) -> Iterator[Kept]:
    """Files and import paths of the running Python, and the programs that are started beside it."""
    for path in dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)):
        yield Kept(canonical(os.path.abspath(path)), Kind.PROGRAM)
    searched = filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep))
    for path in dict.fromkeys((sys.executable, *programs)):
        if path:
            yield Kept(canonical(os.path.abspath(path)), Kind.PROGRAM)
    for path in dict.fromkeys(searched):
        yield Kept(canonical(path), Kind.SEARCHED)
    for path in dict.fromkeys((*sys.path, *_editable())):
        yield Kept(canonical(os.path.abspath(path)), Kind.IMPORTS)


def _of_metadata() -> Iterator[Kept]:
    """Metadata of installed packages in ``sys.path``: it names the modules that are imported as plugins."""
    libraries = tuple(f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix))  # kept as a whole
    for path in dict.fromkeys(canonical(os.path.abspath(entry)) for entry in sys.path):
        with suppress(OSError):
            for name in () if path.startswith(libraries) else metadata_in(path):
                yield Kept(os.path.join(path, name), Kind.METADATA)


def _editable() -> Iterator[str]:
    """Packages that setuptools installed editable: a module of its own knows where they are, not sys.path."""
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            mapping = getattr(module, "MAPPING", None)
            if isinstance(mapping, dict):
                yield from (path for path in mapping.values() if isinstance(path, str))


def _of_settings(settings: Settings) -> Iterator[Kept]:
    rootdir = Path(canonical(os.path.abspath(settings.start_dir)))
    files = [rootdir / name for name in _CONFIGURATION]
    with suppress(OSError):
        files += [path / "conftest.py" for path in sorted(rootdir.glob("test*")) if path.is_dir()]
    if settings.project is not None:
        files.append(settings.project.path)
    if (named := settings.value("pools_file")) is not None:
        files.append(named)
    for path in dict.fromkeys(canonical(os.path.abspath(path)) for path in files):
        yield Kept(path, Kind.SETTINGS)


def _of_pool(pool: LocalPool) -> Iterator[Kept]:
    if pool.root is not None:
        yield Kept(os.fspath(pool.root), Kind.ROOT, pool.name)
    for mount in pool.mounts:
        yield Kept(os.fspath(mount.source), Kind.SOURCE, pool.name, mount.writable)
        outer = _around(mount, pool)
        if outer is not None:
            point = os.path.join(outer.source, os.path.relpath(mount.target, outer.target))
            yield Kept(point, Kind.POINT, pool.name, writable=True)


def _around(mount: Mount, pool: LocalPool) -> Mount | None:
    """The mount of the same pool in which another's target lies."""
    outer = [other for other in pool.mounts if mount.target.startswith(f"{other.target}/")]
    return max(outer, key=lambda other: len(other.target), default=None)
