"""Try the acts of bubblewrap in this process; print the kernel's answer to each, an error number (0: done), as JSON.

Started as ``python -I -S kernel_trial_program.py``: where no bubblewrap works, whose words name the first act that was
refused, in its own way, and never who refused it; and below a bubblewrap that works.
"""

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable  # noqa: TC003 - read when it runs

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x4000000, 0x10000000, 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _identity(user: int, group: int) -> None:
    for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{file}", "w") as stream:  # noqa: PTH123 - the least that is imported
            stream.write(text)


def _new_root() -> None:
    """Asked for in a way that the kernel finds wrong, where nobody forbids it."""
    try:
        _call("pivot_root", b"/", b"/")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise


def _fresh_proc() -> None:
    """Mount a new /proc in a child, which is the first process of the new namespace."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        error = 0
        try:
            _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
            _call("mount", b"proc", b"/proc", b"proc", 0, None)
        except OSError as problem:
            error = problem.errno or 1
        os.write(writing, bytes([error]))
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1)
    os.waitpid(child, 0)
    if answer != b"\0":
        raise OSError(answer[0] if answer else 5, "mount")


def _try() -> dict[str, int]:
    user, group = os.geteuid(), os.getegid()
    acts: dict[str, Callable[[], None]] = {}  # in their order
    if user != 0:
        acts["user namespace"] = lambda: _call("unshare", _CLONE_NEWUSER)
        acts["identity"] = lambda: _identity(user, group)
    acts["namespaces"] = lambda: _call("unshare", _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWPID)
    acts["host name"] = lambda: _call("sethostname", b"arl", 3)
    acts["root folder"] = _new_root
    acts["proc"] = _fresh_proc
    done = {}
    for name, act in acts.items():
        try:
            act()
        except OSError as error:
            done[name] = error.errno or 1
            break  # what follows would fail for that
        done[name] = 0
    return done


if __name__ == "__main__":
    json.dump(_try(), sys.stdout)
