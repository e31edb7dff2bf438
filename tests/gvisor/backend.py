"""Sandboxes in runsc as a backend: the agent is PID 1 there, with its channel on a passed descriptor.

It starts as the agent of a pod does, as an ordinary user that steps have too, and without any capability.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.agent_package.bundle import BOOT, bundle
from pytest_arl.backends.local import interpreter
from pytest_arl.backends.local.backend import _shown_limits
from pytest_arl.backends.local.identity import new_name
from pytest_arl.backends.local.plan import HOME, TMP, WORKSPACE, _environment, _rlimits
from pytest_arl.errors import BackendUnavailable, SandboxTimeout
from pytest_arl.pools import find_pool, load_pools
from tests.gvisor.layout import Program, write_bundle
from tests.gvisor.runsc import START_SECONDS, Container, Runsc

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.backends.base import AcquireRequest
    from pytest_arl.pools import LocalPool
    from pytest_arl.settings import Settings

__all__ = ["NAME", "Box", "RunscBackend", "pytest_arl_backend", "pytest_arl_backend_names", "sandbox_of"]

NAME = "gvisor"
USER = 10001
"""Of steps, and of the agent where it has no user of its own."""
_numbers = itertools.count()


def pytest_arl_backend(name: str, settings: Settings) -> RunscBackend | None:
    return RunscBackend(settings) if name == NAME else None


def pytest_arl_backend_names() -> tuple[str, ...]:
    return (NAME,)


class Box:
    """One container with an agent, whose channel is open until :meth:`close`. ``privileged``: it starts as root and
    becomes the steps' user, as this machine's agents do.
    """

    def __init__(self, runsc: Runsc, pool: LocalPool, seconds: float, *, privileged: bool = False) -> None:
        """Raises BackendUnavailable, SandboxTimeout."""
        self.pool = pool
        self.name = new_name(pool.name)
        self._lock = threading.Lock()
        self._keep = ExitStack()
        try:
            self._start(runsc, pool, seconds, privileged=privileged)
        except BaseException:
            self.close()
            raise

    def _start(self, runsc: Runsc, pool: LocalPool, seconds: float, *, privileged: bool) -> None:
        folder = runsc.folder / f"{next(_numbers)}"
        folder.mkdir(mode=0o755)
        self._keep.callback(shutil.rmtree, folder, ignore_errors=True)
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as code, tempfile.TemporaryFile() as spool:
            code.write(bundle())
            code.flush()
            passed = [code.fileno(), theirs.fileno(), spool.fileno()]
            command = [*interpreter.host_command(), "-c", BOOT, *map(str, passed[:2])]
            write_bundle(folder, pool, self.name, Program(command, USER, privileged=privileged))
            network = "host" if pool.network == "host" else "none"
            self.container = Container(runsc, self.name, folder, passed, network=network)
            self._keep.callback(self.container.close)
        self.channel = Channel(ours, lost=self._epitaph)
        self._keep.callback(self.channel.close)
        try:
            self.channel.handshake(_config(pool, passed[2], privileged=privileged), time.monotonic() + seconds)
        except ChannelLost as error:
            raise BackendUnavailable(f"runsc started no agent: {error}: {self.container.said()}") from None
        except TimeoutError:
            raise SandboxTimeout(f"runsc started no agent in {seconds:.0f} s: {self.container.said()}") from None

    def _epitaph(self) -> str:
        return f"runsc ended with {self.container.process.returncode}" if self.container.ended(2.0) else ""

    def close(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            self._keep.close()


def _config(pool: LocalPool, spool: int, *, privileged: bool) -> AgentConfig:
    user = USER if privileged else None
    return AgentConfig(
        uid=user,
        gid=user,
        workspace=WORKSPACE,
        home=HOME,
        tmp=TMP,
        env=_environment(pool),
        rlimits=_rlimits(pool, cgroup=False),
        spool_fd=spool,
        spool_bytes=pool.most_printed,
        memory=pool.memory,
        processes=pool.processes,
        cpu_time=pool.cpu_time,
    )


def sandbox_of(box: Box, close: Callable[[], None], replace: Callable[[], DirectSandbox]) -> DirectSandbox:
    """The part of it that a session has."""
    return DirectSandbox(
        box.channel,
        name=box.name,
        pool_ref=box.pool.name,
        isolation=NAME,
        output_limit=box.pool.output,
        on_close=close,
        kill=box.container.kill,
        replace=replace,
        limits=_shown_limits(box.pool),
    )


class RunscBackend:
    """See :class:`pytest_arl.backends.base.Backend`. Pools are those of this machine."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runsc = Runsc()
        self._open: set[Box] = set()

    def pools(self) -> tuple[str, ...]:
        return tuple(sorted(load_pools(self._settings)))

    def acquire(self, request: AcquireRequest) -> DirectSandbox:
        pool = find_pool(self._settings, request.pool_ref)
        box = Box(self._runsc, pool, min(request.acquire_timeout, START_SECONDS))
        self._open.add(box)

        def close() -> None:
            box.close()
            self._open.discard(box)

        return sandbox_of(box, close, lambda: self.acquire(request))

    def close(self) -> None:
        for box in list(self._open):
            box.close()
        self._runsc.close()
