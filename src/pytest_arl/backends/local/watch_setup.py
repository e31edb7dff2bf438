"""(Host side) What a sandbox needs to be watched: a page that its agent shares with the watcher, and what is looked at.

The watcher is the janitor's process (:mod:`.memory_watcher`). It counts the files of the sandbox's folders by
descriptors that are opened here, in the sandbox's own view, before anything but the agent has run in it.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from struct import unpack
from typing import TYPE_CHECKING

from pytest_arl.agent import memory_page
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_arl.backends.local.cgroups import Cgroup, CgroupLimits
    from pytest_arl.backends.local.janitor import Janitor
    from pytest_arl.backends.local.spawner import Inherited

__all__ = ["WatchSetup"]


class WatchSetup:
    """The watch over one sandbox's memory."""

    def __init__(self, janitor: Janitor, cgroup: Cgroup, limits: CgroupLimits, keep: ExitStack) -> None:
        """``keep`` closes what is kept open for as long as the sandbox lives. Raises OSError."""
        self._janitor = janitor
        self._cgroup = cgroup
        self._limits = limits
        self._page = os.memfd_create("arl-memory-page", os.MFD_CLOEXEC)
        keep.callback(os.close, self._page)
        os.ftruncate(self._page, memory_page.SIZE)
        self._starting = keep.enter_context(ExitStack())
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._starting.callback(os.close, self._wake)

    def config(self, inherited: Inherited, folders: Sequence[str]) -> dict[str, object]:
        """The agent's part, as :class:`pytest_arl.agent.memory_watch.MemoryWatch` has it. Raises OSError."""
        usage, peak, stat = self._cgroup.figures
        return {
            "watcher_fd": inherited.share(self._janitor.descriptor()),
            "page_fd": inherited.share(self._page),
            "wake_fd": inherited.share(self._wake),
            "usage_fd": inherited.give(os.open(usage, os.O_RDONLY | os.O_CLOEXEC)),
            "peak_fd": _give_peak(inherited, peak),
            "stat_fd": inherited.give(os.open(stat, os.O_RDONLY | os.O_CLOEXEC)),
            "memory": self._limits.memory,
            "folders": [os.fsencode(folder) for folder in folders],
        }

    def start(self, agent: int, agent_descriptor: int, monitor: int, folders: Sequence[str]) -> None:
        """Have it watched from now on. The agent is ready, and has run nothing.

        ``agent`` and ``monitor`` are the pids out here of the agent and of bubblewrap, which are never killed for it.
        """
        limits = self._limits
        numbers = (self._cgroup.version, agent, monitor, limits.memory, limits.wall)
        message = b" ".join([*(b"%d" % number for number in numbers), os.fsencode(self._cgroup.memory)])
        with ExitStack() as opened:
            try:
                inside = [self._open(opened, agent, folder) for folder in folders]
                self._janitor.watch(message, [agent_descriptor, self._wake, self._page, *inside])
            except OSError as error:
                raise BackendUnavailable(f"the memory of a sandbox cannot be watched: {error}") from None
        self._starting.close()

    @staticmethod
    def _open(opened: ExitStack, agent: int, folder: str) -> int:
        """A folder as the sandbox has it."""
        descriptor = os.open(f"/proc/{agent}/root{folder}", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, descriptor)
        return descriptor

    def failure(self) -> str:
        """The reason why the sandbox was ended without a fault of its programs; empty where it was not."""
        (code,) = unpack("=Q", os.pread(self._page, 8, memory_page.FAILURE))
        if code:
            return f"its memory could not be watched any more: {os.strerror(code)}"
        return self._janitor.epitaph()


def _give_peak(inherited: Inherited, path: str) -> int | None:
    """The file that tells the most that was ever used: for writing too where that begins it anew; None where it is not.

    In version 2 an ordinary user may write it from kernel 6.12 on, and 5.18 has none.
    """
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ENOENT):
                raise
        else:
            return inherited.give(descriptor)
    return None
