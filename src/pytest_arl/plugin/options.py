"""The command line and the ini file, read into settings; and the header that shows them.

Nothing is declared here: every option comes from the table in :mod:`pytest_arl.settings`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_arl.errors import UsageError
from pytest_arl.plugin.own_files import keeping, pools_source, writes
from pytest_arl.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["HANDED", "add_options", "header", "read_settings"]

HANDED = "arl_settings"
"""Key of what a worker of pytest-xdist is given: the settings of its run."""


def add_options(parser: pytest.Parser) -> None:
    """Register each setting as an option and as an ini key."""
    group = parser.getgroup("arl", "sandboxes (pytest-arl)")
    for setting in SETTINGS.values():
        # Any text is taken here: what is wrong with it is said once, by the setting's own parser.
        bare = {} if setting.bare is None else {"nargs": "?", "const": setting.bare}
        group.addoption(
            setting.flag, dest=setting.ini, metavar=setting.metavar, default=None, help=setting.help, **bare
        )
        parser.addini(setting.ini, f"{setting.help} ({setting.flag})", default="")


def read_settings(config: pytest.Config) -> Settings:
    """The settings of a run. What is wrong is a usage error of pytest: exit code 4, no traceback."""
    ini_path: Path | None = config.inipath
    if (handed := getattr(config, "workerinput", {}).get(HANDED)) is not None:
        return Settings.taken(handed, keeping(config))
    try:
        return Settings.build(
            cli={name: config.getoption(setting.ini, None) for name, setting in SETTINGS.items()},
            environ=os.environ,
            ini={name: config.getini(setting.ini) for name, setting in SETTINGS.items()},
            ini_path=ini_path,
            start_dir=config.rootpath,
            writes=writes(config),
            keeps=keeping(config),
        )
    except UsageError as error:
        raise pytest.UsageError(f"pytest-arl: {error}") from None


def header(settings: Settings) -> list[str]:
    """``arl: backend local (default), pool ci (--arl-pool)``, and what pools of this machine give away; nothing where
    nothing is configured.
    """
    configured = settings.configured()
    lines = []
    if configured:
        names = ["backend", "pool", *(name for name in configured if name not in {"backend", "pool"})]
        lines = [", ".join(f"{name.replace('_', '-')} {_shown(settings, name)}" for name in names)]
    lines += _given_away(settings)
    if not lines:
        return []
    from pytest_arl.text.untrusted import one_line

    return [f"arl: {one_line(line, None)}" for line in lines]


def _given_away(settings: Settings) -> Iterator[str]:
    """The source of this machine's pools, and the parts of the machine that each lets sandboxes change or reach."""
    source = pools_source(settings)
    if source is None:
        return
    from pytest_arl.pools import usable_pools

    yield f"pools from {source}"
    try:
        pools = usable_pools(settings)
    except UsageError:
        return  # a test that uses one says it
    for pool in pools.values():
        mounts = [mount.text for mount in pool.mounts if mount.writable]
        given = ["network host"] if pool.network == "host" else []
        given += [f"mounts {', '.join(mounts)}"] if mounts else []
        if given:
            yield f"pool {pool.name}: {', '.join(given)}"


def _shown(settings: Settings, name: str) -> str:
    value, source = settings[name]
    return f"{value} ({source})"
