"""Who is told what sessions do: the plugin records steps this way, and the session knows nothing of pytest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.results import TaskResult
    from pytest_arl.session import SandboxSession

__all__ = [
    "SessionListener",
    "add_listener",
    "any_opened",
    "notify_closed",
    "notify_finished",
    "notify_opening",
    "notify_ready",
    "remove_listener",
]

_logger = logging.getLogger("pytest_arl")


class SessionListener(Protocol):
    """Told of every session of this process, in the thread that did it; it must not run a task of that session."""

    def sandbox_ready(self, session: SandboxSession, seconds: float, isolation: str) -> object:
        """A sandbox was acquired, in so many seconds; ``isolation`` is its tier. A reset is not told."""

    def task_finished(
        self, session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
    ) -> object:
        """A task ended: with its result; with an error; or with both, where a lost sandbox left a partial result."""

    def sandbox_closed(self, session: SandboxSession) -> object:
        """The session let go of its sandbox."""


# A tuple that is replaced, never changed: who iterates over it needs no lock.
_listeners: tuple[SessionListener, ...] = ()


_any_opened = False


def any_opened() -> bool:
    """True if a sandbox was ever asked for in this process: its texts, and names of files that it was to be shown, may
    be quoted anywhere from then on.
    """
    return _any_opened


def notify_opening() -> None:
    """A sandbox is asked for. There may be no listener yet, as while a ``conftest.py`` is loaded."""
    global _any_opened  # noqa: PLW0603 - of the process
    _any_opened = True


def add_listener(listener: SessionListener) -> None:
    """Tell ``listener`` of every session from here on."""
    global _listeners  # noqa: PLW0603 - one list for the process, as the sessions it tells of
    _listeners = (*_listeners, listener)


def remove_listener(listener: SessionListener) -> None:
    """Tell it no more; one that was never added is no error."""
    global _listeners  # noqa: PLW0603
    _listeners = tuple(other for other in _listeners if other is not listener)


def notify_ready(session: SandboxSession, seconds: float, isolation: str) -> None:
    """Tell all that a sandbox is ready."""
    for listener in _listeners:
        try:
            listener.sandbox_ready(session, seconds, isolation)
        except Exception:  # a listener's fault must not become the test's
            _logger.exception("a session listener failed")


def notify_finished(
    session: SandboxSession, task: TaskRequest, result: TaskResult | None, error: BaseException | None
) -> None:
    """Tell all that a task ended."""
    for listener in _listeners:
        try:
            listener.task_finished(session, task, result, error)
        except Exception:
            _logger.exception("a session listener failed")


def notify_closed(session: SandboxSession) -> None:
    """Tell all that a sandbox was let go."""
    for listener in _listeners:
        try:
            listener.sandbox_closed(session)
        except Exception:
            _logger.exception("a session listener failed")
