"""The options of a session: its arguments, checked, and the settings in the place of those that were left out.

An option is declared once, and its type says how its argument is checked: by
:class:`~pytest_arl.backends.base.AcquireRequest` if backends need it, else here.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Final, NoReturn

from pytest_arl import settings
from pytest_arl.backends.base import AcquireRequest
from pytest_arl.session import validation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_arl.settings import Settings

__all__ = ["UNSET", "SessionConfig", "Unset", "setting_of"]

__tracebackhide__ = True


class Unset:
    """Stands for an argument that was left out, where None means something."""

    def __repr__(self) -> str:
        return "as configured"


UNSET: Final = Unset()


class SessionConfig(AcquireRequest):
    """The checked options of a session. Frozen; no dataclass, for making one takes a third of this room's import.

    Attributes:
        backend: name of the backend that makes the sandbox.
        name: the session's name in reports; None takes the backend's name for the sandbox.
        timeout: seconds that each task may take, None for no limit, UNSET for the setting's value.
        keep_workspace: a sandbox that tests share keeps its files from test to test.
        settings: those in force when the session was made.
    """

    backend: str
    name: str | None
    timeout: float | Unset | None
    keep_workspace: bool
    settings: Settings

    __slots__ = ("backend", "keep_workspace", "name", "settings", "timeout")

    def __init__(self, **options: object) -> None:
        """``options`` are a session's arguments, all of them. UsageError for one that is no good."""
        in_force = settings.current()
        object.__setattr__(self, "settings", in_force)
        for option, value in options.items():
            object.__setattr__(self, option, _checked(option, value, in_force))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name}")

    def request(self) -> AcquireRequest:
        """The part of it that a backend is told."""
        return AcquireRequest(**{option: getattr(self, option) for option in AcquireRequest.__annotations__})

    def task_timeout(self) -> float | None:
        """Seconds that a task may take which has no timeout of its own; None is no limit."""
        if not isinstance(self.timeout, Unset):
            return self.timeout
        # Asked anew for each task: a test's marker bounds the tasks of a shared sandbox too.
        configured: float | None = settings.in_force(self.settings).value("timeout")
        return configured

    def max_sandboxes(self) -> int | None:
        """The most sandboxes that may be open in this process; None is no limit."""
        most: int | None = settings.in_force(self.settings).value("max_sandboxes")
        return most


_TYPES = {**AcquireRequest.__annotations__, **SessionConfig.__annotations__}

_CHECKS: Mapping[str, Callable[[object, str], object]] = {
    "bool": validation.flag,
    "float": validation.seconds,
    "float | None": validation.seconds,
    "Mapping[str, str]": validation.labels,
    "str": validation.name,
    "str | None": validation.name,
}


def _checked(option: str, value: object, in_force: Settings) -> object:
    what = f"SandboxSession: {option}"
    if option == "timeout":  # None is a value here
        return value if isinstance(value, Unset) else validation.limit(value, what)
    checked = _CHECKS[_TYPES[option]](value, what)
    setting = setting_of(option)
    return in_force.value(setting) if checked is None and setting is not None else checked


def setting_of(option: str) -> str | None:
    """The setting that has the value of an option which is left out: that of its name, if there is one."""
    name = "pool" if option == "pool_ref" else option
    return name if name in settings.SETTINGS else None
