"""The few moments between the fork of bubblewrap and the agent's exec.

bubblewrap tells the pid of the sandbox's PID 1 through one pipe and holds it back until something comes through
another: in between it can be given its limits, before it has any child that would escape them.
"""

from __future__ import annotations

import functools
import os
import re
import select
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.backends.local import spawner
from pytest_arl.backends.local.layout import HOSTNAME, UID, Content, HeldSource
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.backends.local.cgroups import Cgroup
    from pytest_arl.backends.local.layout import Argument
    from pytest_arl.backends.local.mount_sources import Sources
    from pytest_arl.backends.local.spawner import Inherited

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True)
class _File:
    """Bytes for bubblewrap to read from a descriptor; ``varies`` where a sandbox's uid or hostname stands in them."""

    data: bytes
    varies: bool


@functools.lru_cache(maxsize=16)
def _prepare(arguments: tuple[Argument, ...]) -> tuple[bytes | _File | HeldSource, ...]:
    """The options that all sandboxes of a pool share, as bubblewrap reads them."""
    parts: list[bytes | _File | HeldSource] = []
    words: list[bytes] = []
    for argument in arguments:
        if isinstance(argument, Content):
            parts += [b"".join(words), _File(argument.data, UID in argument.data or HOSTNAME in argument.data)]
            words = []
        elif isinstance(argument, HeldSource):
            parts += [b"".join(words), argument]
            words = []
        else:
            words.append(os.fsencode(argument) + b"\0")
    return (*parts, b"".join(words))


class Launch:
    """The few moments between the fork of bubblewrap and the agent's exec."""

    def __init__(self, inherited: Inherited, keep: ExitStack, sources: Sources) -> None:
        """``inherited`` is what the child gets beside bubblewrap's own; ``keep`` closes what is ours.

        ``sources`` holds what is bound from descriptors.
        """
        self._inherited = inherited
        self._sources = sources
        self._mine = keep.enter_context(ExitStack())
        spawner.close_in_forks(self._mine)
        self._info, info_in = _pipe_that_can_be_written()
        self._mine.callback(os.close, self._info)
        self._info_in = inherited.give(info_in)
        block_out, self._block = os.pipe()
        self._mine.callback(os.close, self._block)
        self._block_out = inherited.give(block_out)

    def bubblewrap(
        self,
        bwrap: str,
        arguments: Sequence[Argument],
        argv: list[str],
        name: str,
        uid: int,
        stderr: int,
        cgroup: Cgroup | None,
    ) -> spawner.SpawnedProcess:
        """Start it. Its options go through a memory file, so that ``ps`` shows none of them."""
        hostname, number = name.encode(), b"%d" % uid
        words = [b"--info-fd\0%d\0--block-fd\0%d\0" % (self._info_in, self._block_out)]
        words.append(b"--hostname\0%s\0" % hostname)
        for part in _prepare(tuple(arguments)):
            if isinstance(part, bytes):
                words.append(part)
            elif isinstance(part, HeldSource):
                words.append(b"%d\0" % self._sources.lend(part.source, self._inherited.share))
            else:
                data = part.data.replace(UID, number).replace(HOSTNAME, hostname) if part.varies else part.data
                words.append(b"%d\0" % self._memory_file(data))
        options = self._memory_file(b"".join(words))
        try:
            return (cgroup.spawn if cgroup is not None else spawner.spawn)(
                [bwrap, "--args", str(options), "--", *argv], descriptors=self._inherited.numbers, stderr=stderr
            )
        except OSError as error:
            raise BackendUnavailable(f"{bwrap} cannot be started: {error}") from None

    def _memory_file(self, data: bytes) -> int:
        descriptor = self._inherited.give(os.memfd_create("arl"))
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def child_pid(self, deadline: float) -> int | None:
        """The pid of PID 1 of the sandbox out here; None where bubblewrap failed or the deadline passed."""
        poll = select.poll()
        poll.register(self._info, select.POLLIN)
        text = b""
        while b"}" not in text:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return None
            piece = os.read(self._info, 4096)
            if not piece:
                return None
            text += piece
        found = re.search(rb'"child-pid": *(\d+)', text)
        return int(found[1]) if found else None

    def go(self) -> None:
        """Let PID 1 go on to the agent."""
        with suppress(BrokenPipeError):
            os.write(self._block, b"x")
        self._mine.close()


def _pipe_that_can_be_written() -> tuple[int, int]:
    """A pipe whose writer is a reader as well, so that writing never fails.

    bubblewrap ends where it cannot tell its child's pid, because we are dead; the child would then wait for ever.
    """
    reader, writer = os.pipe()
    try:
        return reader, os.open(f"/proc/self/fd/{writer}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
