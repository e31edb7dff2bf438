"""A kind of report is one module of `sinks` and one row."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import pytest

from pytest_arl.plugin import own_files, sinks
from pytest_arl.plugin.report_sinks import _ALWAYS, ReportSink, reads_passing, sinks_of


class Config:
    """Options of a run."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def getoption(self, name: str, default: object) -> object:
        return "x" if name in self._options else default


def names(*options: str) -> list[str]:
    config: Any = Config(*options)
    return [type(sink).__module__.rpartition(".")[2] for sink in sinks_of(config)]


def test_each_module_has_a_row_and_a_sink() -> None:
    modules = {info.name for info in pkgutil.iter_modules(sinks.__path__)}
    assert modules == {module for module, *_ in own_files.REPORTS if module is not None} | set(_ALWAYS)
    for module in modules:
        assert issubclass(import_module(f"{sinks.__name__}.{module}").Sink, ReportSink)


def test_a_report_that_nobody_asks_for_is_not_made() -> None:
    assert names() == ["failure_sections"]
    assert names("xmlpath", "htmlpath", "allure_report_dir") == ["failure_sections", "junit", "html", "allure"]


@pytest.mark.parametrize(
    ("option", "read"), [("xmlpath", False), ("htmlpath", True), ("allure_report_dir", True), ("report_log", True)]
)
def test_outputs_of_passing_tests_are_for_those_who_show_them(option: str, read: bool) -> None:
    config: Any = Config(option)
    assert reads_passing(config) is read


def test_no_sandbox_may_decide_what_a_report_is_written_to() -> None:
    assert {flag: option for _, flag, option, _ in own_files.REPORTS}.items() <= own_files._WRITTEN.items()
    assert own_files._WRITTEN["--junitxml"] == "xmlpath", "control"
