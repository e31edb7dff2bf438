"""Configuration files, each read once for a run: what a sandbox has written into one since then is not obeyed.

What says which folders of this machine a sandbox is given must be ours: another user's is refused, as git does with
another user's repository.

Standard library only, and cheap: start-up imports it. A file is parsed only where somebody asks for its content as
TOML.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["TRUST", "ConfigFiles", "parse_toml"]

__tracebackhide__ = True

TRUST = "PYTEST_ARL_TRUST"
"""The variable that names folders whose files are obeyed, whoever may write them; ``*`` is all."""

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not be waited for
_REPOSITORIES = (".git", ".hg")


class ConfigFiles:
    """Files as they were when they were first read."""

    def __init__(self, known: Mapping[str, bytes | str] | None = None, trusted: str = "") -> None:
        """``known`` has been read, and judged, before. ``trusted`` are folders as :data:`TRUST` has them."""
        self._known = dict(known or {})
        self._doubts: dict[str, str] = {}
        self._trusted = [folder for folder in trusted.split(os.pathsep) if folder]
        self._lock = threading.Lock()

    @property
    def known(self) -> dict[str, bytes | str]:
        """The known paths, each with its content or the reason why it could not be read."""
        with self._lock:
            return dict(self._known)

    def read(self, path: Path) -> bytes:
        """The content at first sight. UsageError names the file where it could not be read."""
        with self._lock:
            found = self._known.get(str(path))
            if found is None:
                try:
                    found = self._read(path)
                except OSError as error:
                    found = error.strerror or str(error)
                self._known[str(path)] = found
        if isinstance(found, str):
            raise UsageError(f"cannot read {path}: {found}")
        return found

    def _read(self, path: Path) -> bytes:
        if str(path) == os.devnull:  # how people say «none»
            return b""
        descriptor = os.open(path, _READ)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            if (doubt := self._doubt(path, state)) is not None:
                self._doubts[str(path)] = doubt
            return file.read()

    def require_own(self, path: Path) -> None:
        """Raise UsageError where somebody else could have written a file that was read."""
        doubt = self._doubts.get(str(path))
        if doubt is not None:
            raise UsageError(
                f"{path} {doubt}, or set {TRUST}={path.parent} to trust it: it says what sandboxes get of this machine"
            )

    def read_toml(self, path: Path) -> dict[str, Any]:
        """A TOML file's content; UsageError where it cannot be read or parsed, or is not ours. Nobody may change what
        comes back.
        """
        content = self.read(path)
        self.require_own(path)
        return parse_toml(path, content)

    def folders(self, start: Path) -> list[Path]:
        """Folders that may have configuration: a folder, and those above it up to the top of its repository, if it
        lies in one of ours.
        """
        folders = [start, *start.parents]
        for index, folder in enumerate(folders):
            for name in _REPOSITORIES:
                try:
                    state = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - at each start
                except OSError:
                    continue
                if _ours(state) or self._trusts(folder):
                    return folders[: index + 1]
        return folders[:1]

    def _trusts(self, folder: Path) -> bool:
        return any(trusted == "*" or folder.is_relative_to(trusted) for trusted in self._trusted)

    def _doubt(self, path: Path, state: os.stat_result) -> str | None:
        """The reason why another user may have written a file, and the cure; None where there is none."""
        if self._trusts(path.parent):
            return None
        if not _ours(state):
            return f"belongs to {_user(state.st_uid)}: make it yours"
        if state.st_mode & stat.S_IWOTH:
            return f"can be written by every user: `chmod o-w {path}`"
        folder = path.parent.stat()
        sticky = folder.st_mode & stat.S_ISVTX and _ours(folder)  # then what is ours stays where it is
        if folder.st_mode & stat.S_IWOTH and not sticky:
            return f"lies in a folder that every user can write: `chmod o-w {path.parent}`"
        return None


def _ours(state: os.stat_result) -> bool:
    """True if something belongs to us or to root; to whom sudo made root, too."""
    user = os.geteuid()
    return state.st_uid in (user, 0) or (user == 0 and str(state.st_uid) == os.environ.get("SUDO_UID"))


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - only an error needs it

    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with the id {uid}"


@functools.lru_cache(maxsize=4)
def parse_toml(path: Path, content: bytes) -> dict[str, Any]:
    """TOML from a file of that name; the same content is parsed once, as every sandbox asks for its pool."""
    import tomllib  # noqa: PLC0415 - only who has settings in TOML pays for the parser

    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} nests its values too deep: no setting needs that") from None
