"""Run the code under test in sandboxes.

Names are imported on first use (PEP 562): ``import pytest_arl`` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.errors import (
        ArlError,
        BackendUnavailable,
        InfrastructureError,
        PermissionDenied,
        PoolNotFound,
        SandboxClosed,
        SandboxLost,
        SandboxTimeout,
        StepFailed,
        UsageError,
    )
    from pytest_arl.plugin.fixtures import sandbox_fixture
    from pytest_arl.plugin.handles import SandboxFactory, SandboxFixture
    from pytest_arl.results import StepResult, TaskResult
    from pytest_arl.session import Process, SandboxSession
    from pytest_arl.steps import Command, FilePatch
    from pytest_arl.usage import Usage

__all__ = [
    "ArlError",
    "BackendUnavailable",
    "Command",
    "FilePatch",
    "InfrastructureError",
    "PermissionDenied",
    "PoolNotFound",
    "Process",
    "SandboxClosed",
    "SandboxFactory",
    "SandboxFixture",
    "SandboxLost",
    "SandboxSession",
    "SandboxTimeout",
    "StepFailed",
    "StepResult",
    "TaskResult",
    "Usage",
    "UsageError",
    "sandbox_fixture",
]

_HOMES = {
    "errors": (
        "ArlError",
        "BackendUnavailable",
        "InfrastructureError",
        "PermissionDenied",
        "PoolNotFound",
        "SandboxClosed",
        "SandboxLost",
        "SandboxTimeout",
        "StepFailed",
        "UsageError",
    ),
    "plugin.fixtures": ("sandbox_fixture",),
    "plugin.handles": ("SandboxFactory", "SandboxFixture"),
    "results": ("StepResult", "TaskResult"),
    "session": ("Process", "SandboxSession"),
    "steps": ("Command", "FilePatch"),
    "usage": ("Usage",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module  # noqa: PLC0415 - costs nothing before the first use

            value = globals()[name] = getattr(import_module(f"pytest_arl.{home}"), name)
            return value
    raise AttributeError(f"module 'pytest_arl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
