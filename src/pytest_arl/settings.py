"""The value of every setting, and where it came from; :mod:`pytest_arl.declared_settings` says which there are.

Precedence, strongest first: what a test says (:func:`override`) > command line > environment > ini >
``[tool.pytest-arl]`` > default. Explicit arguments of a session beat all of them.

Standard library only: this is read at every start of pytest, used or not. Its data are named tuples, for making a
dataclass costs several times as much. A pyproject.toml is parsed only where its bytes mention ``pytest-arl``, so that
a project without settings does not pay for a TOML parser.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pytest_arl.config_files import TRUST, ConfigFiles, parse_toml
from pytest_arl.declared_settings import ISOLATION_TIERS, SCOPES, SETTINGS, Setting
from pytest_arl.errors import UsageError
from pytest_arl.text.wording import hint, type_name

__all__ = [
    "ISOLATION_TIERS",
    "SCOPES",
    "SETTINGS",
    "Project",
    "Setting",
    "Settings",
    "Value",
    "activate",
    "current",
    "in_force",
    "override",
]

__tracebackhide__ = True

_TABLE = "pytest-arl"
DEFAULT = "default"
"""The source of a value that nobody set."""


Keeps = Callable[[], Mapping[Path, Callable[[], object] | None]]
"""Gives paths, each with what makes a folder there where none is, or None."""


class Value(NamedTuple):
    """A setting's value and where it came from, fit to print."""

    value: Any
    source: str


class Project(NamedTuple):
    """The pyproject.toml that has a ``[tool.pytest-arl]``, and that table."""

    path: Path
    table: Mapping[str, Any]

    @property
    def source(self) -> str:
        """``[tool.pytest-arl] in /x/pyproject.toml``."""
        return f"[tool.{_TABLE}] in {self.path}"


