"""One sandbox in a session's hands: acquired, swapped for a fresh one, and let go exactly once.

Apart from the session, so that a session that is garbage collected can still be cleaned up after.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import threading
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

from pytest_arl.errors import SandboxClosed, SandboxTimeout
from pytest_arl.session.fair_queue import Cancellation, FairQueue, Place
from pytest_arl.text.units import format_duration

if TYPE_CHECKING:
    from pytest_arl.backends.base import AcquireRequest, Backend, BackendSandbox, Checkpoint

__all__ = ["OpenSandbox", "acquire", "close_unowned"]

__tracebackhide__ = True

_logger = logging.getLogger("pytest_arl")


class _Places:
    """The places for open sandboxes of this process (``--arl-max-sandboxes``); a forked child counts anew."""

    def __init__(self) -> None:
        self.turns = FairQueue(None)
        os.register_at_fork(after_in_child=self._anew)

    def _anew(self) -> None:
        self.turns = FairQueue(None)


_places = _Places()


class OpenSandbox:
    """A sandbox, its checkpoints, and its place among those that may be open.

    Attributes:
        sandbox: the backend's; another one after a reset.
        keep_alive: whether it may outlive its session.
        acquired_in: seconds that it took to get the sandbox, or the fresh one of the last reset.
        uses: a count of what was done that can change its content; it only grows, over resets too.
        opener: the cancellable call that opened it, if that was one.
        pid: the process that it belongs to.
    """

    _open: ClassVar[weakref.WeakSet[OpenSandbox]] = weakref.WeakSet()

    def __init__(self, sandbox: BackendSandbox, place: Place, *, keep_alive: bool) -> None:
        self.sandbox = sandbox
        self.keep_alive = keep_alive
        self.acquired_in: float | None = None
        self.uses = 0
        self.opener: Cancellation | None = None
        self.pid = os.getpid()
        self._checkpoints: list[Checkpoint] = []
        self._clean = 0
        self._place = place
        self._turns = _places.turns
        self._closing = threading.Lock()
        self._closed = False
        self._open.add(self)

    @property
    def closed(self) -> bool:
        """True if it was let go of."""
        return self._closed

    @property
    def untouched(self) -> bool:
        """True if all that is in it is its checkpoint: a fresh one in its place would go unnoticed."""
        return self.uses == self._clean

    def start_counting(self, uses: int) -> None:
        """Go on with the count of the sandbox before this one."""
        self.uses = self._clean = uses

    def remember(self) -> None:
        """Make a checkpoint; the one before it is given up."""
        before = self._checkpoints[-1:]
        self.remember_too()
        for checkpoint in before:
            self._checkpoints.remove(checkpoint)
            checkpoint.close()

    def remember_too(self) -> None:
        """Make a checkpoint above the one before it, which is kept."""
        uses = self.uses
        self._checkpoints.append(self.sandbox.checkpoint())
        self._clean = uses

    def forget(self) -> None:
        """Give the last checkpoint up for the one below it, if there is one."""
        if len(self._checkpoints) > 1:
            self._clean = -1  # the sandbox is not as that checkpoint has it
            self._checkpoints.pop().close()

    def renew(self) -> None:
        """Return to the checkpoint, in a fresh sandbox if the backend likes that better."""
        if not self._checkpoints:
            return
        uses = self.uses
        before, began = self.sandbox, perf_counter()
        self.sandbox = before.restore(self._checkpoints[-1])
        if self.sandbox is not before:
            self.acquired_in = perf_counter() - began
        self._clean = uses
        if self._closed:
            # Deleted meanwhile, and the sandbox of that moment is closed: this one must not stay either.
            self.sandbox.close()
            raise SandboxClosed(f"{self.sandbox.name}: deleted while it was reset")

    def close(self) -> None:
        """Let go of everything. Idempotent; in a forked child it does nothing, for the sandbox is the parent's."""
        if os.getpid() != self.pid or not self._closing.acquire(blocking=False):
            return
        self._closed = True
        try:
            for part in (self.sandbox, *self._checkpoints):
                self._close_part(part)
        finally:
            self._turns.leave(self._place)
            self._open.discard(self)

    def _close_part(self, part: BackendSandbox | Checkpoint) -> None:
        try:
            part.close()
        except Exception:  # a backend promised not to; what else is open must be closed all the same
            _logger.exception("closing the sandbox %s failed", self.sandbox.name)

    def close_at_exit(self) -> None:
        """Leave nothing of this process; a kept sandbox is its backend's business."""
        if not self.keep_alive:
            self.close()
        elif self.pid == os.getpid():
            for checkpoint in self._checkpoints:
                checkpoint.close()

    @classmethod
    def close_all(cls) -> None:
        """The interpreter ends."""
        for holding in list(cls._open):
            holding.close_at_exit()


atexit.register(OpenSandbox.close_all)


def acquire(
    backend: Backend, request: AcquireRequest, most: int | None, cancellation: Cancellation | None
) -> tuple[OpenSandbox, float]:
    """A sandbox that is ready, and the seconds that took. Waits for a place where ``most`` are open."""
    began = perf_counter()
    place = Place()
    turns = _places.turns
    holding: OpenSandbox | None = None
    try:
        turns.set_limit(most)
        if not turns.enter(place, timeout=request.acquire_timeout, cancellation=cancellation):
            raise SandboxTimeout(  # noqa: TRY301 - the place is left below
                f"no sandbox of pool {request.pool_ref!r} after {format_duration(request.acquire_timeout)}: {most} are "
                f"open in this process, and --arl-max-sandboxes allows no more; close one, or allow more"
            )
        holding = OpenSandbox(backend.acquire(request), place, keep_alive=request.keep_alive)
        holding.remember()
        holding.acquired_in = perf_counter() - began
        return holding, holding.acquired_in
    except BaseException:
        if holding is None:
            turns.leave(place)
        else:
            holding.close()
        raise


def close_unowned(holding: OpenSandbox) -> None:
    """Close the sandbox of a session that was garbage collected."""
    if os.getpid() == holding.pid:
        # In a thread: the collection may have begun while this very thread holds a lock of the backend. This is the
        # one way to start a thread that takes no lock itself.
        _thread.start_new_thread(holding.close, ())
