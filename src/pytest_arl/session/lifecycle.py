"""The life of a session's sandbox: from ``create_sandbox``, over resets, to ``delete_sandbox``."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import SandboxClosed, UsageError
from pytest_arl.hooks import get_backend
from pytest_arl.session import notifications
from pytest_arl.session.open_sandbox import OpenSandbox, acquire, close_unowned
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from pytest_arl.backends.base import BackendSandbox
    from pytest_arl.session.config import SessionConfig
    from pytest_arl.session.fair_queue import Cancellation
    from pytest_arl.session.step_index import StepIndex

__all__ = ["Lifecycle"]

__tracebackhide__ = True

_logger = logging.getLogger("pytest_arl")


class Lifecycle:
    """The sandbox that a session has, or none.

    Only its session refers to it, and it does not refer to the session: both go when nothing uses the session any
    more, and the sandbox is closed then.
    """

    def __init__(self, config: SessionConfig, steps: StepIndex) -> None:
        """``steps`` forgets what ran in a sandbox once there is another in its place."""
        self._config = config
        self._steps = steps
        self._sandbox_name: str | None = None
        self._state = threading.Lock()
        self._opening = False
        self._deleted = False
        self._uses_before = 0
        self._held: OpenSandbox | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    # --- the state of it ----------------------------------------------------------------------

    @property
    def held(self) -> OpenSandbox | None:
        """The sandbox in hand, be it closed, lost, or of the process that forked this one; None without one."""
        return self._held

    @property
    def name(self) -> str:
        """The name that was given, else the sandbox's, else the pool's."""
        held = self._held
        own = self._sandbox_name if held is None else held.sandbox.name
        return self._config.name or own or self._config.pool_ref

    @property
    def missing(self) -> bool:
        """True if a block that is entered has to create a sandbox. One that was lost is not replaced in silence."""
        held = self._held
        return held is None or held.pid != os.getpid()

    @property
    def is_open(self) -> bool:
        """True if there is a sandbox that can run a task, as far as is known without asking it."""
        held = self._held
        return held is not None and held.pid == os.getpid() and not held.closed and held.sandbox.alive()

    @property
    def uses(self) -> int:
        """A count of what was done to the sandboxes of this session; it only grows."""
        held = self._held
        return self._uses_before if held is None else held.uses

    def require(self) -> OpenSandbox:
        """The sandbox in hand, or SandboxClosed with what to do."""
        held = self._held
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

    def require_for_change(self) -> BackendSandbox:
        """The sandbox in hand, which is about to be changed."""
        held = self.require()
        held.uses += 1
        return held.sandbox

    # --- changes of it ------------------------------------------------------------------------

    def create(self, cancellation: Cancellation | None) -> tuple[float, str]:
        """Acquire a sandbox: the seconds that took, and its tier of isolation."""
        config = self._config
        with self._state:
            if self._opening or not self.missing:
                raise UsageError(f"{self.name} has its sandbox already: use it, or make another SandboxSession")
            self._opening = True
            self._deleted = False
        try:
            notifications.notify_opening()
            backend = get_backend(config.backend, config.settings)
            _logger.info("acquiring a sandbox of pool %s (backend %s)", config.pool_ref, config.backend)
            held, seconds = acquire(backend, config.request(), config.max_sandboxes(), cancellation)
            self._adopt(held, cancellation)
        finally:
            self._opening = False
        isolation = held.sandbox.isolation
        _logger.info("%s: ready after %s (%s)", self.name, format_duration(seconds), isolation)
        return seconds, isolation

    def _adopt(self, held: OpenSandbox, cancellation: Cancellation | None) -> None:
        """Take a sandbox over, unless it was deleted, or its creation cancelled, meanwhile."""
        with self._state:
            unwanted = self._deleted or (cancellation is not None and cancellation.requested)
            if not unwanted:
                held.opener = cancellation
                held.start_counting(self._uses_before)
                self._steps.forget()
                if not self._config.keep_alive:
                    self._finalizer = weakref.finalize(self, close_unowned, held)
                    # At the interpreter's end no thread can be waited for: OpenSandbox.close_all does it.
                    self._finalizer.atexit = False
                self._held = held
        if unwanted:
            held.close()
            raise SandboxClosed(f"{self.name}: deleted while it was being created")

    def renew(self, held: OpenSandbox) -> None:
        """Return to the last checkpoint. The caller's turn has come, and ``held`` is the sandbox in hand."""
        began, before = perf_counter(), self.name
        held.renew()
        self._steps.forget()
        now = f", now {self.name}" if self.name != before else ""
        _logger.info("%s: reset in %s%s", before, format_duration(perf_counter() - began), now)

    def delete(self) -> bool:
        """Let go of the sandbox. False if there was none of this process."""
        with self._state:
            held, self._held = self._held, None
            finalizer, self._finalizer = self._finalizer, None
            self._deleted = True
            if held is not None:
                self._uses_before = held.uses + 1
                self._sandbox_name = held.sandbox.name
        if held is None:
            return False
        held.close()
        if finalizer is not None:
            finalizer.detach()
        if held.pid != os.getpid():
            return False
        _logger.info("%s: closed", self.name)
        return True

    def opened_by(self, cancellation: Cancellation) -> bool:
        """True if the call of that cancellation has opened the sandbox in hand."""
        held = self._held
        return held is not None and held.opener is cancellation