class Settings(Mapping[str, Value]):
    """All settings, frozen: ``settings["pool"].value``, ``settings["pool"].source``, ``settings.value("pool")``."""

    __slots__ = ("_values", "files", "keeps", "project", "start_dir", "writes")

    def __init__(
        self,
        values: Mapping[str, Value],
        start_dir: Path,
        project: Project | None,
        files: ConfigFiles,
        writes: Mapping[str, Path] | None = None,
        keeps: Keeps | None = None,
    ) -> None:
        self._values = dict(values)
        self.files = files
        """Configuration as it was when it was first read."""
        self.writes = writes or {}
        """Paths that this side writes while sandboxes run, by option: no sandbox may write there."""
        self.keeps: Keeps = keeps or dict
        """Other files that this side reads and writes: no sandbox may change them. Asked before the first sandbox."""
        self.start_dir = start_dir
        """The start of the search for a pyproject.toml: pytest's rootdir, or the working directory."""
        self.project = project

    @classmethod
    def build(
        cls,
        *,
        cli: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        ini: Mapping[str, object] | None = None,
        ini_path: Path | None = None,
        start_dir: Path | None = None,
        files: ConfigFiles | None = None,
        writes: Mapping[str, Path] | None = None,
        keeps: Keeps | None = None,
    ) -> Settings:
        """Read every source; raises UsageError that names the option and the source of a bad value.

        Args:
            cli: values by setting's name; None is not given.
            environ: the environment; None is none of it.
            ini: values by setting's name; None and ``""`` are not given.
            ini_path: the ini file, for the source's name and as the base of its relative paths.
            start_dir: where to look for pyproject.toml, and upward; None is the working directory.
            files: what was read before; None reads everything anew.
            writes: paths that this side writes, by option.
            keeps: what else it reads and writes.
        """
        here = Path.cwd()
        start = here if start_dir is None else start_dir
        files = ConfigFiles(trusted=(environ or {}).get(TRUST, "")) if files is None else files
        project = _find_project(start, files)
        table = _known(project)
        ini_name = ini_path.name if ini_path else "pytest.ini"
        ini_base = ini_path.parent if ini_path else start
        values: dict[str, Value] = {}
        for setting in SETTINGS.values():
            name = setting.name
            if cli and cli.get(name) is not None:
                values[name] = _value(setting, cli[name], setting.flag, setting.flag, here)
            elif environ and environ.get(setting.env):
                values[name] = _value(setting, environ[setting.env], setting.env, setting.env, here)
            elif ini and ini.get(name) not in (None, ""):
                source = f"{setting.ini} in {ini_name}"
                values[name] = _value(setting, ini[name], source, source, ini_base)
            elif project and name in table:
                label = f"{name} of {project.source}"
                values[name] = _value(setting, table[name], project.source, label, project.path.parent)
            else:
                values[name] = Value(setting.default, DEFAULT)
        if (output := values["output"].value) is not None:
            writes = {**(writes or {}), SETTINGS["output"].flag: output}
        return cls(values, start, project, files, writes, keeps)

    def handed(self) -> dict[str, Any]:
        """All of it in plain types, for :meth:`taken` in another process of the run."""
        values = {
            name: (str(value), True, source) if isinstance(value, Path) else (value, False, source)
            for name, (value, source) in self._values.items()
        }
        writes = {option: str(path) for option, path in self.writes.items()}
        if (pools_file := self.value("pools_file")) is not None:
            with suppress(UsageError):  # it is told where a pool is asked for
                self.files.read(pools_file)
        project = None if self.project is None else str(self.project.path)
        known = {"files": self.files.known, "project": project, "start_dir": str(self.start_dir)}
        return {"values": values, "writes": writes, **known}

    @classmethod
    def taken(cls, handed: Mapping[str, Any], keeps: Keeps | None = None) -> Settings:
        """Settings that another process has handed over: no file is read again."""
        files, start = ConfigFiles(handed["files"]), Path(handed["start_dir"])
        values = {
            name: Value(Path(value) if is_path else value, source)
            for name, (value, is_path, source) in handed["values"].items()
        }
        writes = {option: Path(path) for option, path in handed["writes"].items()}
        project = None if handed["project"] is None else _project_in(Path(handed["project"]), files)
        return cls(values, start, project, files, writes, keeps)

    def value(self, name: str) -> Any:
        """The value alone."""
        return self._values[name].value

    def overridden(self, values: Mapping[str, object], source: str) -> Settings:
        """These settings with some values replaced; ``source`` says by what (``marker arl``, ``parameter``).

        None is a value here, where the setting takes it: a marker's ``timeout=None`` lifts the run's limit.
        """
        merged = dict(self._values)
        for name, value in values.items():
            if name not in SETTINGS:
                raise UsageError(f"{source}: there is no setting {name!r}; {hint(name, SETTINGS)}")
            merged[name] = _value(SETTINGS[name], value, source, f"{source}: {name}", Path.cwd())
        return Settings(merged, self.start_dir, self.project, self.files, self.writes, self.keeps)

    def configured(self) -> dict[str, Value]:
        """Settings that are not the default, for the header."""
        return {name: value for name, value in self._values.items() if value.source != DEFAULT}

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash((tuple(self._values.items()), self.start_dir))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value.value!r} ({value.source})" for name, value in self.configured().items())
        return f"<Settings {shown or 'all default'}>"


def _value(setting: Setting, raw: object, source: str, label: str, base: Path) -> Value:
    """A parsed value; ``label`` names it in an error, ``base`` is what its path is relative to."""
    try:
        value = setting.parse(raw)
    except UsageError as error:
        raise UsageError(f"{label} {error}") from None
    return Value(base / value if isinstance(value, Path) else value, source)


def _find_project(start: Path, files: ConfigFiles) -> Project | None:
    """The first pyproject.toml with our table, from ``start`` to the top of its repository."""
    start = Path(os.path.abspath(start))  # noqa: PTH100 - resolve() would leave the folder the user named
    for folder in files.folders(start):
        project = _project_in(folder / "pyproject.toml", files)
        if project is not None:
            return project
    return None


