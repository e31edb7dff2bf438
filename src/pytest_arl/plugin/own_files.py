"""Files that pytest itself reads and writes on this machine in a run: no sandbox may decide what is there."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_arl.settings import Keeps, Settings

__all__ = ["REPORTS", "freeze_sources", "guard_sources", "keeping", "pools_source", "writable_folders", "writes"]

REPORTS = (
    ("junit", "--junitxml", "xmlpath", False),
    ("html", "--html", "htmlpath", True),
    ("allure", "--alluredir", "allure_report_dir", True),
    (None, "--report-log", "report_log", True),
)
"""Kinds of report: the module of ``sinks`` that puts steps into it (None where pytest's own reports are all it needs),
the option that asks for it, pytest's name for that, and whether it shows outputs of passing tests. It stands here, as
plain tuples, because every start of pytest reads it.
"""

_WRITTEN = {
    **{flag: option for _, flag, option, _ in REPORTS},
    "--log-file": "log_file",
    "--debug": "debug",
    "--basetemp": "basetemp",
}
"""Options that name what is opened by its path when tests run, or have run, with pytest's own names for them."""


def writes(config: pytest.Config) -> dict[str, Path]:
    """Reports that are written while or after sandboxes run, by option: to be refused where a sandbox can write."""
    found = {option: config.getoption(name, None) for option, name in _WRITTEN.items()}
    here = config.invocation_params.dir
    named = {option: here / Path(path).expanduser() for option, path in found.items() if isinstance(path, str) and path}
    if "--log-file" not in named and (path := config.getini("log_file")):
        named["log_file"] = config.rootpath / Path(path).expanduser()
    return named


def keeping(config: pytest.Config) -> Keeps:
    """Paths that are read-only for a sandbox that can write around them: the cache, each ``conftest.py``, what is
    compiled of that.
    """

    def found() -> dict[Path, Callable[[], object] | None]:
        kept: dict[Path, Callable[[], object] | None] = {}
        cache = getattr(config, "cache", None)
        if cache is not None:
            # Made by pytest itself, as it puts a .gitignore there.
            kept[config.rootpath / Path(config.getini("cache_dir")).expanduser()] = partial(cache.mkdir, "arl")
        for plugin in config.pluginmanager.get_plugins():
            file = getattr(plugin, "__file__", None)
            if isinstance(file, str) and Path(file).name == "conftest.py":
                compiled = Path(cache_from_source(file)).parent
                kept[Path(file)] = None
                kept[compiled] = partial(_make, compiled)
        return kept

    return found


def pools_source(settings: Settings) -> Path | None:
    """The file that this machine's pools come from, or None."""
    source: Path | None = settings.value("pools_file")
    if source is None and settings.project is not None and "pools" in settings.project.table:
        source = settings.project.path
    return source


def writable_folders(settings: Settings) -> frozenset[Path]:
    """The folders of this machine that sandboxes of this run may write."""
    if pools_source(settings) is None:
        return frozenset()
    from pytest_arl.errors import UsageError
    from pytest_arl.pools import usable_pools

    try:
        pools = usable_pools(settings)
    except UsageError:
        return frozenset()  # there will be no sandbox
    return frozenset(mount.source for pool in pools.values() for mount in pool.mounts if mount.writable)


def guard_sources(written: frozenset[Path]) -> Callable[[], None]:
    """Have tracebacks and warnings quote no file that a sandbox may have put there. Gives what ends that.

    At the beginning of every run: the controller of pytest-xdist opens no sandbox, and quotes its workers' warnings.
    """
    if not written:
        return lambda: None
    from pytest_arl.host_files.quoted_sources import guard_quoted_sources

    return guard_quoted_sources(written)


def freeze_sources(written: frozenset[Path]) -> None:
    """Import no module that a sandbox may have put there, in this process and from now on.

    Before any process of the run has a sandbox: pytest-xdist's workers run tests once all have collected theirs, and
    the controller, which imports late for its reports, has none.
    """
    from pytest_arl.host_files.late_imports import freeze_imports

    for folder in written:
        with suppress(OSError, RuntimeError):  # one that is missing is refused where it is mounted
            path = folder.resolve()
            freeze_imports(path.stat(), str(path))


def _make(path: Path) -> None:
    from pytest_arl.host_files import open_folder

    open_folder(path, make=True).close()
