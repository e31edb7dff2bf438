"""Memory where a process outside of the sandbox watches it: what that process tells, and what a step held at most.

The watcher looks at the sandbox's cgroup from outside and ends everything in it but the agent once it holds too much.
It tells so on a page (:mod:`.memory_page`).
"""

from __future__ import annotations

import os
from _struct import pack

from pytest_arl.agent import memory_page, system
from pytest_arl.agent.folder_space import bytes_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MemoryWatch"]

_KILLS, _SEEN, _ASLEEP, _STEP, _OWN = (
    offset // 8
    for offset in (memory_page.KILLS, memory_page.SEEN, memory_page.ASLEEP, memory_page.STEP, memory_page.OWN)
)
_LITTLE = 1024 * 1024  # bytes: what comes and goes in the cgroup without anybody's doing
_HELD = frozenset((b"total_rss", b"total_shmem", b"total_swap"))
_HELD_VERSION_2 = frozenset((b"anon", b"shmem"))


class MemoryWatch:
    """The agent's part of it.

    ``config`` names descriptors (``page_fd``, ``wake_fd``, ``usage_fd``, ``peak_fd``, ``stat_fd``), ``memory`` (bytes)
    and ``folders``: those whose files do not count.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._page = system.map_numbers(config["page_fd"])
        os.close(config["page_fd"])
        self._wake: int = config["wake_fd"]
        self._usage: int = config["usage_fd"]
        self._peak: int | None = config["peak_fd"]
        self._stat: int = config["stat_fd"]
        self._memory: int = config["memory"]
        self._folders: list[bytes] = config["folders"]
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._step = 0
        self._kills_before = 0
        self._most_before: int | None = None
        # Nothing but the agent is here yet.
        self._own = self._held()
        self._resident = system.own_bytes(self._statm)
        self._usage_alone = system.number(self._usage) - bytes_in(self._folders)
        self._page[_OWN] = self._own
        self._page[_OWN + 1] = self._resident

    def begin(self) -> None:
        """A step starts."""
        self._step += 2 if self._step & 1 else 1
        self._page[_STEP] = self._step
        self._kills_before = self.kills
        if self._page[_ASLEEP]:
            os.write(self._wake, pack("=Q", 1))
        self._most_before = self._reset_peak()

    def end(self) -> None:
        """It is over, and nothing of it lives that is not in the background."""
        if self._step & 1:
            self._step += 1
            self._page[_STEP] = self._step

    @property
    def kills(self) -> int:
        """The number of times that the watcher has ended everything here."""
        kills: int = self._page[_KILLS]
        return kills

    def kills_of_step(self) -> int:
        """The number of times that it has killed something since the step began."""
        return self.kills - self._kills_before

    def peak(self, *, killed: bool) -> int | None:
        """Bytes held at most since the step began, by all processes together; None where nobody has seen that.
        ``killed``: something was, for holding too much.

        The kernel knows the most that the whole cgroup used, files and page cache included. What of that was neither is
        told by what is left at the step's end, and by what the watcher saw; what it saw is part of the truth at least.
        """
        step, seen, seen_usage = self._page[_SEEN : _SEEN + 3]
        looked = step == self._step
        most = self._most()
        if most is None:
            return int(seen) if looked else None
        usage = system.number(self._usage)
        peak = max(0, most - usage + self._left(usage))
        if looked:
            peak = max(seen, min(peak, seen + max(0, most - seen_usage)))
        return int(peak if killed else min(peak, self._memory))  # more is not held for long enough to count

    def _reset_peak(self) -> int | None:
        """Let the kernel's peak begin anew. Gives what it says where an older kernel cannot do that."""
        if self._peak is None:
            return None
        try:
            os.pwrite(self._peak, b"0", 0)
        except OSError:
            return system.number(self._peak)
        return 0

    def _most(self) -> int | None:
        """The most that the cgroup used since the step began; None where it once used more than that."""
        if self._peak is None or self._most_before is None:
            return None
        most = system.number(self._peak)
        return most if most > self._most_before else None

    def _left(self, usage: int) -> int:
        """The memory that is held without the agent, where the cgroup uses ``usage``."""
        room = usage - self._usage_alone
        if room < _LITTLE:
            return 0  # there is room for nothing: spare the slower figures, and the slowest to the last
        grown = max(0, system.own_bytes(self._statm) - self._resident)
        if room - grown < _LITTLE or room - grown - bytes_in(self._folders) < _LITTLE:
            return 0
        return max(0, self._held() - self._own - grown)

    def _held(self) -> int:
        """The memory of the cgroup, the agent's included, but no files."""
        held = 0
        lines = os.pread(self._stat, 8192, 0).splitlines()
        wanted = _HELD if any(line.startswith(b"total_rss ") for line in lines) else _HELD_VERSION_2
        for line in lines:
            name, _, value = line.partition(b" ")
            if name in wanted:
                held += int(value)
        return max(0, held - bytes_in(self._folders))
