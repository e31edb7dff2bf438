"""Source lines that tracebacks and warnings quote, where they come from a folder that sandboxes can write.

Python reads a module's file anew for each report of a failure. By then a sandbox may have put something else in its
place: a link to a file of this machine, whose lines the report would show, a FIFO that nobody writes to, a device that
never ends, or text that no parser stands. Such a file is not quoted, as one that is missing is not.
"""

from __future__ import annotations

import io
import linecache
import os
import stat
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from pytest_arl.host_files.below import open_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["guard_quoted_sources"]

_LARGEST = 4 << 20  # bytes of a module
_read_any: Callable[..., list[str]] = linecache.updatecache


class _Guarded:
    """Folders that sandboxes can write, open, by device and inode."""

    def __init__(self, folders: Iterable[Path], keep: ExitStack) -> None:
        self._since = time.time()
        self._folders: dict[tuple[int, int], int] = {}
        for folder in folders:
            with suppress(OSError):  # one that is missing is refused where it is mounted; a file cannot be replaced
                descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                keep.callback(os.close, descriptor)
                state = os.fstat(descriptor)
                self._folders[state.st_dev, state.st_ino] = descriptor

    def find(self, path: str) -> tuple[int, bytes] | None:
        """The guarded folder that a path leads into, and the rest of it: nothing in such a folder is asked."""
        names = os.path.abspath(path).split("/")  # noqa: PTH100 - a string in, a string out
        for end in range(1, len(names)):
            try:
                state = os.stat("/".join(names[:end]) or "/")  # noqa: PTH116 - the same
            except (OSError, ValueError):
                return None
            descriptor = self._folders.get((state.st_dev, state.st_ino))
            if descriptor is not None:
                return descriptor, os.fsencode("/".join(names[end:]))
        return None

    def read(self, folder: int, below: bytes) -> tuple[bytes, os.stat_result] | None:
        """A plain file that nobody has touched since the run began."""
        try:
            descriptor = open_below(folder, below, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_size > _LARGEST or state.st_ctime > self._since:
                return None
            return os.pread(descriptor, _LARGEST, 0), state
        except OSError:
            return None
        finally:
            os.close(descriptor)


_guarded: list[_Guarded] = []


def guard_quoted_sources(folders: Iterable[Path]) -> Callable[[], None]:
    """Quote sources in these folders only where they are unchanged. Returns a function that ends that."""
    keep = ExitStack()
    guarded = _Guarded(folders, keep)
    _guarded.append(guarded)
    linecache.updatecache = _read

    def end() -> None:
        _guarded.remove(guarded)
        keep.close()
        if not _guarded:
            linecache.updatecache = _read_any

    return end


def _read(filename: str, module_globals: dict[str, Any] | None = None) -> list[str]:
    """Replace ``linecache.updatecache``, through which all quotes go."""
    if not (filename.startswith("<") and filename.endswith(">")):
        for path in _candidates(filename):
            for guarded in _guarded:
                if (place := guarded.find(path)) is not None:
                    linecache.cache.pop(filename, None)
                    return _keep(filename, path, guarded.read(*place))
            if os.path.exists(path):  # noqa: PTH110 - a string in, a bool out
                break
    return _read_any(filename, module_globals)


def _candidates(filename: str) -> list[str]:
    """The places where linecache looks for a file of that name, in its order."""
    if os.path.isabs(filename):  # noqa: PTH117 - a string in, a bool out
        return [filename]
    return [filename, *(os.path.join(entry, filename) for entry in sys.path)]  # noqa: PTH118 - the same


def _keep(filename: str, path: str, found: tuple[bytes, os.stat_result] | None) -> list[str]:
    """The lines, which linecache keeps as its own."""
    import tokenize  # noqa: PLC0415 - linecache imports it where it reads, too

    if found is None:
        return []
    data, state = found
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        lines = io.TextIOWrapper(io.BytesIO(data), encoding).readlines()
    except (LookupError, SyntaxError, UnicodeDecodeError):
        return []
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    linecache.cache[filename] = state.st_size, state.st_mtime, lines, path
    return lines