def _project_in(path: Path, files: ConfigFiles) -> Project | None:
    """Our table of a pyproject.toml; None where it has none. UsageError where it is not ours to obey."""
    try:
        content = files.read(path)
    except UsageError:
        return None
    if _TABLE.encode() not in content:
        return None
    tool = parse_toml(path, content).get("tool")
    table = tool.get(_TABLE) if isinstance(tool, dict) else None
    if table is None:
        return None
    files.require_own(path)
    if not isinstance(table, dict):
        raise UsageError(f"tool.{_TABLE} in {path} must be a table, not {type_name(table)}")
    return Project(path, table)


def _known(project: Project | None) -> dict[str, object]:
    """The project's settings, by name; an unknown key is an error, for it would silently do nothing."""
    if project is None:
        return {}
    table = {}
    for key, value in project.table.items():
        name = key.replace("-", "_")
        if name in SETTINGS:
            table[name] = value
        elif key != "pools":
            raise UsageError(f"unknown key {key!r} of {project.source}; {hint(key, [*SETTINGS, 'pools'])}")
    return table


class _Active:
    """The settings in force in this process: a base, and what the running tests lay over it.

    One for the process, not one for each context: a session that a test makes in a thread of its own follows the
    test's marker too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._base: Settings | None = None
        self._built: tuple[object, Settings] | None = None
        self._files: dict[str, ConfigFiles] = {}
        self._overlays: tuple[tuple[Mapping[str, object], str], ...] = ()
        self._folded: tuple[object, object, Settings] | None = None

    def activate(self, settings: Settings | None) -> Settings | None:
        with self._lock:
            previous, self._base = self._base, settings
            return previous

    def current(self) -> Settings:
        with self._lock:
            base, overlays = self._base or self._from_here(), self._overlays
            if self._folded is not None and self._folded[0] is base and self._folded[1] is overlays:
                return self._folded[2]
        settings = base
        for values, source in overlays:
            settings = settings.overridden(values, source)
        with self._lock:
            self._folded = (base, overlays, settings)
        return settings

    def in_force(self, otherwise: Settings) -> Settings:
        with self._lock:
            untouched = self._base is None and not self._overlays
        return otherwise if untouched else self.current()

    def push(self, overlay: tuple[Mapping[str, object], str]) -> None:
        with self._lock:
            self._overlays = (*self._overlays, overlay)

    def remove(self, overlay: tuple[Mapping[str, object], str]) -> None:
        with self._lock:
            # By identity: two tests may lay equal values over.
            self._overlays = tuple(other for other in self._overlays if other is not overlay)

    def _from_here(self) -> Settings:
        """Settings without pytest, built anew only where the working directory or a variable has changed; what is
        read for a directory is read once.
        """
        here = os.getcwd()  # noqa: PTH109 - compared more often than used, and a Path takes 10 us to make
        seen = (here, tuple(os.environ.get(setting.env) for setting in SETTINGS.values()))
        if self._built is None or self._built[0] != seen:
            files = self._files.setdefault(here, ConfigFiles(trusted=os.environ.get(TRUST, "")))
            self._built = (seen, Settings.build(environ=os.environ, start_dir=Path(here), files=files))
        return self._built[1]


_active = _Active()


def activate(settings: Settings | None) -> Settings | None:
    """Make these the process's settings, None to read them from the environment again; returns what was there."""
    return _active.activate(settings)


def current() -> Settings:
    """The settings in force now: what was activated, or else environment and pyproject.toml, with all overrides."""
    return _active.current()


def in_force(otherwise: Settings) -> Settings:
    """The settings in force now where somebody has activated or overridden any, else ``otherwise``.

    For what is asked at each step: :func:`current` looks at the whole environment, which takes 0.08 ms.
    """
    return _active.in_force(otherwise)


@contextmanager
def override(values: Mapping[str, object], source: str) -> Iterator[Settings]:
    """Lay values over the settings while a test runs; bad ones are a UsageError that names ``source``."""
    overlay = (dict(values), source)
    current().overridden(*overlay)
    _active.push(overlay)
    try:
        yield current()
    finally:
        _active.remove(overlay)
