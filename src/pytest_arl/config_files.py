"""Configuration files, each read once for a run: what a sandbox has written into one since then is not obeyed.

Standard library only. A file is parsed only where somebody asks for its content as TOML.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ConfigFiles", "parse_toml"]


class ConfigFiles:
    """Files as they were when they were first read."""

    def __init__(self, known: Mapping[str, bytes | str] | None = None) -> None:
        self._known = dict(known or {})
        self._lock = threading.Lock()

    @property
    def known(self) -> dict[str, bytes | str]:
        """What is known of each path: the content, or why it could not be read."""
        with self._lock:
            return dict(self._known)

    def read(self, path: Path) -> bytes:
        """The content at first sight. UsageError names the file where it could not be read."""
        __tracebackhide__ = True
        with self._lock:
            found = self._known.get(str(path))
            if found is None:
                try:
                    found = path.read_bytes()
                except OSError as error:
                    found = error.strerror or str(error)
                self._known[str(path)] = found
        if isinstance(found, str):
            raise UsageError(f"cannot read {path}: {found}")
        return found

    def read_toml(self, path: Path) -> dict[str, Any]:
        """A TOML file's content; UsageError where it cannot be read or parsed. Nobody may change what comes back."""
        __tracebackhide__ = True
        return parse_toml(path, self.read(path))


@functools.lru_cache(maxsize=4)
def parse_toml(path: Path, content: bytes) -> dict[str, Any]:
    """TOML from a file of that name; the same content is parsed once, as every sandbox asks for its pool."""
    __tracebackhide__ = True
    import tomllib  # noqa: PLC0415 - only who has settings in TOML pays for the parser

    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
