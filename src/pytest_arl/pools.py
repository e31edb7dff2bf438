"""Pools of this machine: a table of pyproject.toml, or of the file that ``--arl-pools-file`` names.

Shape only: whether a mount or a root folder exists, and may be used, is judged where sandboxes are made.
Standard library only.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_arl.errors import PoolNotFound, UsageError
from pytest_arl.text.units import parse_positive_duration, parse_quantity
from pytest_arl.text.wording import hint, nearest, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_arl.settings import Settings

__all__ = [
    "DEFAULT_POOL",
    "KEPT_TIMES",
    "LocalPool",
    "Mount",
    "find_pool",
    "load_pools",
    "refuse_written",
    "usable_pools",
]

__tracebackhide__ = True

DEFAULT_POOL = "default"
"""The pool that is always there."""

_MI = 2**20
_LEAST_STACK = 512 * 2**10
"""Enough for the interpreter of a sandbox's agent."""
_MOST_STACK = 2**50
_OUTPUTS = 8
_SPARE_OUTPUT = 4 * _MI
KEPT_TIMES = 4
"""Default of ``kept``: so many times all that a sandbox can hold."""


@dataclass(frozen=True, slots=True)
class Mount:
    """More of this machine in a sandbox.

    Attributes:
        source: here; absolute, not resolved.
        target: there; absolute.
        writable: whether the sandbox may write it.
        text: as it was written, for messages.
    """

    source: Path
    target: str
    writable: bool
    text: str


@dataclass(frozen=True, slots=True)
class LocalPool:
    """A template for this machine's sandboxes.

    Attributes:
        name: the pool's.
        root: a folder with a root file system, absolute; None is this machine's own (``"host"``).
        mounts: more of this machine.
        env: added to the sandbox's environment. Its repr holds no values.
        network: ``none``, or ``host``, which gives up much of the isolation.
        memory, workspace, tmp: bytes.
        output: bytes of each stream that a result keeps.
        processes: most processes at once.
        cpus: most CPUs' worth of time, or None for no limit.
        cpu_time: seconds of processor time that each Command may use, or None for no limit.
        files: most descriptors of a process.
        stack: bytes of the stack of a process's first thread, or None for no limit.
        kept: bytes of one sandbox that this machine keeps over its life, or None for the default.
        warm: sandboxes kept ready.
        source: the file that it comes from, or None for the built-in default.
        base_dir: what its relative paths are relative to.
    """

    name: str
    base_dir: Path
    root: Path | None = None
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: Literal["none", "host"] = "none"
    memory: int = 2048 * _MI
    processes: int = 512
    cpus: float | None = None
    cpu_time: float | None = None
    files: int = 4096
    workspace: int = 1024 * _MI
    tmp: int = 512 * _MI
    output: int = 16 * _MI
    stack: int | None = 8 * _MI
    kept: int | None = None
    warm: int = 0
    source: Path | None = None

    @property
    def most_kept(self) -> int:
        """Bytes of one sandbox that this machine keeps over its life."""
        return KEPT_TIMES * (self.workspace + self.tmp) if self.kept is None else self.kept

    @property
    def most_printed(self) -> int:
        """Bytes of what it printed that a sandbox has on this machine's disk while it lives: enough for the results of
        some programs at once, whatever may be kept.
        """
        return max(self.most_kept, _OUTPUTS * (self.output + _SPARE_OUTPUT))


class _Tables(NamedTuple):
    """Pool tables as they stand in their file."""

    tables: Mapping[str, object]
    source: Path | None
    base_dir: Path


def load_pools(settings: Settings) -> dict[str, LocalPool]:
    """Every pool there is, ``default`` first. UsageError names the pool, the key and the file of what is wrong."""
    found = _tables(settings)
    pools = {DEFAULT_POOL: LocalPool(DEFAULT_POOL, found.base_dir)}
    for name, table in found.tables.items():
        pools[name] = _pool(name, table, found)
    return pools


def usable_pools(settings: Settings) -> dict[str, LocalPool]:
    """Every pool that is not wrong itself, for a look at all of them. UsageError where their file cannot be read."""
    found = _tables(settings)
    pools = {DEFAULT_POOL: LocalPool(DEFAULT_POOL, found.base_dir)}
    for name, table in found.tables.items():
        with suppress(UsageError):
            pools[name] = _pool(name, table, found)
    return pools


def find_pool(settings: Settings, name: str) -> LocalPool:
    """The pool of that name, or PoolNotFound with those there are and the file they come from."""
    found = _tables(settings)
    if name in found.tables:
        return _pool(name, found.tables[name], found)
    if name == DEFAULT_POOL:
        return LocalPool(DEFAULT_POOL, found.base_dir)
    names = sorted({DEFAULT_POOL, *found.tables})
    best = nearest(name, names)
    meant = f" (did you mean {best!r}?)" if best else ""
    if found.source is None:
        where = (
            f"no pyproject.toml from {settings.start_dir} up to the top of its repository has a "
            f"[tool.pytest-arl.pools.{name}]"
        )
    else:
        where = f"they come from {found.source}"
    raise PoolNotFound(f"there is no pool {name!r}{meant}; pools: {', '.join(names)}; {where}")


