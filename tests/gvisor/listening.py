"""The agent of a pod in runsc: it listens, and is told by an operator what it is to be."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.agent_package.bundle import REMOTE_BOOT, bundle
from pytest_arl.agent_package.first_stage import first_stage
from pytest_arl.backends.local import interpreter
from pytest_arl.backends.local.identity import new_name
from pytest_arl.cluster import pod
from pytest_arl.pools import LocalPool
from tests.agent.harness import BASE_ENV
from tests.agent.remote_harness import MODULUS, POD, Agent, _listens, free_port
from tests.gvisor.backend import USER
from tests.gvisor.layout import Program, write_bundle
from tests.gvisor.runsc import START_SECONDS, Container, Runsc
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["agent_of"]


@contextmanager
def agent_of(runsc: Runsc, *, memory: int | None = None, user: int = USER) -> Iterator[Agent]:
    """One until the end of the block. ``memory``: bytes that its container has, as of a pod's limits."""
    port, name = free_port(), new_name("listening")
    folder = runsc.folder / name
    program = Program(
        ["/start", interpreter.host_command()[0], *pod.INTERPRETER_FLAGS, "-c", REMOTE_BOOT, "/agent", str(port)],
        user,
        env={
            pod.POD_UID_VARIABLE: POD,
            pod.OPERATOR_KEYS_VARIABLE: pod.keys_variable([(MODULUS, 65537)]),
            **BASE_ENV,
        },
        files={"/agent": bundle(remote=True), "/start": first_stage(os.uname().machine)},
    )
    with ExitStack() as keep:
        folder.mkdir(mode=0o755)
        keep.callback(shutil.rmtree, folder, ignore_errors=True)
        write_bundle(folder, LocalPool("listening", Path("/"), network="host"), name, program, memory)
        container = Container(runsc, name, folder, (), network="host", cgroups=memory is not None)
        keep.callback(container.close)
        until(lambda: container.process.poll() is not None or _listens(port), START_SECONDS)
        assert container.process.poll() is None, container.said()
        assert _listens(port), f"nothing listens after {START_SECONDS:.0f} s: {container.said()}"
        yield Agent(port, container.process, keep)
