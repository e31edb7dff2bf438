"""(In the janitor) All sandboxes of one run that are watched, in one loop.

A sandbox that keeps all processors busy must not keep the watcher from looking, so it asks for real-time priority, and
spends no more than a quarter of a processor with that. The last descriptor of a full folder frees it, which may take
0.1 s, so threads without the priority close them.
"""

from __future__ import annotations

import _socket
import _thread
import os
import select
import sys
import time

from pytest_arl.backends.local.watched_sandbox import WatchedSandbox, end_unwatched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Watcher"]

_MESSAGE_BYTES = 8192
_MOST_DESCRIPTORS = 16
_INT = 4  # bytes of a descriptor's number in a message
_PAUSE = 3  # for each second of a processor that looking took
_LONGEST_PAUSE = 0.1
_EMFILE = 24


class Watcher:
    """Watches until pytest's end of ``control`` is closed, or ``owner`` (a pidfd of pytest) tells its end."""

    def __init__(self, control: int, owner: int) -> None:
        self._control = _socket.socket(fileno=control)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._awake: set[WatchedSandbox] = set()
        self._over = False
        self._add(control, self._receive)
        self._add(owner, self._end)

    def run(self) -> None:
        """Watch."""
        pause_until = 0.0
        while not self._over:
            dues = [sandbox.due for sandbox in self._awake if sandbox.due is not None]
            timeout = max(0.0, max(pause_until, min(dues)) - time.monotonic()) if dues else -1
            ready = dict(self._epoll.poll(timeout))
            news = ready.pop(self._control.fileno(), None)
            for descriptor in ready:
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()
            if news is not None:  # last: what it brings has numbers that were others' when this round began
                self._receive()
            now = time.monotonic()
            if now >= pause_until and self._awake:
                begun = time.thread_time()
                self._look(now)
                pause = min(_LONGEST_PAUSE, _PAUSE * (time.thread_time() - begun))
                pause_until = time.monotonic() + pause

    def _look(self, now: float) -> None:
        for sandbox in [sandbox for sandbox in self._awake if sandbox.due is not None and sandbox.due <= now]:
            try:
                sandbox.look(now)
            except OSError as error:
                end_unwatched(sandbox.descriptors, error)
                self._forget(sandbox)
            else:
                if sandbox.due is None:
                    self._awake.discard(sandbox)

    def _add(self, descriptor: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def _remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _end(self) -> None:
        self._over = True

    def _receive(self) -> None:
        """A sandbox to be watched, or the end of all."""
        message, ancillary, flags, _ = self._control.recvmsg(
            _MESSAGE_BYTES, _socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT), _socket.MSG_CMSG_CLOEXEC
        )
        descriptors = [
            int.from_bytes(data[at : at + _INT], sys.byteorder)
            for level, kind, data in ancillary
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
            for at in range(0, len(data), _INT)
        ]
        if not message:
            self._over = True
            return
        if not flags & _socket.MSG_CTRUNC:
            self._watch(message, descriptors)
        elif descriptors:  # there was no number left for some of them
            end_unwatched(descriptors, OSError(_EMFILE, ""))
            _close(descriptors)
        else:
            raise OSError(_EMFILE, os.strerror(_EMFILE))

    def _watch(self, message: bytes, descriptors: list[int]) -> None:
        try:
            sandbox = WatchedSandbox(message, descriptors, time.monotonic())
        except OSError as error:
            end_unwatched(descriptors, error)
            _close(descriptors)
            return

        def wake() -> None:
            os.read(sandbox.wake, 8)  # it does not block
            self._wake(sandbox)

        def braked() -> None:
            sandbox.group.heard()
            self._wake(sandbox)

        self._add(sandbox.agent, lambda: self._forget(sandbox))
        self._add(sandbox.wake, wake)
        if sandbox.group.events >= 0:
            self._add(sandbox.group.events, braked, select.EPOLLPRI)
        self._awake.add(sandbox)

    def _wake(self, sandbox: WatchedSandbox) -> None:
        sandbox.wake_up(time.monotonic())
        self._awake.add(sandbox)

    def _forget(self, sandbox: WatchedSandbox) -> None:
        """It has ended."""
        self._awake.discard(sandbox)
        for descriptor in (sandbox.agent, sandbox.wake, sandbox.group.events):
            self._remove(descriptor)
        sandbox.group.close()
        _thread.start_new_thread(_close, (sandbox.descriptors,))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