def refuse_written(pool: LocalPool, writes: Mapping[str, Path]) -> None:
    """Raise UsageError where this side writes something, by option, in a folder that the pool's sandboxes can write.

    What they put there would decide what is read from it, or where it goes.
    """
    from pytest_arl.host_files.named_links import looked_up  # noqa: PLC0415 - start-up reads this module

    for mount in pool.mounts:
        if not mount.writable:
            continue
        source = mount.source.resolve()
        for option, path in writes.items():
            named = Path(os.path.abspath(path))  # noqa: PTH100 - links are left as they are
            written = path.resolve()
            inside = written.is_relative_to(source) or any(map(named.is_relative_to, (source, mount.source)))
            inside = inside or any(source in step.parents for step in looked_up(path))  # a link on the way, say
            if inside or source.is_relative_to(written / "output"):
                raise UsageError(
                    f"{option}: {path} lies in {source}, which the sandboxes of pool {pool.name!r} can write "
                    f"({mount.text!r}): name a place outside of it, or mount it :ro"
                )


def _tables(settings: Settings) -> _Tables:
    path: Path | None = settings.value("pools_file")
    if path is not None:
        content = settings.files.read_toml(path)
        for key in content:
            if key != "pools":
                raise UsageError(
                    f"{path}: unknown table {key!r}: a pools file has [pools.NAME] tables and nothing else"
                )
        tables = content.get("pools", {})
        return _Tables(_mapping(tables, f"pools in {path}"), path, path.parent)
    if settings.project is not None and "pools" in settings.project.table:
        path = settings.project.path
        return _Tables(
            _mapping(settings.project.table["pools"], f"pools of {settings.project.source}"), path, path.parent
        )
    return _Tables({}, None, settings.project.path.parent if settings.project else settings.start_dir)


def _pool(name: str, table: object, found: _Tables) -> LocalPool:
    where = f"pool {name!r} in {found.source}"
    values: dict[str, Any] = {}
    for key, value in _mapping(table, where).items():
        parse = _PARSERS.get(key)
        if parse is None:
            raise UsageError(f"{where}: unknown key {key!r}; {hint(key, _PARSERS)}")
        try:
            values[key] = parse(value, found.base_dir)
        except UsageError as error:
            raise UsageError(f"{where}: {key} {error}") from None
    return LocalPool(name, found.base_dir, source=found.source, **values)


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table, not {type_name(value)}")
    return value


def _root(value: object, base: Path) -> Path | None:
    if value == "host":
        return None
    return _folder(value, base, 'must be "host" or a folder with a root file system')


def _folder(value: object, base: Path, rule: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{rule}, not {value!r}")
    return Path(_one_slash(os.fspath(base / Path(value).expanduser())))


def _one_slash(path: str) -> str:
    """POSIX lets a path begin with two slashes, and pathlib keeps them: a second name for each path."""
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _mounts(value: object, base: Path) -> tuple[Mount, ...]:
    if not isinstance(value, list):
        raise UsageError(f'must be a list such as ["src:/src:ro"], not {type_name(value)}')
    return tuple(map(_mount, value, repeat(base)))


def _mount(text: object, base: Path) -> Mount:
    rule = 'has %r, which is not of the form "src:/src", "src:/src:ro" or "src:/src:rw"'
    if not isinstance(text, str):
        raise UsageError(rule % (text,))
    parts = text.split(":")
    option = parts.pop() if len(parts) > 2 and parts[-1] in {"ro", "rw"} else "ro"
    if len(parts) != 2 or not all(parts) or "\0" in text:
        raise UsageError(rule % text)
    source, target = parts
    if not target.startswith("/") or ".." in target.split("/"):
        raise UsageError(f"has {text!r}: {target!r} must be an absolute path without '..'")
    return Mount(_folder(source, base, rule % text), _one_slash(os.path.normpath(target)), option == "rw", text)


def _env(value: object, _base: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UsageError(f'must be a table such as {{ DEBUG = "1" }}, not {type_name(value)}')
    for name, content in value.items():
        if not name or "=" in name or "\0" in name:
            raise UsageError(f"has the name {name!r}: a name is not empty and has no '=' in it")
        if not isinstance(content, str):
            raise UsageError(f"[{name!r}] must be a string, not {type_name(content)}")
        if "\0" in content:
            raise UsageError(f"[{name!r}] has a NUL byte")
    return dict(value)


def _network(value: object, _base: Path) -> str:
    if value not in ("none", "host"):
        raise UsageError(f"must be 'none' or 'host', not {value!r}")
    return str(value)


def _size(value: object, _base: Path) -> int:
    size = parse_quantity(value)
    if not size:
        raise UsageError("must be more than 0")
    return size


def _stack(value: object, _base: Path) -> int | None:
    if value == "unlimited":
        return None
    try:
        size = parse_quantity(value)
    except UsageError:
        size = 0
    if not _LEAST_STACK <= size <= _MOST_STACK:
        raise UsageError(
            f'must be a size from "512Ki" to "1Pi", such as "64Mi", or "unlimited" (only memory bounds it then), '
            f"not {value!r}"
        )
    return size


def _whole(least: int) -> Callable[[object, Path], int]:
    def parse(value: object, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"must be a whole number, at least {least}, not {value!r}")
        return value

    return parse


def _cpus(value: object, _base: Path) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise UsageError(f"must be a number of CPUs, more than 0, such as 0.5, not {value!r}")
    return float(value)


def _cpu_time(value: object, _base: Path) -> float:
    return parse_positive_duration(value)


_PARSERS: Mapping[str, Callable[[object, Path], object]] = {
    "root": _root,
    "mounts": _mounts,
    "env": _env,
    "network": _network,
    "memory": _size,
    "processes": _whole(1),
    "cpus": _cpus,
    "cpu_time": _cpu_time,
    "files": _whole(16),
    "workspace": _size,
    "tmp": _size,
    "stack": _stack,
    "output": _size,
    "kept": _size,
    "warm": _whole(0),
}
