"""The listeners of this process, and what they are told; :mod:`~pytest_arl.session.listeners` says what one is.

Sessions use this, so it names no type of theirs. The plugin reads it at every start of pytest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.results import TaskResult

__all__ = [
    "add",
    "any_opened",
    "notify_closed",
    "notify_finished",
    "notify_opening",
    "notify_ready",
    "remove",
]

_logger = logging.getLogger("pytest_arl")

# A tuple that is replaced, never changed: iterating over it needs no lock.
_listeners: tuple[Any, ...] = ()

_any_opened = False


def add(listener: object) -> None:
    """Tell ``listener`` of every session from here on."""
    global _listeners  # noqa: PLW0603 - one list for the process, as the sessions it tells of
    _listeners = (*_listeners, listener)


def remove(listener: object) -> None:
    """Tell it no more; one that was never added is no error."""
    global _listeners  # noqa: PLW0603
    _listeners = tuple(other for other in _listeners if other is not listener)


def any_opened() -> bool:
    """True if a sandbox was ever asked for in this process: its texts, and names of files that it was to be shown, may
    be quoted anywhere from then on.
    """
    return _any_opened


def notify_opening() -> None:
    """A sandbox is asked for. There may be no listener yet, as while a ``conftest.py`` is loaded."""
    global _any_opened  # noqa: PLW0603 - of the process
    _any_opened = True


def notify_ready(session: object, seconds: float, isolation: str) -> None:
    """Tell all that a sandbox is ready."""
    _notify("sandbox_ready", session, seconds, isolation)


def notify_finished(session: object, task: TaskRequest, result: TaskResult | None, error: BaseException | None) -> None:
    """Tell all that a task ended."""
    _notify("task_finished", session, task, result, error)


def notify_closed(session: object) -> None:
    """Tell all that a sandbox was let go."""
    _notify("sandbox_closed", session)


def _notify(method: str, *facts: object) -> None:
    for listener in _listeners:
        try:
            getattr(listener, method)(*facts)
        except Exception:  # a listener's fault must not become the test's
            _logger.exception("a session listener failed")
