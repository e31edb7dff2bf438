"""Listeners to sessions: the plugin records steps this way, and the session knows nothing of pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_arl.session import notifications

if TYPE_CHECKING:
    from pytest_arl.backends.base import TaskRequest
    from pytest_arl.results import TaskResult
    from pytest_arl.session.sandbox_session import SandboxSession

__all__ = ["SessionListener", "add_listener", "remove_listener"]


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


def add_listener(listener: SessionListener) -> None:
    """Tell ``listener`` of every session from here on."""
    notifications.add(listener)


def remove_listener(listener: SessionListener) -> None:
    """Tell it no more; one that was never added is no error."""
    notifications.remove(listener)
