"""Options of a test for its sandbox: by markers (key by key, the closest first) and by an indirect parameter.

Both take the options of ``SandboxSession``. What a test asks stands above the command line and below the
arguments of a call; it is laid over the settings while the test runs, so that a session made in the
test's body follows it too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import UsageError
from pytest_arl.text.wording import hint

if TYPE_CHECKING:
    import pytest

__all__ = [
    "FIXTURE",
    "MARKER",
    "Choice",
    "asked_by",
    "check_options",
    "from_parameter",
    "parameter_id",
]

__tracebackhide__ = True

FIXTURE = "arl_sandbox"
MARKER = "arl"


class Choice:
    """One option that was asked for, and by what (``the marker of test_x``)."""

    __slots__ = ("origin", "value")

    def __init__(self, value: object, origin: str) -> None:
        self.value = value
        self.origin = origin


def asked_by(item: pytest.Item) -> dict[str, Choice]:
    """Everything a test asks by its markers and its parameter, checked. Raises UsageError."""
    asked: dict[str, Choice] = {}
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    if FIXTURE in parameters:
        origin = f"the parameter of {item.name}"
        asked.update({key: Choice(value, origin) for key, value in from_parameter(parameters[FIXTURE], origin).items()})
    for node, mark in item.iter_markers_with_node(MARKER):
        origin = f"the marker of {node.name or node.nodeid}"
        _check_marker(mark, origin)
        for key, value in mark.kwargs.items():
            asked.setdefault(key, Choice(value, origin))
    return asked


def from_parameter(value: object, origin: str) -> dict[str, Any]:
    """Options from an indirect parameter: a pool's name, or a dict."""
    if isinstance(value, str):
        return {"pool_ref": value}
    if isinstance(value, Mapping):
        check_options(value, origin)
        return dict(value)
    raise UsageError(f"{origin}: expected a pool's name or a dict such as {{'pool_ref': 'a'}}, got {value!r}")


def parameter_id(value: object) -> str | None:
    """The id of a parameter that is a dict of options: its pool. None leaves it to pytest."""
    if isinstance(value, Mapping) and isinstance(value.get("pool_ref"), str) and _session_options().issuperset(value):
        pool: str = value["pool_ref"]
        return pool
    return None


def check_options(options: Mapping[Any, object], origin: str) -> None:
    """Raise UsageError for an option that SandboxSession does not take."""
    known = _session_options()
    for key in options:
        if key not in known:
            raise UsageError(f"{origin}: there is no option {key!r}; {hint(str(key), sorted(known))}")


@functools.cache
def _session_options() -> frozenset[str]:
    """The keywords that SandboxSession takes: the marker, the parameter and the calls take the same."""
    from inspect import Parameter, signature

    from pytest_arl.session import SandboxSession

    kinds = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
    return frozenset(
        name for name, parameter in signature(SandboxSession).parameters.items() if parameter.kind in kinds
    )


def _check_marker(mark: pytest.Mark, origin: str) -> None:
    if mark.args:
        first = mark.args[0]
        example = f"pool_ref={first!r}" if isinstance(first, str) else "pool_ref='...'"
        raise UsageError(f"{origin}: arl takes keyword arguments only; write @pytest.mark.arl({example})")
    check_options(mark.kwargs, origin)
