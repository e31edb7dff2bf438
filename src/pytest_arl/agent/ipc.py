"""System V's segments, queues and semaphores, and POSIX message queues: what outlives the processes that made it."""

from __future__ import annotations

import os

from pytest_arl.agent import system

__all__ = ["kernel_bytes", "remove_all", "remove_queue"]

_SYS_MQ_UNLINK = {"x86_64": 241, "aarch64": 181}
_REMOVE = 0
_MSG_INFO, _SEM_INFO = 12, 19
_MSG_QUEUES, _MSG_MESSAGES, _MSG_BYTES = 0, 1, 6  # of struct msginfo: what msgctl(2) says of MSG_INFO
_SEM_COUNT = 9  # of struct seminfo: what semctl(2) says of SEM_INFO
_KINDS = (("shm", "shmctl", 14, 13, 0), ("msg", "msgctl", _MSG_INFO, 11, 0), ("sem", "semctl", _SEM_INFO, 18, 7))
"""Tables of /proc/sysvipc, the functions for what they list, their commands INFO and STAT, and where in its struct the
first says how many there are.
"""
_TRIED, _MOST = 4096, 65536
_QUEUE_SIZE, _MESSAGE_SIZE, _SEMAPHORE_SIZE = 256, 64, 64  # bytes that the kernel takes for each, at least


def kernel_bytes() -> int:
    """Bytes that System V messages and semaphores of this IPC namespace take in the kernel, in one moment: reading the
    tables of /proc may take longer than filling them.
    """
    try:
        system.libc("msgctl", 0, _MSG_INFO, messages := system.Ints())
        system.libc("semctl", 0, 0, _SEM_INFO, semaphores := system.Ints())
    except OSError:
        return 0  # a kernel without them
    taken = messages[_MSG_QUEUES] * _QUEUE_SIZE + messages[_MSG_MESSAGES] * _MESSAGE_SIZE + messages[_MSG_BYTES]
    return int(taken + semaphores[_SEM_COUNT] * _SEMAPHORE_SIZE)


def remove_queue(name: bytes) -> None:
    """Remove a POSIX message queue, which may be gone. Its file system may be read-only."""
    number = _SYS_MQ_UNLINK.get(os.uname().machine)
    try:
        if number is not None:
            system.libc("syscall", number, name)
    except OSError:
        pass


def remove_all() -> None:
    """Remove every System V segment, queue and semaphore of this IPC namespace that is ours: they outlive their
    processes.
    """
    for table, function, info, stat, place in _KINDS:
        extra = (0,) if table == "sem" else ()  # its calls have a second number
        try:
            with open("/proc/sysvipc/" + table, "rb") as file:
                found = [int(row.split()[1]) for row in file.read().splitlines()[1:]]
        except OSError:
            found = []
        for identifier in found or _unlisted(function, extra, info, stat, place):
            try:
                system.libc(function, identifier, *extra, _REMOVE, 0)
            except OSError:
                continue


def _unlisted(function: str, extra: tuple[int, ...], info: int, stat: int, place: int) -> list[int]:
    """Identifiers of what there is though /proc lists nothing: gVisor has no such tables."""
    try:
        system.libc(function, 0, *extra, info, told := system.Ints())
    except OSError:
        return []
    found = []
    # Of segments gVisor does not tell how many there are, but the last identifier that it gave.
    for index in range(min(max(told[place] + 1, _TRIED), _MOST) if told[place] else 0):
        try:
            # Linux answers the identifier that stands at an index, gVisor takes identifiers and answers 0.
            found.append(system.libc(function, index, *extra, stat, system.Longs()) or index)
        except OSError:
            continue
    return found
