"""pytest's hooks that every run calls, used or not: so they import as little as they can.

What happens while tests run is in :mod:`pytest_arl.plugin.test_hooks`, which is registered once tests are to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_arl.plugin.run import Run, run_of

if TYPE_CHECKING:
    from pytest_arl.plugin.summary import Summary

__all__ = [
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_make_parametrize_id",
    "pytest_report_header",
    "pytest_sessionstart",
    "pytest_unconfigure",
]

_MARKER = (
    "arl(pool_ref=None, timeout=None, ...): options of this test's sandbox, as arl_sandbox(...) takes them. "
    "Tests that use a sandbox have the marker automatically, so -m 'not arl' deselects them."
)

_FIXTURES = frozenset({"arl_sandbox", "arl_sandbox_factory"})
"""One of these is among the fixtures of every item that uses a sandbox: ``sandbox_fixture`` sees to that."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and ini keys."""
    from pytest_arl.plugin.options import add_options

    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """A conftest.py or another plugin may bring a backend."""
    from pytest_arl.hooks import HookSpecs

    pluginmanager.add_hookspecs(HookSpecs)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings; from here on they are the process's."""
    from pytest_arl.plugin.options import read_settings

    config.addinivalue_line("markers", _MARKER)
    Run(config, read_settings(config)).start()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is configured, and by what, and what pools give away."""
    from pytest_arl.plugin.options import header

    return header(run_of(config).settings)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Load the recorder and the reports where tests are to run, before xdist starts its workers."""
    if not session.config.getoption("collectonly"):
        from pytest_arl.plugin import test_hooks

        session.config.pluginmanager.register(test_hooks, "arl-running")
        run_of(session.config).prepare()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the marker on what uses a sandbox, before -m deselects."""
    for item in items:
        if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) and item.get_closest_marker("arl") is None:
            item.add_marker("arl")


def pytest_make_parametrize_id(val: object) -> str | None:
    """A dict of options is shown as its pool."""
    if not isinstance(val, dict) or not isinstance(val.get("pool_ref"), str):
        return None
    from pytest_arl.plugin.test_options import parameter_id

    return parameter_id(val)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Close every sandbox, however the run ended, and say what was used: the last line of all."""
    run = config.stash.get(Run.KEY, None)
    if run is None:
        return
    run.stop()
    summary: Summary | None = config.pluginmanager.get_plugin("arl-summary")
    if summary is not None:
        summary.write_last_line(config)
