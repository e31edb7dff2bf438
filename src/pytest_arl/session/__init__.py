"""A sandbox and everything that can be done with it, with pytest or without.

sandbox_session   SandboxSession, with the blocking methods; ``async_methods`` their async twins, over ``async_bridge``
config            the options of a session, checked
lifecycle         the sandbox that a session has: created, reset, deleted
open_sandbox      one sandbox in hand: acquired, swapped for a fresh one, let go exactly once
task_execution    the tasks of a session, judged before anything else sees their results; ``fair_queue`` their order,
                  ``task_log`` their log, ``step_index`` the steps that ran
process           a program in the background
validation        arguments of callers
listeners         listeners to sessions, and how to add one; ``notifications`` tells them

Names are imported on first use (PEP 562): the plugin asks for ``notifications`` at every start of pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_arl.session.listeners import SessionListener, add_listener, remove_listener
    from pytest_arl.session.process import Process
    from pytest_arl.session.sandbox_session import SandboxSession

__all__ = ["Process", "SandboxSession", "SessionListener", "add_listener", "remove_listener"]

_HOMES = {
    "listeners": ("SessionListener", "add_listener", "remove_listener"),
    "process": ("Process",),
    "sandbox_session": ("SandboxSession",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module  # noqa: PLC0415 - costs nothing before the first use

            value = globals()[name] = getattr(import_module(f"pytest_arl.session.{home}"), name)
            return value
    raise AttributeError(f"module 'pytest_arl.session' has no attribute {name!r}")
