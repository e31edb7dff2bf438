"""The life of a session's sandbox: what was asked for, from ``create_sandbox`` to ``delete_sandbox``."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_arl import settings
from pytest_arl.backends.base import AcquireRequest
from pytest_arl.errors import SandboxClosed, UsageError
from pytest_arl.hooks import get_backend
from pytest_arl.session import listeners, validation
from pytest_arl.session.fair_queue import FairQueue
from pytest_arl.session.open_sandbox import OpenSandbox, acquire, close_unowned
from pytest_arl.session.task_execution import TaskExecution
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from pytest_arl.session import SandboxSession
    from pytest_arl.session.fair_queue import Cancellation

__all__ = ["UNSET", "Lifecycle", "Unset"]

_logger = logging.getLogger("pytest_arl")


class Unset:
    """Stands for an argument that was left out, where None means something."""

    def __repr__(self) -> str:
        return "as configured"


UNSET: Final = Unset()


class Lifecycle:
    """A session as far as it has a sandbox, or none. See :class:`pytest_arl.SandboxSession`."""

    def __init__(
        self,
        pool_ref: str | None = None,
        namespace: str | None = None,
        keep_alive: bool = False,
        *,
        timeout: float | str | Unset | None = UNSET,
        keep_workspace: bool = False,
        acquire_timeout: float | str | None = None,
        idle_timeout: float | str | None = None,
        max_lifetime: float | str | None = None,
        backend: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        __tracebackhide__ = True
        validation.names(pool_ref=pool_ref, namespace=namespace, backend=backend, name=name)
        validation.flags(keep_alive=keep_alive, keep_workspace=keep_workspace)
        wait = validation.seconds(acquire_timeout, "SandboxSession: acquire_timeout")
        self._settings = settings.current()
        configured = self._settings.value
        self._request = AcquireRequest(
            pool_ref=pool_ref or configured("pool"),
            namespace=namespace or configured("namespace"),
            keep_alive=keep_alive,
            acquire_timeout=wait or configured("acquire_timeout"),
            idle_timeout=validation.seconds(idle_timeout, "SandboxSession: idle_timeout"),
            max_lifetime=validation.seconds(max_lifetime, "SandboxSession: max_lifetime"),
            labels=validation.labels(labels),
        )
        self._backend_name: str = backend or configured("backend")
        self._timeout = timeout if isinstance(timeout, Unset) else validation.limit(timeout, "SandboxSession: timeout")
        self._keep_workspace = keep_workspace
        self._given_name = name
        self._sandbox_name: str | None = None
        self._tasks = TaskExecution()
        self._turns = FairQueue()
        self._state = threading.Lock()
        self._opening = False
        self._deleted = False
        self._uses_before = 0
        self._holding: OpenSandbox | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    # --- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that was given, else the sandbox's, which is its hostname too; the pool's before there is one.

        A reset may put a sandbox of another name in its place.
        """
        held = self._holding
        own = self._sandbox_name if held is None else held.sandbox.name
        return self._given_name or own or self._request.pool_ref

    @property
    def pool_ref(self) -> str:
        """Name of the pool that the sandbox comes from."""
        return self._request.pool_ref

    @property
    def namespace(self) -> str | None:
        """The Kubernetes namespace, or None for the backend's own default."""
        return self._request.namespace

    @property
    def backend(self) -> str:
        """Name of the backend that makes the sandbox."""
        return self._backend_name

    @property
    def keep_alive(self) -> bool:
        """True if the sandbox outlives a ``with`` block."""
        return self._request.keep_alive

    @property
    def acquire_timeout(self) -> float:
        """Seconds to wait for a sandbox to be ready."""
        return self._request.acquire_timeout

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a task after which a cluster ends it, or None for the pool's."""
        return self._request.idle_timeout

    @property
    def max_lifetime(self) -> float | None:
        """Seconds after which a cluster ends it, or None for the pool's."""
        return self._request.max_lifetime

    @property
    def keep_workspace(self) -> bool:
        """True if a shared sandbox keeps its files from test to test."""
        return self._keep_workspace

    @property
    def labels(self) -> Mapping[str, str]:
        """What the sandbox is for."""
        return self._request.labels

    @property
    def timeout(self) -> float | None:
        """Seconds that each task may take unless ``execute`` says otherwise; None is no limit."""
        __tracebackhide__ = True
        if isinstance(self._timeout, Unset):
            # Asked anew for each task: a test's marker bounds the tasks of a shared sandbox too.
            configured: float | None = settings.in_force(self._settings).value("timeout")
            return configured
        return self._timeout

    @property
    def isolation(self) -> str | None:
        """The tier of isolation in use (``bwrap+cgroup``), or None while there is no sandbox."""
        held = self._holding
        return None if held is None else held.sandbox.isolation

    @property
    def limits(self) -> Mapping[str, str]:
        """What the sandbox's pool allows, as far as its backend says so: ``{"memory": "512Mi"}``; empty while there is
        none.
        """
        held = self._holding
        found: Mapping[str, str] = {} if held is None else getattr(held.sandbox, "limits", {})
        return found

    def keep(self, size: int) -> bool:
        """Count bytes of the sandbox that are kept on this machine beside its downloads and checkpoints, in a report.
        False where the pool allows no more (``kept``): then they should not be.
        """
        held = self._holding
        count: Callable[[int], bool] | None = None if held is None else getattr(held.sandbox, "keep", None)
        return count is None or count(size)

    @property
    def is_open(self) -> bool:
        """True if there is a sandbox that can run a task, as far as is known without asking it."""
        held = self._holding
        return held is not None and held.pid == os.getpid() and not held.closed and held.sandbox.alive()

    @property
    def uses(self) -> int:
        """How often something was done that can change what is in the sandbox: tasks, writes, uploads."""
        held = self._holding
        return self._uses_before if held is None else held.uses

    # --- its life -----------------------------------------------------------------------------

    def create_sandbox(self) -> None:
        """Acquire a sandbox, ready to use. After ``delete_sandbox`` it gives a fresh one."""
        __tracebackhide__ = True
        self._create(None)

    def delete_sandbox(self) -> None:
        """Let go of the sandbox and everything in it, kept alive or not. Idempotent; a running task ends with it."""
        __tracebackhide__ = True
        with self._state:
            held, self._holding = self._holding, None
            finalizer, self._finalizer = self._finalizer, None
            self._deleted = True
            if held is not None:
                self._uses_before = held.uses + 1
                self._sandbox_name = held.sandbox.name
        if held is None:
            return
        held.close()
        if finalizer is not None:
            finalizer.detach()
        if held.pid == os.getpid():
            _logger.info("%s: closed", self.name)
            listeners.notify_closed(self._public)

    def _create(self, cancellation: Cancellation | None) -> None:
        __tracebackhide__ = True
        with self._state:
            if self._opening or (self._holding is not None and self._holding.pid == os.getpid()):
                raise UsageError(f"{self.name} has its sandbox already: use it, or make another SandboxSession")
            self._opening = True
            self._deleted = False
        try:
            listeners.notify_opening()
            backend = get_backend(self._backend_name, self._settings)
            _logger.info("acquiring a sandbox of pool %s (backend %s)", self.pool_ref, self._backend_name)
            most = self._settings.value("max_sandboxes")
            held, seconds = acquire(backend, self._request, most, cancellation)
            self._adopt(held, cancellation)
        finally:
            self._opening = False
        _logger.info("%s: ready after %s (%s)", self.name, format_duration(seconds), held.sandbox.isolation)
        listeners.notify_ready(self._public, seconds, held.sandbox.isolation)

    def _adopt(self, held: OpenSandbox, cancellation: Cancellation | None) -> None:
        """Take a sandbox over, unless nobody wants it any more."""
        __tracebackhide__ = True
        with self._state:
            unwanted = self._deleted or (cancellation is not None and cancellation.requested)
            if not unwanted:
                held.opener = cancellation
                held.start_counting(self._uses_before)
                self._tasks.forget()
                if not self.keep_alive:
                    self._finalizer = weakref.finalize(self, close_unowned, held)
                    # At the interpreter's end no thread can be waited for: OpenSandbox.close_all does it.
                    self._finalizer.atexit = False
                self._holding = held
        if unwanted:
            held.close()
            raise SandboxClosed(f"{self.name}: deleted while it was being created")

    def _discard(self, opener: Cancellation) -> None:
        """Delete the sandbox if this call opened it: its await was cancelled."""
        held = self._holding
        if held is not None and held.opener is opener:
            self.delete_sandbox()

    @property
    def _has_none(self) -> bool:
        """True if a block that is entered has to create a sandbox. One that was lost is not replaced in silence."""
        return self._holding is None or self._holding.pid != os.getpid()

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        if self._has_none:
            self.create_sandbox()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        if not self.keep_alive:
            self.delete_sandbox()

    # --- behind them --------------------------------------------------------------------------

    @property
    def _public(self) -> SandboxSession:
        """This session, as others know it."""
        return cast("SandboxSession", self)

    def _held(self) -> OpenSandbox:
        """The sandbox in hand, or SandboxClosed with what to do."""
        __tracebackhide__ = True
        held = self._holding
        if held is not None and held.pid == os.getpid():
            return held
        if held is not None:
            raise SandboxClosed(
                f"{self.name}: its sandbox belongs to process {held.pid}, which forked this one; "
                "create_sandbox() gives this process one of its own"
            )
        if self._deleted:
            raise SandboxClosed(f"{self.name}: its sandbox was deleted; create_sandbox() gives a fresh one")
        raise SandboxClosed(
            f"{self.name}: there is no sandbox yet; write «with SandboxSession(...) as session:», "
            "or call create_sandbox() first"
        )

    def __repr__(self) -> str:
        held = self._holding
        state = "no sandbox" if held is None else "closed" if held.closed else held.sandbox.isolation
        return f"<{type(self).__name__} {self.name!r} of pool {self.pool_ref!r}, {state}>"
