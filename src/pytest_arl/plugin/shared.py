"""Sandboxes that outlive a test: back to their last checkpoint after each test that used them.

A checkpoint is made when a sandbox is acquired, and at the end of the setup of each fixture, wider than
function, that used it: what such a fixture prepared stays, what a test left does not. When that fixture ends, as a
parametrized one does for its next parameter, its checkpoint goes, and what it prepared with it.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import SandboxClosed, UsageError
from pytest_arl.plugin.infrastructure import raise_all
from pytest_arl.plugin.test_options import FIXTURE, Choice

if TYPE_CHECKING:
    import pytest
    from _pytest.fixtures import FixtureDef, SubRequest

    from pytest_arl.session import SandboxSession

__all__ = ["ANY", "Shared", "SharedSandboxes"]

__tracebackhide__ = True

_PER_TEST = "timeout"
"""The one option that a marker can change for a sandbox that is open already."""

_NOTHING = object()

ANY = "any"
"""The scope of what ``arl_sandbox_factory`` or somebody's own code opened: one that was deleted is not made anew."""

if TYPE_CHECKING:
    _Prepared = tuple[FixtureDef[Any], SubRequest]


class Shared:
    """One sandbox that stays open from test to test, or may."""

    def __init__(
        self, session: SandboxSession, scope: str, opener: str, asked: dict[str, Choice] | None, parameter: object
    ) -> None:
        # Weak: a session that nobody has any more is closed when it is collected.
        self._session = weakref.ref(session)
        self.scope = scope
        self.opener = opener
        self.asked = asked
        """Options of the opener; None where options of tests do not reach this sandbox."""
        self.parameter = parameter
        self.clean = session.uses
        """The session's count of uses when it was last as at its checkpoint."""
        self.prepared: list[_Prepared] = []
        """The fixtures, wider than function, that have a checkpoint each, in the order of those."""

    @property
    def session(self) -> SandboxSession | None:
        """None where it was forgotten."""
        return self._session()

    def checkpoint(self, session: SandboxSession, prepared: _Prepared) -> None:
        """Make what this fixture has prepared the state that tests find."""
        session.push_checkpoint()
        self.clean = session.uses
        self.prepared.append(prepared)

    def forget(self, session: SandboxSession, place: int) -> None:
        """The fixtures from that place on are over: the next reset returns to what was before them."""
        with suppress(SandboxClosed):
            for _ in self.prepared[place:]:
                session.pop_checkpoint()
        del self.prepared[place:]
        self.clean = -1

    def reset(self, session: SandboxSession) -> bool:
        """Undo what was done since the checkpoint; False where the sandbox is gone for good."""
        try:
            session.reset()
        except SandboxClosed:
            if self.scope == ANY:
                return False
            if self.prepared:
                raise
            session.create_sandbox()
        self.clean = session.uses
        return True


class SharedSandboxes:
    """The sandboxes that may stay open from test to test."""

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
        """A sandbox was opened that may stay open after this test."""
        self.discard(session)
        self._open.append(Shared(session, scope, opener, asked, parameter))

    def add_unknown(self, session: SandboxSession, opener: str) -> None:
        """So was one by somebody else, unless it is known already."""
        if all(shared.session is not session for shared in self._open):
            self.add(session, scope=ANY, opener=opener)

    def discard(self, session: SandboxSession) -> None:
        """It is about to be closed."""
        self._open = [shared for shared in self._open if shared.session is not session]

    def uses(self) -> dict[int, int]:
        """The number of uses of each so far; to find out which ones a fixture's setup used."""
        return {id(shared): session.uses for shared, session in self._resettable()}

    def checkpoint(self, before: dict[int, int], fixture: FixtureDef[Any], request: SubRequest) -> None:
        """A fixture wider than function has been set up: keep what it did, given :meth:`uses` of ``before``."""
        for shared, session in self._resettable():
            if session.uses not in {shared.clean, before.get(id(shared), shared.clean)} and _lives(shared, session):
                shared.checkpoint(session, (fixture, request))

    def fixture_over(self, fixture: FixtureDef[Any], item: pytest.Item | None) -> None:
        """A fixture was torn down: its checkpoints go. Those that others made since hold what it prepared too: they are
        torn down as well, and set up anew by the next test that asks for them. ``item`` is a test that is being set up.
        """
        for shared, session in self._resettable():
            places = [place for place, (prepared, _) in enumerate(shared.prepared) if prepared is fixture]
            if not places:
                continue
            later = shared.prepared[places[0] + 1 :]
            shared.forget(session, places[0])
            for other, request in reversed(later):
                _refuse_stale(fixture, other, item)
                other.finish(request)

    def set_back(self) -> None:
        """Return each sandbox that was used since its checkpoint to that."""
        errors: list[Exception] = []
        for shared, session in self._resettable():
            if session.uses != shared.clean:
                try:
                    if not shared.reset(session):
                        self.discard(session)
                except Exception as error:  # noqa: BLE001 - the others are to be reset all the same
                    errors.append(error)
        raise_all("resetting shared sandboxes", errors)

    def _resettable(self) -> list[tuple[Shared, SandboxSession]]:
        pairs = [(shared, shared.session) for shared in self._open]
        self._open = [shared for shared, session in pairs if session is not None]
        return [(shared, session) for shared, session in pairs if session is not None and not session.keep_workspace]

    def before_test(self, item: pytest.Item, asked: dict[str, Choice]) -> None:
        """Refuse what the test asks of an open sandbox that is another way already."""
        if FIXTURE not in getattr(item, "fixturenames", ()):
            return
        for shared in self._open:
            if shared.asked is not None and not _will_be_reopened(item, shared):
                _refuse_conflicts(item, shared, asked)


def _lives(shared: Shared, session: SandboxSession) -> bool:
    """False for one of somebody's own that the fixture has deleted again."""
    return shared.scope != ANY or session.is_open


def _refuse_stale(fixture: FixtureDef[Any], other: FixtureDef[Any], item: pytest.Item | None) -> None:
    """Raise UsageError where the test has already got from a fixture what is about to be torn down."""
    if other.argname in getattr(item, "funcargs", {}):
        raise UsageError(
            f"the fixture {fixture.argname!r} ended, so its changes to the sandbox are undone, and with them the later "
            f"ones of {other.argname!r}, which this test uses already: let {other.argname!r} request "
            f"{fixture.argname!r}, or list {fixture.argname!r} first"
        )


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
            f"{why}, but {FIXTURE} has scope {shared.scope} and is open already, since {shared.opener}, {is_so}; "
            f"use the same options in the whole {shared.scope}, choose a narrower --arl-scope, or open one more with "
            f"{FIXTURE}(...)"
        )
