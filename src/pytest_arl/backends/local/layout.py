"""Mounts of a sandbox's file system, collected in the order in which bubblewrap makes it.

A layout knows what lies where, and so can tell before the start whether a mount point would be made through a symbolic
link or inside a folder of the host: bubblewrap follows such a link and makes folders on the *host*, even
below a read-only bind.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local.paths import fixed
from pytest_arl.errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from pytest_arl.backends.local.mount_sources import MountSource, Sources

__all__ = ["HOSTNAME", "UID", "Argument", "Content", "HeldSource", "Layout"]

UID = b"\x01uid\x01"
"""Stands for the sandbox's uid in a :class:`Content`: it is not known while the layout is made."""
HOSTNAME = b"\x01hostname\x01"
"""Stands for its hostname in the same way."""


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that bubblewrap reads from a descriptor, whose number takes this argument's place."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HeldSource:
    """Something of the host that bubblewrap binds from a descriptor, whose number takes this argument's place.

    Attributes:
        source: what is held.
        what: whose, for a message.
    """

    source: MountSource
    what: str


Argument = str | Content | HeldSource

_SMALL = "65536"
"""Bytes, for bubblewrap: the size of a file system that holds nothing but folders."""
_MOUNTED_ON_DEMAND = "/proc/sys/fs/binfmt_misc"
_TOPS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, slots=True)
class _Bound:
    source: Path
    writable: bool


