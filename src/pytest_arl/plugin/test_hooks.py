"""pytest's hooks while tests run, each a line or two that says which room does the work."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_arl.plugin import harmless, infrastructure, reports, test_options
from pytest_arl.plugin.recorder import RECORD
from pytest_arl.plugin.run import any_heard, run_of
from pytest_arl.plugin.workers import ATTRIBUTE as TOTALS

if TYPE_CHECKING:
    import warnings
    from collections.abc import Generator, Mapping

    from _pytest.fixtures import SubRequest

    from pytest_arl.plugin.run import Run

__all__ = [
    "pytest_collection_finish",
    "pytest_fixture_setup",
    "pytest_internalerror",
    "pytest_keyboard_interrupt",
    "pytest_make_collect_report",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_warning_recorded",
]

__tracebackhide__ = True

_STATUS = tuple[str, str, "str | tuple[str, Mapping[str, bool]]"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests have been imported, and none has run in any worker: each says only after this that it has collected."""
    run_of(session.config).freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The test starts: what it asks of its sandbox holds until its end.

    Neither first nor a wrapper: a test that is skipped is not looked at, and an error finds every other plugin set up.
    """
    run = run_of(item.config)
    run.begin(item)
    if run.shares:
        run.shared.set_back()
    infrastructure.forget_subtests(item)
    if item.get_closest_marker(test_options.MARKER) is not None:
        run.lay_over(test_options.asked_by(item))
        if run.shares:
            run.shared.before_test(item, run.asked)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """The test's body."""
    run_of(item.config).recorder.phase = "call"
    item.stash[infrastructure.IN_BODY] = True
    try:
        return (yield)
    finally:
        del item.stash[infrastructure.IN_BODY]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """The test's end: sandboxes that outlive it return to their checkpoint."""
    run = run_of(item.config)
    run.recorder.phase = "teardown"
    try:
        result = yield
    except Exception:
        if run.shares:
            run.shared.set_back()
        raise
    if run.shares:
        run.shared.set_back()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Keep for tests what a fixture wider than function prepared in a shared sandbox."""
    run = run_of(request.config)
    if fixturedef.scope == "function":
        return (yield)
    if run.shares:
        run.shared.set_back()  # the fixture's end before, with another parameter, may have been a moment ago
    before = run.shared.uses() if run.shares else {}
    fixturedef.addfinalizer(partial(_fixture_over, run, fixturedef))  # the first to be added is the last to be called
    result = yield
    if run.shares:
        run.shared.checkpoint(before, fixturedef, cast("SubRequest", request))
    return result


def _fixture_over(run: Run, fixture: pytest.FixtureDef[Any]) -> None:
    if run.shares:
        run.shared.fixture_over(fixture, run.recorder.item if run.recorder.phase == "setup" else None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Everything a report carries for us is put on it here, once."""
    run = run_of(item.config)
    subtest = infrastructure.IN_BODY in item.stash
    if RECORD in item.stash:
        reports.prepare(item, call)
    report = yield
    infrastructure.mark_report(item, call, report, subtest=subtest)
    if (error := infrastructure.unavailable(call)) is not None and not item.config.getoption("fulltrace", False):
        infrastructure.say_once(report, error)
        run.recorder.unavailable.setdefault(str(error))
    elif report.outcome == "failed":
        reports.shorten_class(report)
    if any_heard():
        harmless.clean_report(report)
    if RECORD in item.stash:
        reports.attach(item, call, report, subtest=subtest)
    if run.recorder.worker is not None and run.recorder.heard:
        setattr(report, TOTALS, run.recorder.totals())
    if call.when == "teardown":
        run.end()
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module may open a sandbox when it is imported."""
    report = yield
    if any_heard():
        harmless.clean_report(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A subtest's report gets its name after it was made."""
    if any_heard():
        harmless.clean_subtest(report)


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Warnings go to the terminal as they are."""
    if any_heard():
        harmless.clean_warning(warning_message)


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """So does the reason of ``pytest.exit``."""
    if any_heard():
        harmless.clean_exit(excinfo.value)


@pytest.hookimpl(tryfirst=True)
def pytest_internalerror(excrepr: object) -> None:
    """And what a plugin, or a hook of a conftest.py, raised."""
    if any_heard():
        harmless.clean_representation(excrepr)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> Generator[None, _STATUS, _STATUS]:
    """An error of the infrastructure counts as an error."""
    return infrastructure.status(report, (yield))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The tests are over: close what they left open; a worker says what it used."""
    run = run_of(session.config)
    run.finish()
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[TOTALS] = run.recorder.totals()
