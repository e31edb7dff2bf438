"""Open what lies below a folder, through real folders only."""

from __future__ import annotations

import _ctypes
import errno
import os
from _struct import pack

__all__ = ["open_below"]

_OPENAT2 = 437  # one number on every architecture
_RESOLVE = 0x02 | 0x04 | 0x08  # RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH
_LONGEST = 4000  # bytes of a path that the kernel takes at once; a longer one is walked
_TRIES = 8
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_below(folder: int, below: bytes, flags: int) -> int:
    """A descriptor of what lies at the relative path ``below``; of the folder itself for an empty one.

    No part of it may be a link or ``..``. OSError as ``open`` has it: ELOOP or ENOTDIR where a link is in the way,
    EXDEV for what is not below.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if b".." in below or b"\0" in below or below.startswith(b"/"):
        _refuse(below)
    if b"/" not in below:
        return os.open(below or b".", flags, dir_fd=folder)
    if len(below) <= _LONGEST:
        found = _openat2(folder, below, flags)
        if found >= 0:
            return found
    return _walk(folder, below, flags)


def _refuse(below: bytes) -> None:
    if below.startswith(b"/") or b"\0" in below or b".." in below.split(b"/"):
        raise OSError(errno.EXDEV, "leads out of its folder", os.fsdecode(below))


def _openat2(folder: int, below: bytes, flags: int) -> int:
    """The descriptor, or -1 where the kernel, or what filters its calls, does not have openat2."""
    how = pack("=QQQ", flags, 0, _RESOLVE)  # struct open_how: flags, mode, resolve
    for _ in range(_TRIES):
        found: int = _syscall(_Long(_OPENAT2), _Long(folder), below, how, _Long(len(how)))
        if found >= 0:
            return found
        error = _ctypes.get_errno()
        if error in (errno.ENOSYS, errno.EPERM):
            return -1
        if error not in (errno.EINTR, errno.EAGAIN):  # EAGAIN: something was renamed at the same time
            raise OSError(error, os.strerror(error), os.fsdecode(below))
    return -1


def _walk(folder: int, below: bytes, flags: int) -> int:
    """The same, one name at a time."""
    *parents, last = below.split(b"/")
    here = folder
    try:
        for name in parents:
            there = os.open(name or b".", _FOLDER, dir_fd=here)
            if here != folder:
                os.close(here)
            here = there
        return os.open(last or b".", flags, dir_fd=here)
    finally:
        if here != folder:
            os.close(here)


# `import ctypes` costs 5 ms: this is the half of it that is needed.


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - the C half of ctypes, half typed
    _type_ = "l"


class _Call(_ctypes.CFuncPtr):
    _flags_ = 0x1 | 0x8  # cdecl, and errno is kept
    _restype_ = _Long


_syscall = _Call(_ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall"))  # type: ignore[arg-type]  # None is this program