@dataclass(slots=True)
class Layout:
    """Collects bubblewrap's arguments; each method appends one thing.

    Attributes:
        sources: who holds what is bound. None, for a trial of what no sandbox can change: everything is bound by path.
        watched: what has to be in its place at each start, though it is not bound from a descriptor.
    """

    sources: Sources | None = None
    arguments: list[Argument] = field(default_factory=list)
    watched: list[HeldSource] = field(default_factory=list)
    _bound: dict[str, _Bound | None] = field(default_factory=dict)
    """Covered paths: a folder of the host, or None where the sandbox's own memory is."""
    _made: set[str] = field(default_factory=set)
    _passages: dict[str, bool] = field(default_factory=dict)
    """Folders that lead to something and show nothing, and for each: is it a mount of its own?"""
    _links: dict[str, str] = field(default_factory=dict)

    def bind(self, source: Path, target: str, what: str = "", *, writable: bool = False, held: bool = False) -> None:
        """Show a folder or file of the host, submounts included: by path only where no sandbox can change that."""
        if self.sources is None or not (writable or held or not fixed(str(source))):
            self._make_parents(target)
            self.arguments += ["--bind" if writable else "--ro-bind", str(source), target]
            self._bound[target] = _Bound(source, writable)
            return
        what = what or f"{target} of a sandbox"
        self.hold(self._open(str(source), what), target, what, writable=writable)

    def hold(self, source: MountSource, target: str, what: str, *, writable: bool) -> None:
        """The same from a descriptor."""
        self._make_parents(target)
        self.arguments += ["--bind-fd" if writable else "--ro-bind-fd", HeldSource(source, what), target]
        self._bound[target] = _Bound(Path(source.path), writable)

    def programs(self) -> None:
        """This machine's programs: /usr, and what is beside it or links into it."""
        self.bind(Path("/usr"), "/usr")
        for name in _TOPS:
            top = Path("/", name)
            if top.is_symlink():
                self.symlink(str(top.readlink()), str(top))
            elif top.is_dir():
                self.bind(top, str(top))

    def overlay(self, source: MountSource, what: str) -> None:
        """The whole root: a folder of the host below, memory above.

        By path, for bubblewrap takes no descriptor here (a number below /proc/self/fd it would leave open inside): the
        path is compared before the start, and once more when all is mounted.
        """
        self.arguments += ["--overlay-src", source.path, "--tmp-overlay", "/"]
        self.watched.append(HeldSource(source, what))

    def tmpfs(self, target: str, size: int, mode: int) -> None:
        """An empty folder in memory that holds so many bytes."""
        self._make_parents(target)
        self.arguments += ["--perms", f"{mode:04o}", "--size", str(size), "--tmpfs", target]
        self._bound[target] = None

    def folder(self, target: str, mode: int = 0o755) -> None:
        """A plain folder in what is already there."""
        self._make_parents(target)
        self.arguments += ["--perms", f"{mode:04o}", "--dir", target]

    def symlink(self, text: str, target: str) -> None:
        """A symbolic link in what is already there; once, for older bubblewraps refuse to make it again."""
        if target in self._made:
            return
        self._made.add(target)
        self._links[target] = text
        self._make_parents(target)
        self.arguments += ["--symlink", text, target]

    def alias(self, text: str, target: str) -> None:
        """A symbolic link to one of the sandbox's own folders: what lies below it can be written, too."""
        self.symlink(text, target)
        self._bound[target] = None

    def file(self, target: str, data: bytes) -> None:
        """A plain file in memory; the root must not be the host's."""
        self._make_parents(target)
        self.arguments += ["--perms", "0644", "--file", Content(data), target]

    def cover(self, target: str, data: bytes) -> None:
        """A read-only file over whatever is there."""
        self._make_parents(target)
        self.arguments += ["--perms", "0644", "--ro-bind-data", Content(data), target]

    def proc(self, *, outer: bool) -> None:
        """The process table: the sandbox's own, or the host's where a masked /proc forbids a new one."""
        self.arguments += ["--ro-bind", "/proc", "/proc"] if outer else ["--proc", "/proc"]
        self._bound["/proc"] = None

    def kernel_settings(self) -> None:
        """The kernel's settings, read-only: those of a sandbox's own namespaces would be a step's to change.

        They are bound from this machine with all that is mounted below: what systemd mounts when somebody looks
        (binfmt_misc) is covered, or a sandbox's look would make this machine mount it.
        """
        self.arguments += ["--ro-bind", "/proc/sys", "/proc/sys"]
        if Path(_MOUNTED_ON_DEMAND).is_dir():  # stat(2) mounts nothing
            self.arguments += ["--perms", "0555", "--size", _SMALL, "--tmpfs", _MOUNTED_ON_DEMAND]
            self.arguments += ["--remount-ro", _MOUNTED_ON_DEMAND]

    def dev(self) -> None:
        """The usual devices, and POSIX message queues where this kernel has them: a reset has to find those that a step
        left.
        """
        self.arguments += ["--dev", "/dev"]
        if Path("/proc/sys/fs/mqueue").is_dir():
            # Read-only: a queue is made and removed by its own system calls, and nothing else is to be made there.
            self.arguments += ["--mqueue", "/dev/mqueue", "--remount-ro", "/dev/mqueue"]
        self._bound["/dev"] = None

    def passage(self, target: str) -> None:
        """Make the folders above a target such that nobody in the sandbox lists them or makes anything in them.

        For a path of this machine that a sandbox shows under the same name: its neighbours are nobody's business there.
        An ordinary user's sandbox owns the folders that bubblewrap makes, so the mode alone would not hold: they lie on
        a mount that is read-only in the end.
        """
        for parent in _parents(target):
            nearest = self._nearest(parent)
            if parent in self._bound or (nearest is not None and nearest[1] is not None):
                continue
            if parent in self._made:
                self._passages.setdefault(parent, False)  # /home, which the sandbox's own home is in, too
                continue
            own = nearest is not None and not self._passages.get(nearest[0])  # a writable folder of the sandbox's
            self.arguments += ["--perms", "0755", *(["--size", _SMALL, "--tmpfs"] if own else ["--dir"]), parent]
            if own:
                self._bound[parent] = None
            self._made.add(parent)
            self._passages[parent] = own

    def close_passages(self) -> None:
        """Close passages when all is bound and the root not yet read-only: bubblewrap must open them itself."""
        for folder in reversed(self._passages):
            self.arguments += ["--chmod", "0111", folder]
            if self._passages[folder]:
                self.arguments += ["--remount-ro", folder]

    def held(self) -> tuple[HeldSource, ...]:
        """All that has to be in its place at each start; each thing once."""
        found = [argument for argument in self.arguments if isinstance(argument, HeldSource)]
        return tuple({held.source.path: held for held in reversed((*self.watched, *found))}.values())

    def finish(self, *options: str) -> None:
        """Options as bubblewrap has them."""
        self.arguments += options

    def _make_parents(self, target: str) -> None:
        """Folders above a target, open to everybody: those that bubblewrap makes by itself root alone can enter.

        In the folders that are the sandbox's own they are as writable as what is around them: their owner may be root.
        """
        for parent in _parents(target):
            nearest = self._nearest(parent)
            if parent not in self._made and (nearest is None or nearest[1] is None) and parent not in self._bound:
                mode = "0777" if nearest is not None else "0755"
                self.arguments += ["--perms", mode, "--dir", parent]
                self._made.add(parent)

    def covers(self, path: str) -> bool:
        """True if the host's own file of that path is in the sandbox under the same path."""
        bound = self._nearest(path)
        return bound is not None and bound[1] is not None and str(bound[1].source) == bound[0]

    def shown(self) -> list[tuple[str, str]]:
        """Each path of this machine that is bound, and where."""
        return [(str(bound.source), target) for target, bound in self._bound.items() if bound is not None]

    def hides_host(self, target: str) -> bool:
        """True if a mount there would lie in, or over, what the sandbox shows of this machine."""
        nearest = self._nearest(target)
        below = any(bound is not None and path.startswith(f"{target}/") for path, bound in self._bound.items())
        return below or (nearest is not None and nearest[1] is not None)

    def check_target(self, target: str, what: str) -> None:
        """Raise UsageError where making this mount point would touch the host, or cannot be done."""
        above = (path for path in map(str, Path(target).parents) if path not in self._bound)
        link = next((path for path in (target, *above) if path in self._links), None)
        if link is not None:
            raise UsageError(
                f"{what}: {target} leads through {link}, which is a symbolic link in every sandbox (to "
                f"{self._links[link]}), where no mount point can be made: choose another target"
            )
        top, bound = self._nearest(target) or ("", None)
        if bound is None:
            return
        source = bound.source
        check_components(source, os.path.relpath(target, top), what)
        there = source / os.path.relpath(target, top)
        if not os.path.lexists(there):
            kind = "writable" if bound.writable else "read-only"
            raise UsageError(
                f"{what}: {target} does not exist in the {kind} {top}, and pytest-arl creates no folder on this "
                f"machine for a mount point: create {there} first, or choose another target"
            )
        self._watch(str(there), what)

    def _watch(self, path: str, what: str) -> None:
        if self.sources is None or fixed(path):
            return
        self.watched.append(HeldSource(self._open(path, what), what))

    def _open(self, path: str, what: str) -> MountSource:
        assert self.sources is not None
        try:
            return self.sources.open(path)
        except OSError as error:
            raise BackendUnavailable(f"{what}: {path} cannot be opened: {error.strerror}") from None

    def pin(self, target: str, what: str) -> None:
        """Make the folders above a mount point in a writable mount mount points themselves.

        A sandbox could otherwise rename one of them, put a symbolic link in its place, and so choose what of the host
        the next sandbox gets to see.
        """
        top, bound = self._nearest(str(Path(target).parent)) or ("", None)
        if bound is None or not bound.writable:
            return
        for folder in reversed(
            [path for path in Path(target).parents if path.is_relative_to(top) and path != Path(top)]
        ):
            self.bind(bound.source / folder.relative_to(top), str(folder), what, writable=True)

    def _nearest(self, path: str) -> tuple[str, _Bound | None] | None:
        for candidate in (path, *map(str, Path(path).parents)):
            if candidate in self._bound:
                return candidate, self._bound[candidate]
        return None


def _parents(target: str) -> list[str]:
    """The folders above an absolute path, from the top on and without the root."""
    return [str(path) for path in Path(target).parents][-2::-1]


def check_components(root: Path, inside: str, what: str) -> None:
    """Raise UsageError where a component of the path ``inside`` a folder of the host is a symbolic link."""
    path = root
    for part in Path(inside.lstrip("/")).parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError:
            return
        if stat.S_ISLNK(mode):
            raise UsageError(
                f"{what}: {path} is a symbolic link (to {path.readlink()}), where no mount point can "
                f"be made: use the path it leads to, or replace it by a folder"
            )
