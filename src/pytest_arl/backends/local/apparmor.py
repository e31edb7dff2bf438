"""AppArmor, as far as it decides what bubblewrap may do, and the profile that lets one bubblewrap make its namespaces.

Ubuntu denies programs without a profile every capability in a user namespace of their own (since 23.10,
``kernel.apparmor_restrict_unprivileged_userns``), and from 25.04 on has a profile for ``/usr/bin/bwrap`` alone, below
which programs have no capability either. A profile is attached to a program by its path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FOLDER", "Profile", "attached", "enabled", "label_denies", "loadable", "own_label", "profiles", "restricts"]

FOLDER = Path("/etc/apparmor.d")
"""The machine's profiles, which are loaded when it starts."""

_PREFIX = "arl-bwrap-"
_MARK = "# Written by `pytest-arl setup` for "
_LONGEST = 64 * 1024
"""Bytes of a profile that are looked at; most have one or two thousand."""

_GLOBS = re.compile(r'[\\"*?\[\]{}^]')
"""Characters with a meaning in the path of a profile (apparmor.d(5), «Globbing»), or in its quotes."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile for one bubblewrap.

    Attributes:
        bwrap: its path, without symbolic links: AppArmor goes by that of the file that is run.
        file: where it is written.
    """

    bwrap: str
    file: Path

    @classmethod
    def of(cls, bwrap: str, folder: Path) -> Profile:
        """The profile of a bubblewrap here. UsageError where AppArmor's parser cannot hold its path."""
        path = os.path.realpath(bwrap)
        if not path.isprintable():  # control characters, and bytes that are no UTF-8
            raise UsageError(f"AppArmor cannot hold the path of {path!r}: use an environment whose path is printable")
        name = hashlib.sha256(path.encode()).hexdigest()[:12]
        return cls(path, folder / f"{_PREFIX}{name}")

    @property
    def text(self) -> str:
        """Its text. The label stays with what bubblewrap starts, and allows all that no profile allows."""
        attachment = _GLOBS.sub(lambda found: f"\\{found[0]}", self.bwrap)
        return (
            f"{_MARK}{json.dumps(self.bwrap, ensure_ascii=False)}; `pytest-arl setup --undo` removes it.\n"
            "# That program may make user namespaces, with capabilities in them, as every program may where AppArmor\n"
            "# does not restrict them.\n"
            "abi <abi/4.0>,\n"
            "include <tunables/global>\n\n"
            f'profile {self.file.name} "{attachment}" flags=(unconfined) {{\n'
            "  userns,\n"
            "}\n"
        )

    @property
    def written(self) -> bool:
        """True if the file has this very text."""
        return _read(self.file) == self.text


def profiles(folder: Path) -> Iterator[Profile]:
    """Profiles that `pytest-arl setup` has written here, in the order of their names."""
    for file in sorted(folder.glob(f"{_PREFIX}*")):
        first = _read(file).partition("\n")[0]
        if first.startswith(_MARK):
            try:
                bwrap, _ = json.JSONDecoder().raw_decode(first, len(_MARK))
            except ValueError:
                continue
            if isinstance(bwrap, str):
                yield Profile(bwrap, file)


def attached(bwrap: str, folder: Path) -> Path | None:
    """The machine's own profile for that path, which is not ours; None where none is there.

    Two profiles for one path are one too many: the kernel takes neither of them.
    """
    path = os.path.realpath(bwrap)
    ours = {each.file for each in profiles(folder)}
    for file in sorted(each for each in folder.glob("*") if each not in ours and each.is_file()):
        for line in _read(file).splitlines():
            words = _words(line)
            if words[:1] == ["profile"] and path in words[1:]:
                return file
            if words[:1] == [path] and words[-1] == "{":
                return file
    return None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # quotes that do not end on this line
        return []


def enabled(root: Path = Path("/")) -> bool:
    """True if this kernel asks AppArmor."""
    return _read(root / "sys/module/apparmor/parameters/enabled").strip() == "Y"


def loadable(root: Path = Path("/")) -> bool:
    """True if profiles can be loaded from here, by root; a container's are its machine's."""
    return (root / "sys/kernel/security/apparmor").is_dir()


def restricts(root: Path = Path("/")) -> bool:
    """True if programs without a profile get user namespaces without capabilities."""
    return enabled(root) and _read(root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1"


def own_label() -> str:
    """The label of this process; empty where there is none."""
    return _read(Path("/proc/self/attr/apparmor/current")).strip("\0\n ")


def label_denies(label: str) -> bool:
    """True if a program with that label (``/proc/self/attr/apparmor/current``) is confined: «NAME (enforce)»."""
    return label.rstrip("\0\n ").endswith("(enforce)")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_LONGEST).decode(errors="replace")
    except OSError:
        return ""
