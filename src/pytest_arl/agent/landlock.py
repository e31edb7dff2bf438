"""Landlock: what a process gives up for itself and all that it starts."""

from __future__ import annotations

import os
from _struct import pack

from pytest_arl.agent import system

__all__ = ["keep_from_sockets"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # one number on every architecture
_ASK_VERSION = 1
_PATH_BENEATH = 1
_REFER = 1 << 13
_RESOLVE_UNIX = 1 << 16
_FIRST_VERSION = 9
"""The version that knows the right to connect to a socket by its path: Linux 7.1."""


def keep_from_sockets(version: int = _FIRST_VERSION, right: int = _RESOLVE_UNIX) -> bool:
    """Deny connecting to a socket by its path, unless a process below this one has made it; False where the kernel
    cannot.

    Needs no_new_privs. Moving files from folder to folder is a right that every ruleset takes away, asked or not, so it
    is given back for everything.
    """
    opened = []
    try:
        if system.system_call(_CREATE_RULESET, 0, 0, _ASK_VERSION) < version:
            return False
        attributes = pack("=QQQ", right | _REFER, 0, 0)
        opened.append(system.system_call(_CREATE_RULESET, attributes, len(attributes), 0))
        opened.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
        system.system_call(_ADD_RULE, opened[0], _PATH_BENEATH, pack("=Qi", _REFER, opened[1]), 0)
        system.system_call(_RESTRICT_SELF, opened[0], 0)
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True
