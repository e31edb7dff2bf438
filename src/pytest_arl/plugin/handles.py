"""The values of the fixtures: a session that can be called for one more sandbox, and a factory of sessions.

Imported by the first test that uses a sandbox: the session's module is not cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.plugin.infrastructure import raise_all
from pytest_arl.plugin.test_options import check_options
from pytest_arl.session import SandboxSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SandboxFactory", "SandboxFixture"]

__tracebackhide__ = True


class SandboxFactory:
    """The value of ``arl_sandbox_factory``: each call opens a sandbox, which is closed with the factory."""

    def __init__(self, make: Callable[[Mapping[str, Any]], SandboxSession], *, name: str) -> None:
        self._make = make
        self._name = name
        self.opened: Callable[[SandboxSession], object] | None = None
        """Called with each session once it is ready."""
        self._sessions: list[SandboxSession] = []

    def __call__(self, **options: Any) -> SandboxSession:
        """Open one more sandbox, with the options of :class:`~pytest_arl.SandboxSession`; ready when this returns.

        It may be used in a ``with`` statement, which closes it at its end.
        """
        check_options(options, self._name)
        session = self._make(options)
        self._sessions.append(session)
        session.create_sandbox()
        if self.opened is not None:
            self.opened(session)
        return session

    def close(self, *, before: Callable[[SandboxSession], object] | None = None) -> None:
        """Close every sandbox that is still open, the latest first; ``before`` is told which."""
        errors: list[Exception] = []
        while self._sessions:
            session = self._sessions.pop()
            if before is not None:
                before(session)
            try:
                session.delete_sandbox()
            except Exception as error:  # noqa: BLE001 - the others are to be closed all the same
                errors.append(error)
        raise_all("closing sandboxes", errors)


class SandboxFixture(SandboxSession):
    """The value of ``arl_sandbox``: a :class:`~pytest_arl.SandboxSession`; calling it opens one more sandbox."""

    one_more: SandboxFactory
    """The factory that a call of it calls."""

    def __call__(self, **options: Any) -> SandboxSession:
        """Open one more sandbox, with the options of :class:`~pytest_arl.SandboxSession`.

        It lives as long as this fixture, or to the end of a ``with`` statement.
        """
        return self.one_more(**options)
