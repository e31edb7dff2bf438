"""One run of pytest in this process: its settings, its recorder, its shared sandboxes, its reports.

Runs nest, where a test of a plugin runs pytest inside pytest; the innermost one records.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import pytest

from pytest_arl import hooks, settings
from pytest_arl.errors import PoolNotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.plugin.recorder import Recorder
    from pytest_arl.plugin.shared import SharedSandboxes
    from pytest_arl.plugin.test_options import Choice
    from pytest_arl.results import TaskResult
    from pytest_arl.session import SandboxSession, SessionListener

__all__ = ["Run", "ScopeName", "any_heard", "run_of"]

__tracebackhide__ = True

ScopeName = Literal["function", "class", "module", "package", "session"]
"""Scopes of a fixture, as pytest names them."""


_Session = TypeVar("_Session")


class Run:
    """State that the hooks of one run share."""

    KEY: ClassVar[pytest.StashKey[Run]] = pytest.StashKey()

    def __init__(self, config: pytest.Config, chosen: settings.Settings) -> None:
        self.config = config
        self.settings = chosen
        self.asked: dict[str, Choice] = {}
        self._settings_asked: dict[str, str] = {}
        """Options of those that are settings too, with the settings' names."""
        self._recorder: Recorder | None = None
        self._shared: SharedSandboxes | None = None
        self._overlay = ExitStack()
        self._guards = ExitStack()
        self._listens = False
        self._written: frozenset[Path] = frozenset()
        self._outer: tuple[settings.Settings | None, Any] = (None, None)

    # the run

    def start(self) -> None:
        """Settings, hooks and recorder of this run become those of the process."""
        self.config.stash[self.KEY] = self
        self._outer = (settings.activate(self.settings), hooks.set_pytest_hook(self.config.hook))
        _runs.append(self)

    def prepare(self) -> None:
        """Tests are to run: register what records and reports them. Raises pytest's usage error."""
        from pytest_arl.plugin.own_files import guard_sources, writable_folders
        from pytest_arl.plugin.summary import Summary
        from pytest_arl.plugin.workers import Handover
        from pytest_arl.session import notifications

        self._listens = len(_runs) == 1
        if self._listens:
            notifications.add(_listener)
        manager = self.config.pluginmanager
        manager.register(Summary(self.recorder, self.settings.value("durations")), "arl-summary")
        self._clean_live_log()
        self._written = writable_folders(self.settings)
        self._guards.callback(guard_sources(self._written))
        if self.settings.value("output") is not None:
            self._open_output()
        if manager.hasplugin("dsession"):
            self.freeze()  # before it starts workers
            output = self.recorder.output
            manager.register(Handover(self.settings, None if output is None else output.identity), "arl-handover")

    def freeze(self) -> None:
        """Import nothing, from now on, that a sandbox may have put there."""
        if self._written:
            from pytest_arl.plugin.own_files import freeze_sources

            freeze_sources(self._written)

    def _clean_live_log(self) -> None:
        handler: Any = getattr(self.config.pluginmanager.get_plugin("logging-plugin"), "log_cli_handler", None)
        if getattr(handler, "formatter", None) is not None:
            from pytest_arl.plugin.harmless import LiveLog

            handler.setFormatter(LiveLog(handler.formatter, any_heard))

    def _open_output(self) -> None:
        from pytest_arl.plugin.output import OutputFolder
        from pytest_arl.plugin.workers import handed_output

        folder, source = self.settings["output"]
        worker, begun = self.recorder.worker, handed_output(self.config)
        try:
            self._refuse_output()
            if worker is not None and begun is not None:
                self.recorder.output = OutputFolder.join(folder, worker, begun)
            else:
                self.recorder.output = OutputFolder.start(folder, worker)
        except (OSError, UsageError) as error:
            reason = f"cannot write to {folder} ({source}): {getattr(error, 'strerror', None) or error}"
            if begun is None:
                raise pytest.UsageError(f"pytest-arl: {reason}") from None
            self.recorder.problem(f"--arl-output: {reason}")

    def _refuse_output(self) -> None:
        """Raise UsageError where the run's own pool may write there; a test's pool is looked at when it is used."""
        from pytest_arl.pools import find_pool, refuse_written

        if self.settings.value("backend") == "local":
            try:
                pool = find_pool(self.settings, self.settings.value("pool"))
            except (PoolNotFound, UsageError):
                return  # a test that uses it will say so
            refuse_written(pool, self.settings.writes)

    def finish(self) -> None:
        """The tests are over: close what nobody closed, but what was asked to be kept."""
        for session in self.recorder.still_open():
            if not session.keep_alive:
                session.delete_sandbox()
        if _runs == [self]:
            hooks.close_backends()

    def stop(self) -> None:
        """Close what is open; an enclosing run goes on where it was."""
        self._overlay.close()
        self._guards.close()
        settings.activate(self._outer[0])
        hooks.set_pytest_hook(self._outer[1])
        if _runs == [self]:
            hooks.close_backends()
        if self._listens:
            from pytest_arl.session import notifications

            notifications.remove(_listener)
        if self._recorder is not None and self._recorder.output is not None:
            self._recorder.output.close()
            self._recorder.output = None
        if self in _runs:
            _runs.remove(self)

    @property
    def recorder(self) -> Recorder:
        """The recorder of this run."""
        if self._recorder is None:
            from pytest_arl.plugin.recorder import Recorder

            self._recorder = Recorder(self.config)
        return self._recorder

    @property
    def scope(self) -> ScopeName:
        """The scope of ``arl_sandbox``."""
        return cast("ScopeName", self.settings.value("scope"))

    @property
    def shared(self) -> SharedSandboxes:
        """Sandboxes that outlive a test."""
        if self._shared is None:
            from pytest_arl.plugin.shared import SharedSandboxes

            self._shared = SharedSandboxes()
        return self._shared

    def opened(self, session: SandboxSession) -> None:
        """Somebody has opened a sandbox. What stays open after this test is set back, but for what is to be kept."""
        item = self.recorder.item
        if item is not None and not session.keep_alive and not hasattr(session, "one_more"):  # a fixture's own
            self.shared.add_unknown(session, item.nodeid)

    @property
    def shares(self) -> bool:
        """True if there are any."""
        return self._shared is not None

    # the running test

    def begin(self, item: pytest.Item) -> None:
        """A test's setup starts."""
        self._overlay.close()
        self.asked, self._settings_asked = {}, {}
        self.recorder.begin(item)

    def lay_over(self, asked: dict[str, Choice]) -> None:
        """Lay the test's options over the command line's until it ends. Raises UsageError for a bad value.

        By settings, it reaches sessions that are made in the test's body too.
        """
        if not asked:
            return
        from pytest_arl.session.config import setting_of

        self.asked = asked
        for option, choice in asked.items():
            setting = setting_of(option)
            if setting is not None:
                self._settings_asked[option] = setting
                self._overlay.enter_context(settings.override({setting: choice.value}, choice.origin))

    def end(self) -> None:
        """A test's teardown is over and reported."""
        self._overlay.close()
        self.asked, self._settings_asked = {}, {}
        self.recorder.end()

    # sandboxes

    def session(self, kind: type[_Session], options: Mapping[str, Any], scope: str, *, follows_test: bool) -> _Session:
        """A session that is not open yet.

        With ``follows_test``, what is not given is as the running test asks, else as the run's settings have it.
        """
        options = {**self._labels(scope), **options}
        if follows_test:
            return kind(**options)
        with ExitStack() as stack:
            for name in self._settings_asked.values():
                value, source = self.settings[name]
                stack.enter_context(settings.override({name: value}, source))
            # A session without a timeout of its own asks the settings for each task: this one must not.
            return kind(**{"timeout": self.settings.value("timeout"), **options})

    def _labels(self, scope: str) -> dict[str, Any]:
        item = self.recorder.item
        labels = {"worker": self.recorder.worker or "main", "scope": scope}
        return {"labels": labels if item is None else {**labels, "test": item.nodeid}}

    def asked_options(self) -> dict[str, Any]:
        """Options of the running test that are not settings: those are laid over the run's while it runs."""
        return {key: choice.value for key, choice in self.asked.items() if key not in self._settings_asked}


def run_of(config: pytest.Config) -> Run:
    """The run that a configuration belongs to."""
    return config.stash[Run.KEY]


def any_heard() -> bool:
    """True if a sandbox was ever asked for in this process, whether it was made and whoever asked."""
    notifications = sys.modules.get("pytest_arl.session.notifications")
    return notifications is not None and notifications.any_opened()


_runs: list[Run] = []
"""Runs of this process that have not ended, the innermost last."""


class _Listener:
    """The process's one listener: hands on what sessions say."""

    def sandbox_ready(self, session: SandboxSession, seconds: float, isolation: str) -> None:
        _runs[-1].recorder.sandbox_ready(session, seconds, isolation)
        _runs[-1].opened(session)

    def task_finished(
        self, session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
    ) -> None:
        _runs[-1].recorder.task_finished(session, task, result, error)

    def sandbox_closed(self, session: SandboxSession) -> None:
        # Whoever knows it: a sandbox of an outer run may be closed while an inner one runs.
        for run in _runs:
            run.recorder.sandbox_closed(session)


_listener: SessionListener = _Listener()
