"""Files that stay unchanged in a writable mount: bound over themselves, read-only, so no sandbox can replace them.

Its hooks, settings and modules do their work outside of the sandbox, and what other mounts begin at decides what later
sandboxes are given. Where the mount *is* such a thing, or lies in it, nothing is left to pin and the mount is refused.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import Way, closed_folder, fixed, inside, trace
from pytest_arl.backends.local.survey import Kept, Kind
from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_arl.backends.local.mount_sources import MountSource
    from pytest_arl.backends.local.survey import Survey
    from pytest_arl.pools import LocalPool, Mount

__all__ = ["REPOSITORIES", "Pin", "find_pins", "refuse_closed"]

REPOSITORIES = (".git", ".hg")
_MOST = 256
"""The time that bubblewrap takes grows with their square: 400 take seconds, at each start."""
_PARTS = ("bin", "include", "lib")
"""Prefixes of the names of an environment's folders."""
_OURS = (Kind.PROGRAM, Kind.SEARCHED, Kind.IMPORTS, Kind.METADATA, Kind.SETTINGS)
"""Kinds that matter to this process, not to a pool."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One thing inside a mount, by its name within it."""

    name: str
    writable: bool


def find_pins(
    survey: Survey, pool: LocalPool, mount: Mount, source: MountSource, repositories: Iterable[str], what: str
) -> list[Pin]:
    """The pins of a writable mount, outer ones first. Raises UsageError where it has to be refused."""
    _refuse_repository(source, what)
    pins = [Pin(name, writable=False) for name in repositories]
    for kept in survey.kept:
        with _reaching(kept.path, what):
            way = trace(kept.path)
            _refuse(kept, way, survey, source, what)
            name = inside(source.status, way.end)
            if name:
                pins.append(Pin(name, _writable(kept, pool)))
    pins = _outermost(pins)
    if len(pins) > _MOST:
        raise UsageError(
            f"{what}: more than {_MOST} files in it need a read-only mount of their own, such as {pins[-1].name!r}: "
            "remove those that are not needed (a sandbox may have created them), mount a folder below it, or mount "
            "it :ro"
        )
    for kept in survey.kept:
        if kept.kind in _OURS:
            with _reaching(kept.path, what):
                _refuse_links(kept, source, pins, what)
    for name in repositories:
        if os.path.islink(os.path.join(source.path, name)):
            _refuse_link(os.path.join(source.path, name), what)
    covered = {other.target for other in pool.mounts}
    return [pin for pin in pins if f"{mount.target}/{pin.name}" not in covered]


@contextmanager
def _reaching(path: str, what: str) -> Iterator[None]:
    """Skip a path that does not exist. UsageError where a closed folder of ours hides whether it does."""
    try:
        yield
    except PermissionError as error:
        refuse_closed(error.filename or path, what)
    except (OSError, RuntimeError):
        pass


def refuse_closed(path: str, what: str) -> None:
    """Raise UsageError where a folder of ours has kept us from a path."""
    closed = closed_folder(path)
    if closed is not None:
        raise UsageError(
            f"{what}: {closed} cannot be read, so its files cannot be kept read-only, but a sandbox could open it: "
            f"`chmod u+rwx {closed}`, or mount it :ro"
        )


def _writable(kept: Kept, pool: LocalPool) -> bool:
    """True if its content stays writable. Of another pool's mount only the place is kept: it may read it."""
    if kept.kind is Kind.SOURCE:
        return kept.writable or kept.pool != pool.name
    return kept.writable


def _outermost(pins: Iterable[Pin]) -> list[Pin]:
    """Each name once, read-only before writable, and none that lies in a read-only one."""
    chosen: dict[str, Pin] = {}
    outer: str | None = None
    # Name by name, so that all that lies in a pin follows it at once: a sandbox may have made very many repositories.
    for pin in sorted(pins, key=lambda pin: (pin.name.split("/"), pin.writable)):
        if pin.name not in chosen and (outer is None or not pin.name.startswith(outer)):
            chosen[pin.name] = pin
            outer = outer if pin.writable else f"{pin.name}/"
    return sorted(chosen.values(), key=lambda pin: (pin.name.count("/"), pin.name))


def _covered(name: str, pins: Iterable[Pin]) -> bool:
    return any(not pin.writable and (name == pin.name or name.startswith(f"{pin.name}/")) for pin in pins)


def _refuse(kept: Kept, way: Way, survey: Survey, source: MountSource, what: str) -> None:
    """Raise UsageError where the mount is what is kept, or lies in it."""
    if kept.kind in (Kind.SOURCE, Kind.POINT):
        return
    name = inside(os.stat(way.end), source.path)
    if name is None or (kept.kind is Kind.IMPORTS and _harmless(name, way.end, survey, source)):
        return
    if kept.kind is Kind.SEARCHED and (name or _is_rootdir(survey, source)):
        return
    if kept.kind is Kind.PROGRAM and name and (fixed(way.end) or not name.startswith(_PARTS)):
        return
    raise UsageError(
        f"{what}: {'it is' if not name else f'{way.end}, in which it lies, is'} {kept.kind.value}, and a sandbox could "
        "change that: mount it :ro, or mount a copy"
    )


def _harmless(name: str, entry: str, survey: Survey, source: MountSource) -> bool:
    """True if a mount in a folder of sys.path is no package of it; ``name`` is its path there."""
    if not name:
        # pytest's rootdir is there as soon as it has a conftest.py. docs/pools.md says what this leaves open.
        return _is_rootdir(survey, source)
    if any(kept.kind is Kind.PROGRAM and _lies_in(entry, kept.path) for kept in survey.kept):
        return False
    parts = name.split("/")
    folders = [os.path.join(entry, *parts[: count + 1]) for count in range(len(parts))]
    return not all(os.path.lexists(os.path.join(folder, "__init__.py")) for folder in folders)


def _is_rootdir(survey: Survey, source: MountSource) -> bool:
    return inside(source.status, survey.start_dir) == ""


def _lies_in(path: str, folder: str) -> bool:
    try:
        return inside(os.stat(folder), path) is not None
    except PermissionError:
        raise
    except OSError:
        return False


def _refuse_links(kept: Kept, source: MountSource, pins: Iterable[Pin], what: str) -> None:
    """Raise UsageError where a link that could be replaced is on the way to what is kept."""
    for link in trace(kept.path).links:
        folder = inside(source.status, os.path.dirname(link))
        if folder is not None and not _covered(os.path.join(folder, os.path.basename(link)), pins):
            _refuse_link(link, what)


def _refuse_link(link: str, what: str) -> None:
    raise UsageError(f"{what}: {link} is a symbolic link, which cannot be kept read-only: mount it :ro")


def _refuse_repository(source: MountSource, what: str) -> None:
    if not set(REPOSITORIES).isdisjoint(source.path.split("/")):
        raise UsageError(
            f"{what}: {source.path} belongs to version control, whose hooks and settings run on this machine: "
            "mount it :ro, or mount a copy"
        )
