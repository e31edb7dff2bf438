"""(In the janitor) One sandbox that is watched: what its processes hold, and their end when that is too much.

Held is anonymous and shared memory of the cgroup, without the files in the writable folders (which have sizes of their
own) and without what is the agent's. No look is needed in less time than the room that is left could be taken in.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # has no stub; signal costs 3 ms
import os
from _struct import pack, unpack

from pytest_arl.agent import memory_page
from pytest_arl.backends.local.watched_cgroup import MI, SLACK, CgroupFiles, Version1, Version2

__all__ = ["WatchedSandbox", "end_unwatched"]

_SPEED = 8 << 30  # bytes in a second: more than a program was ever seen to take
_SHORTEST, _LONGEST = 0.001, 0.05
_EXACT_SECONDS = 0.01  # looks that far apart are exact, whether the verdict needs it or not
_CALM_SECONDS = 0.02  # nor is an exact one needed where nothing moved and there is room for as long
_LITTLE = MI // 4  # what the kernel books ahead
_RELAX_SECONDS = 0.25  # without a step or a background process: the agent alone is here, and may be sent much
_SLEEP_SECONDS = 1.0
_PASSES = 200  # of a kill, in quick succession
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_EBADMSG = 74
_PAGE_INDEX = 2


def end_unwatched(descriptors: list[int], error: OSError) -> None:
    """End a sandbox that nothing would bound, and leave the reason on its page."""
    try:
        if len(descriptors) > _PAGE_INDEX:
            os.pwrite(descriptors[_PAGE_INDEX], pack("=Q", error.errno or _EBADMSG), memory_page.FAILURE)
        _signal.pidfd_send_signal(descriptors[0], _signal.SIGKILL)
    except OSError:
        pass  # it has ended, which is why its files are gone


class WatchedSandbox:
    """One of them. OSError from any method: it cannot be watched, or is gone.

    Attributes:
        descriptors: all that it keeps open, but for the group's.
        agent: a pidfd of the agent.
        wake: an eventfd by which the agent says that a step begins.
        due: when to look next (monotonic seconds), or None to sleep until it is woken.
    """

    def __init__(self, message: bytes, descriptors: list[int], now: float) -> None:
        """``message`` and ``descriptors`` are those of :mod:`.watch_setup`."""
        version, agent, monitor, memory, wall, folder = message.split(b" ", 5)
        self.descriptors = descriptors
        self.agent, self.wake, self._page, *self._folders = descriptors
        self._spared = {int(agent), int(monitor)}
        self._memory = int(memory)
        self._statm = os.open(b"/proc/" + agent + b"/statm", os.O_RDONLY | os.O_CLOEXEC)
        descriptors.append(self._statm)
        self.group: CgroupFiles = (Version1 if version == b"1" else Version2)(folder, self._memory, int(wall))
        self.due: float | None = now
        self._quiet_since = now - _RELAX_SECONDS
        self._relaxed = True
        self._asleep = False
        self._kills = 0
        self._killing: int | None = None
        self._passes = 0
        self._left = 0  # held by nobody that lives: shared memory that a step left behind
        self._exact_at = 0.0
        self._exact = (0, 0, 0)  # the usage, the files and what was held then
        self._seen = (0, 0, 0)  # as on the page

    def look(self, now: float) -> None:
        """See what is held, end what holds too much, and decide when to look again."""
        step, own, resident = self._agents_part()
        ended = False
        if self._killing is not None:
            if self._go_on_killing(now):
                return
            ended = True
        if self._rest(step, now):
            return
        files, room = self._in_files()
        usage = self.group.usage()
        most = usage - files - own
        held = min(most, self._expected(usage, files))
        exact = ended or self._needs_exact(now, usage, most) or self._would_be_most(step, held)
        if exact:
            held = most = self._measure(now, usage, files, room, own, resident)
        self._tell(step, held, usage)
        self._left = held if ended else min(self._left, held)
        # What a step left in /dev/shm must not end the one that removes it.
        bound = max(self._memory, min(self._left, self._memory) + 2 * SLACK) if self._left else self._memory
        if exact and held > bound and self._begin_killing(step, now):
            return
        self.due = now + self._patience(min(self._memory - most, self.group.left(usage)))

    def wake_up(self, now: float) -> None:
        """Look at once, and exactly: a step begins, or the kernel's brake was felt."""
        self.due = self._quiet_since = now
        self._exact_at = 0.0

    def _agents_part(self) -> tuple[int, int, int]:
        part = os.pread(self._page, memory_page.SIZE - memory_page.STEP, memory_page.STEP)
        if len(part) != memory_page.SIZE - memory_page.STEP:
            raise OSError(_EBADMSG, os.strerror(_EBADMSG))
        step, own, resident = unpack("=QQQ", part)
        return step, own, resident

    # How closely to look

    def _rest(self, step: int, now: float) -> bool:
        """True if the agent is alone, so that nothing is to be seen; after a while sleep."""
        if step & 1:
            self._quiet_since = now
        quiet = now - self._quiet_since
        resting = quiet >= _RELAX_SECONDS and not self._others()
        if resting != self._relaxed:
            self._relaxed = resting
            self._exact_at = 0.0  # where the limit is to follow again, do it now
            if resting:
                self.group.relax()
        sleepy = resting and quiet >= _SLEEP_SECONDS
        if sleepy and self._asleep:
            self.due = None  # a step that began before the agent could know was seen by now
        elif resting:
            self.due = now + self._patience(self._memory)
        if sleepy != self._asleep:
            self._asleep = sleepy
            os.pwrite(self._page, pack("=Q", sleepy), memory_page.ASLEEP)
        return resting

    @staticmethod
    def _patience(room: int) -> float:
        return min(_LONGEST, max(_SHORTEST, (max(0, room) + SLACK // 2) / _SPEED))

    def _needs_exact(self, now: float, usage: int, most: int) -> bool:
        """True if what is held must be known exactly. ``most`` counts page cache and the kernel's own memory too."""
        if most > self._memory - 2 * SLACK:
            return True
        if now - self._exact_at < _EXACT_SECONDS:
            return False
        return abs(usage - self._exact[0]) >= _LITTLE or self._patience(self._memory - most) < _CALM_SECONDS

    def _would_be_most(self, step: int, held: int) -> bool:
        """True if it is more than was seen while the step runs: the most that it held is told to its user, and page
        cache that grew is none of it.
        """
        of, most_held, _ = self._seen
        return bool(step & 1) and held > (most_held if of == step else 0) + _LITTLE

    # What is held

    def _in_files(self) -> tuple[int, int]:
        """Bytes in the folders, and bytes that still fit."""
        files = room = 0
        for folder in self._folders:
            state = os.fstatvfs(folder)
            files += (state.f_blocks - state.f_bfree) * state.f_frsize
            room += state.f_bfree * state.f_frsize
        return files, room

    def _measure(self, now: float, usage: int, files: int, room: int, own: int, resident: int) -> int:
        """The held memory, exactly. The kernel's limit follows."""
        held, kernel = self.group.figures()
        files_after, room_after = self._in_files()
        if files_after > files:  # what was written meanwhile would look like memory
            files, room = files_after, room_after
        fields = os.pread(self._statm, 128, 0).split()
        own += max(0, (int(fields[1]) - int(fields[2])) * _PAGE_SIZE - resident)
        held = max(0, held - files - own)
        self._exact_at, self._exact = now, (usage, files, held)
        self.group.follow(files + kernel + own, room)
        return held

    def _expected(self, usage: int, files: int) -> int:
        """The held memory, if all growth since the last exact look is the processes'."""
        usage_then, files_then, held_then = self._exact
        return held_then + max(0, usage - usage_then - (files - files_then))

    def _tell(self, step: int, held: int, usage: int) -> None:
        """Let the agent know the most that was seen while a step runs."""
        if step & 1:
            of, most_held, most_usage = self._seen
            seen = (step, held, usage) if of != step else (step, max(held, most_held), max(usage, most_usage))
            if seen != self._seen:
                self._seen = seen
                os.pwrite(self._page, pack("=QQQ", *seen), memory_page.SEEN)

    # The end of all

    def _others(self) -> set[int]:
        return self.group.processes() - self._spared

    def _begin_killing(self, step: int, now: float) -> bool:
        if not self._others():
            return False
        self._kills += 1
        os.pwrite(self._page, pack("=Q", self._kills), memory_page.KILLS)  # before anything ends of it
        self._killing, self._passes = step, 0
        return self._go_on_killing(now)

    def _go_on_killing(self, now: float) -> bool:
        """Kill all but the agent once more, for they fork; whether some were left."""
        others = self._others()
        step, _, _ = self._agents_part()
        # Another step: then the agent has seen the end of all that this was about. The pids were read before.
        if not others or step != self._killing:
            self._killing = None
            return False
        for pid in others:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._passes += 1
        self.due = now + (_SHORTEST if self._passes < _PASSES else 10 * _SHORTEST)
        return True
