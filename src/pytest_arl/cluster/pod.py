"""Names and paths of a sandbox's pod on which the agent's image, the operator and the client agree.

The standard library only, and next to nothing of that: everything here is a name, a path or a command. What the
agent itself needs to know stands in :mod:`pytest_arl.agent.container`. Nothing in its environment is secret, as every
pod of a pool has the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_arl.agent.container import (
    FILE_BYTES_VARIABLE,
    KEPT_VARIABLE,
    OPERATOR_KEYS_VARIABLE,
    POD_UID_VARIABLE,
    PORT,
    PRIVATE_PREFIX,
    SPOOL_FOLDER,
    WORKSPACE,
    WORKSPACE_VARIABLE,
)
from pytest_arl.cluster.names import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AGENT_CONTAINER",
    "AGENT_FOLDER",
    "EXECUTOR_CONTAINER",
    "FILE_BYTES_VARIABLE",
    "GRACE_SECONDS",
    "IDLE_COMMAND",
    "INSTALL_COMMAND",
    "INSTALL_FOLDER",
    "INTERPRETER",
    "INTERPRETER_FLAGS",
    "KEPT_VARIABLE",
    "LEASE_LABEL",
    "LEASE_PREFIX",
    "OPERATOR_KEYS_VARIABLE",
    "OPERATOR_LEASE",
    "POD_UID_VARIABLE",
    "POOL_LABEL",
    "PORT",
    "PRIVATE_PREFIX",
    "RUN_LABEL",
    "SANDBOX_LABEL",
    "SPOOL_FOLDER",
    "STATUS_ALLOCATED",
    "STATUS_IDLE",
    "STATUS_LABEL",
    "WORKER_LABEL",
    "WORKSPACE",
    "WORKSPACE_VARIABLE",
    "agent_command",
    "agent_folder",
    "keys_variable",
]

AGENT_FOLDER = "/arl"
"""The agent with its interpreter, in its own image. In a sandbox's container it is an emptyDir, mounted read-only at
``agent_folder``.
"""

EXECUTOR_CONTAINER = "executor"
"""The container of a pool's template that the sandbox runs in; without one of this name, the first."""
AGENT_CONTAINER = "arl-agent"
"""The first container of the pod, from the agent's image: it fills the agent's folder and idles."""
INSTALL_FOLDER = "/shared"
"""The mount point in that container of the emptyDir that the executor has at AGENT_FOLDER. Its own is the image's."""

GRACE_SECONDS = 5
"""terminationGracePeriodSeconds. The agent and the idling container end at once when they are asked to."""

INTERPRETER_FLAGS = ("-I", "-S", "-B", "-X", "utf8")
"""No variable, folder or locale of the image means anything to the agent's interpreter, and it sets none."""

INTERPRETER = (
    f"{AGENT_FOLDER}/lib/ld.so",
    "--library-path",
    f"{AGENT_FOLDER}/lib",
    "--argv0",
    f"{AGENT_FOLDER}/bin/python3",
    f"{AGENT_FOLDER}/bin/python3",
    *INTERPRETER_FLAGS,
)
"""An interpreter that needs nothing of the image that it runs in: its own loader and its own C library."""
INSTALL_COMMAND = (*INTERPRETER, f"{AGENT_FOLDER}/install.py", INSTALL_FOLDER)
"""postStart of the agent's container. The executor is started when this has ended."""
IDLE_COMMAND = (*INTERPRETER, f"{AGENT_FOLDER}/idle.py")
"""``command`` of the agent's container. Ends when it is asked to, where sleep(1) as PID 1 would take all the grace."""

OPERATOR_LEASE = "arl-operator"
"""The Lease of the operator that leads."""
POOL_LABEL = f"{GROUP}/pool"
STATUS_LABEL = f"{GROUP}/status"
STATUS_IDLE = "idle"
STATUS_ALLOCATED = "allocated"
SANDBOX_LABEL = f"{GROUP}/sandbox"
RUN_LABEL = f"{GROUP}/run"
WORKER_LABEL = f"{GROUP}/worker"
LEASE_LABEL = f"{GROUP}/lease"
"""The Lease that an object lives by. The Lease of a process of a run carries its own name there."""
LEASE_PREFIX = "arl-"
"""Prefix of the name of such a Lease."""


def agent_folder(token: str) -> str:
    """The executor's folder with the agent. The token is of the pool and not to be guessed: an image may declare a
    volume at any path that it knows (``VOLUME``), and what it has there would lie over the agent.
    """
    return f"{AGENT_FOLDER}-{token}"


def agent_command(folder: str) -> tuple[str, ...]:
    """The executor's ``command``; it has no ``args``.

    It begins with :mod:`pytest_arl.agent_package.first_stage`, as any loader obeys the variables of the image.
    """
    interpreter = [word.replace(AGENT_FOLDER, folder, 1) for word in INTERPRETER]
    return (f"{folder}/start", *interpreter, f"{folder}/boot.py")


def keys_variable(keys: Iterable[tuple[int, int]]) -> str:
    """The value of OPERATOR_KEYS_VARIABLE for RSA public keys, each a pair of modulus and exponent."""
    return json.dumps([{"n": f"{modulus:x}", "e": exponent} for modulus, exponent in keys])
