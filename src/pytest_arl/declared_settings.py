"""The settings that there are: of each its name, default, help, and what values it takes.

Standard library only, and read at every start of pytest, as :mod:`pytest_arl.settings` is, which finds their values.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.errors import UsageError
from pytest_arl.text.wording import one_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ISOLATION_TIERS", "SCOPES", "SETTINGS", "Setting"]

__tracebackhide__ = True

SCOPES = ("function", "class", "module", "session")
"""Scopes that a plugin's fixture can have; pytest knows ``package`` only for fixtures of that package's conftest."""

ISOLATION_TIERS = ("bwrap+cgroup", "bwrap+rlimit", "bwrap, outer /proc")
"""Isolation of this machine's sandboxes, strongest first."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UsageError(
            f"must be a name, not {value!r}" if isinstance(value, str) else f"must be a name, not {type_name(value)}"
        )
    return value.strip()


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(value)


def _scope(value: object) -> str:
    if value == "package":
        raise UsageError(
            'cannot be package (pytest cannot widen a plugin\'s fixture to it): write sandbox_fixture(scope="package") '
            "in that package's conftest.py"
        )
    return _choice(value, SCOPES)


def _isolation(value: object) -> str:
    return _choice(value, ISOLATION_TIERS)


def _choice(value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"must be {one_of(map(repr, choices))}, not {value!r}")
    return str(value)


def _seconds(value: object) -> float:
    from pytest_arl.text.units import parse_positive_duration  # noqa: PLC0415 - a run that sets none needs no parser

    return parse_positive_duration(value)


def _timeout(value: object) -> float | None:
    from pytest_arl.text.units import parse_timeout  # noqa: PLC0415 - as above

    return parse_timeout(value)


def _count(value: object, least: int) -> int | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"must be a whole number, at least {least}, not {value!r}")
    return value


def _positive(value: object) -> int | None:
    return _count(value, 1)


def _natural(value: object) -> int | None:
    return _count(value, 0)


def _path(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in str(value):
        raise UsageError(f"must be a path, not {value!r}")
    return Path(value).expanduser()


class Setting(NamedTuple):
    """One option: declared here, and nowhere else.

    Attributes:
        name: what Python calls it, and its key in ``[tool.pytest-arl]``.
        default: its value where nobody set it.
        parse: makes a value of a string or a TOML value, or raises UsageError («must be ...»).
        help: a line for ``--help``, with its unit.
        metavar: what stands for the value in ``--help``.
        bare: the value of an option that is given without one, or None where it needs one.
    """

    name: str
    default: object
    parse: Callable[[object], object]
    help: str
    metavar: str
    bare: str | None = None

    @property
    def flag(self) -> str:
        """``--arl-acquire-timeout``."""
        return "--arl-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """``arl_acquire_timeout``."""
        return f"arl_{self.name}"

    @property
    def env(self) -> str:
        """``PYTEST_ARL_ACQUIRE_TIMEOUT``."""
        return f"PYTEST_ARL_{self.name.upper()}"

    @property
    def toml(self) -> str:
        """Its key in ``[tool.pytest-arl]``: ``acquire_timeout``."""
        return self.name


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("pool", "default", _text, "pool that sandboxes come from", "NAME"),
        Setting(
            "backend",
            "local",
            _text,
            "what makes sandboxes: local, kubernetes, or the name that a plugin gave its own",
            "NAME",
        ),
        Setting("namespace", None, _optional_text, "Kubernetes namespace; the local backend ignores it", "NAME"),
        Setting("kubeconfig", None, _path, "file that says where the cluster is ($KUBECONFIG, ~/.kube/config)", "FILE"),
        Setting("context", None, _optional_text, "context of the kubeconfig (its current one)", "NAME"),
        Setting("scope", "function", _scope, f"how long arl_sandbox lives: {one_of(SCOPES)}", "SCOPE"),
        Setting("timeout", None, _timeout, "time limit of each execute(), such as 90s (none)", "DURATION"),
        Setting("acquire_timeout", 120.0, _seconds, "longest wait for a sandbox to be ready (120s)", "DURATION"),
        Setting("max_sandboxes", None, _positive, "most sandboxes open at once in a process; none is no limit", "N"),
        Setting("output", None, _path, "folder for steps.jsonl and full outputs", "DIR"),
        Setting(
            "durations",
            None,
            _natural,
            "show the N slowest steps (0: all; 10 where no N is given), and the processor time and memory of each",
            "N",
            bare="10",
        ),
        Setting(
            "isolation_min",
            "bwrap+rlimit",
            _isolation,
            f"weakest isolation to accept: {one_of(ISOLATION_TIERS)}",
            "TIER",
        ),
        Setting("pools_file", None, _path, "TOML file with [pools.NAME] tables, instead of pyproject.toml's", "FILE"),
    )
}
