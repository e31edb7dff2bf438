"""Sandboxes that outlive a test: back to their last checkpoint after each test that used them.

A checkpoint is made when a sandbox is acquired, and at the end of the setup of each fixture, wider than
function, that used it: what such a fixture prepared stays, what a test left does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_arl.errors import SandboxClosed, UsageError
from pytest_arl.plugin.choices import FIXTURE, Choice

if TYPE_CHECKING:
    import pytest

    from pytest_arl.session import SandboxSession

__all__ = ["Shared", "SharedSandboxes"]

__tracebackhide__ = True

_PER_TEST = "timeout"
"""The one option that a marker can change for a sandbox that is open already."""

_NOTHING = object()


class Shared:
    """One sandbox of a fixture that is wider than function."""

    def __init__(
        self, session: SandboxSession, scope: str, opener: str, asked: dict[str, Choice] | None, parameter: object
    ) -> None:
        self.session = session
        self.scope = scope
        self.opener = opener
        self.asked = asked
        """What the opener asked; None where what tests ask does not reach this sandbox."""
        self.parameter = parameter
        self.clean = session.uses
        """What the session's count of uses was when it was last as at its checkpoint."""
        self._prepared = False

    @property
    def used(self) -> bool:
        """Whether anything was done in it since then."""
        return self.session.uses != self.clean

    def checkpoint(self) -> None:
        """What is there becomes what tests find."""
        self.session.checkpoint()
        self.clean = self.session.uses
        self._prepared = True

    def reset(self) -> None:
        """What a test did is undone, if it was to delete the sandbox."""
        try:
            self.session.reset()
        except SandboxClosed:
            if self._prepared:
                raise
            self.session.create_sandbox()
        self.clean = self.session.uses


class SharedSandboxes:
    """The shared sandboxes that are open."""

    def __init__(self) -> None:
        self._open: list[Shared] = []

    def add(
        self,
        session: SandboxSession,
        *,
        scope: str,
        opener: str,
        asked: dict[str, Choice] | None = None,
        parameter: object = None,
    ) -> None:
        """A fixture wider than function opened a sandbox."""
        self._open.append(Shared(session, scope, opener, asked, parameter))

    def discard(self, session: SandboxSession) -> None:
        """It is about to be closed."""
        self._open = [shared for shared in self._open if shared.session is not session]

    def uses(self) -> dict[int, int]:
        """How often each was used so far; to find out what a fixture's setup used."""
        return {id(shared): shared.session.uses for shared in self._open}

    def checkpoint(self, before: dict[int, int]) -> None:
        """A fixture wider than function has been set up: keep what it did, given :meth:`uses` of ``before``."""
        for shared in self._resettable():
            if shared.used and shared.session.uses != before.get(id(shared), shared.clean):
                shared.checkpoint()

    def after_test(self) -> None:
        """A test and its fixtures are over: what it did in sandboxes that stay open is undone."""
        errors: list[Exception] = []
        for shared in self._resettable():
            if shared.used:
                try:
                    shared.reset()
                except Exception as error:  # noqa: BLE001 - the others are to be reset all the same
                    errors.append(error)
        if len(errors) > 1:
            raise ExceptionGroup("resetting shared sandboxes", errors)
        if errors:
            raise errors[0]

    def _resettable(self) -> list[Shared]:
        return [shared for shared in self._open if not shared.session.keep_workspace]

    def before_test(self, item: pytest.Item, asked: dict[str, Choice]) -> None:
        """Refuse what the test asks of an open sandbox that is another way already."""
        if FIXTURE not in getattr(item, "fixturenames", ()):
            return
        for shared in self._open:
            if shared.asked is not None and not _will_be_reopened(item, shared):
                _refuse_conflicts(item, shared, asked)


def _will_be_reopened(item: pytest.Item, shared: Shared) -> bool:
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get(FIXTURE) != shared.parameter


def _refuse_conflicts(item: pytest.Item, shared: Shared, asked: dict[str, Choice]) -> None:
    opened = shared.asked or {}
    for key in sorted({*asked, *opened} - {_PER_TEST, "labels", "name"}):
        wanted = asked.get(key)
        have = opened.get(key)
        has = getattr(shared.session, key, _NOTHING if have is None else have.value)
        if wanted is not None and wanted.value != has:
            why = f"{wanted.origin} asks for {key}={wanted.value!r}"
            is_so = f"with {key}={has!r}" if has is not _NOTHING else f"without {key}"
        elif wanted is None and have is not None:
            why = f"{item.name} does not ask for {key}"
            is_so = f"with {key}={have.value!r} ({have.origin})"
        else:
            continue
        raise UsageError(
            f"{why}, but {FIXTURE} has scope {shared.scope} and is open already, since {shared.opener}, {is_so}; ask "
            f"alike in the whole {shared.scope}, choose a narrower --arl-scope, or open one more with {FIXTURE}(...)"
        )
