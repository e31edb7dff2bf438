"""Reasons why bubblewrap does not work on this host, and their cures.

bubblewrap says which act of its failed first, in words that differ by version and by act: one cause («AppArmor denies
capabilities») has four of them. So no words decide. What does: the sysctls, the AppArmor label that this bubblewrap is
run with, the capabilities of this process, and what the kernel answers to the same acts where this process does them.
A cure is printed, never applied; what `pytest-arl setup` applies, it asks for.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.backends.local import apparmor, kernel_trial
from pytest_arl.backends.local.bubblewraps import label_of, missing_options, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MASKED_PROC", "NOT_INSTALLED", "cure_for"]

NOT_INSTALLED = (
    "bubblewrap is not installed. `pip install 'pytest-arl[local]'` brings one that needs no installation "
    "of its own; a distribution's package `bubblewrap` will do as well."
)

MASKED_PROC = (
    "/proc is partly masked, as is usual in containers. Start the container with an unmasked one "
    "(docker: `--security-opt systempaths=unconfined`; podman: `--security-opt unmask=ALL`; a pod: "
    "`procMount: Unmasked` with `hostUsers: false`), "
    "or accept the weaker isolation with `--arl-isolation-min='bwrap, outer /proc'`."
)

_NAMESPACES = ("user namespace", "identity", "namespaces", "host name", "root folder")
_USED_UP = (errno.ENOSPC, errno.EUSERS)
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class _Host:
    """Facts that tell the causes apart; tests bring a root folder and answers of their own.

    Attributes:
        refused: the act that the kernel refused this process, and its error number; empty and 0 where it refuses none.
        label: the AppArmor label that bubblewrap runs with; empty where there is none.
        own_label: that of this process.
    """

    root: Path
    refused: tuple[str, int]
    label: str
    own_label: str

    def read(self, path: str) -> str:
        try:
            return (self.root / path).read_text().strip()
        except OSError:
            return ""

    @property
    def filtered(self) -> bool:
        """True if a filter of system calls is on this process: a container runtime's, for most."""
        return re.search(r"^Seccomp:\s*2$", self.read("proc/self/status"), re.MULTILINE) is not None

    @property
    def namespaces_refused(self) -> bool:
        return self.refused[0] in _NAMESPACES

    @property
    def by_apparmor(self) -> bool:
        """True if AppArmor keeps this bubblewrap from its work: by its label, or for want of one."""
        if not apparmor.enabled(self.root) or self.confined:
            return False
        return apparmor.label_denies(self.label) or (apparmor.restricts(self.root) and self.namespaces_refused)

    @property
    def confined(self) -> bool:
        """True if AppArmor confines this process, and with it all that it starts."""
        return apparmor.label_denies(self.own_label) and self.label == self.own_label

    @property
    def lacks_capability(self) -> bool:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", self.read("proc/self/status"), re.MULTILINE)
        return found is not None and not int(found[1], 16) >> _CAP_SYS_ADMIN & 1


@dataclass(frozen=True, slots=True)
class _Cause:
    """One reason: whether it is this host's, and what to do."""

    applies: Callable[[_Host], bool]
    cure: str


_CAUSES: tuple[_Cause, ...] = (
    _Cause(
        lambda host: host.namespaces_refused and host.read("proc/sys/kernel/unprivileged_userns_clone") == "0",
        "This kernel allows user namespaces to root only: `sudo sysctl kernel.unprivileged_userns_clone=1`.",
    ),
    _Cause(
        lambda host: (
            host.namespaces_refused
            and (host.refused[1] in _USED_UP or host.read("proc/sys/user/max_user_namespaces") == "0")
        ),
        "User namespaces are disabled (their limit is 0), or all are in use: "
        "`sudo sysctl user.max_user_namespaces=15000`.",
    ),
    _Cause(
        lambda host: host.by_apparmor and not apparmor.loadable(host.root),
        "AppArmor keeps {bwrap} from making sandboxes{label}. It runs on the machine around this container: there, "
        "not here, `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`.",
    ),
    _Cause(
        lambda host: host.by_apparmor,
        "AppArmor keeps {bwrap} from making sandboxes{label}: `pytest-arl setup` shows a profile that lets it, and "
        "loads it with sudo once you agree.",
    ),
    _Cause(
        lambda host: host.confined and bool(host.refused[0]),
        "This process is confined by AppArmor{label}, which forbids what sandboxes need, as container runtimes do. "
        "Start the container without (docker: `--security-opt apparmor=unconfined`; a pod: "
        "`appArmorProfile: {{type: Unconfined}}`).",
    ),
    _Cause(
        lambda host: host.namespaces_refused and os.geteuid() == 0 and host.lacks_capability,
        "This process is root without the capability CAP_SYS_ADMIN. Run it as an ordinary user, "
        "or with that capability.",
    ),
    _Cause(
        lambda host: host.namespaces_refused and host.filtered,
        "A seccomp filter forbids namespaces, as in most containers. Start the container with one that allows "
        "them (docker: `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`, and as root in it "
        "`--cap-add SYS_ADMIN --cap-add NET_ADMIN`; a pod: `seccompProfile: {{type: Unconfined}}`).",
    ),
    _Cause(
        lambda host: host.namespaces_refused,
        "Something on this host forbids namespaces: a security module, or the virtualisation. "
        "Outside of it, bubblewrap would work.",
    ),
    _Cause(lambda host: host.refused[0] == "proc", MASKED_PROC),
)


def cure_for(
    bwrap: str,
    root: Path = Path("/"),
    *,
    acts: Callable[[], Mapping[str, int]] | None = None,
    label: Callable[[str], str] = label_of,
    own_label: str | None = None,
) -> str:
    """Advice about a bubblewrap that does not work; empty where nothing is known.

    ``root``: where /proc and /sys are. ``acts``: what the kernel answers to this process, by act.
    ``label`` and ``own_label``: the AppArmor labels of that bubblewrap and of this process.
    """
    if not sys.platform.startswith("linux"):
        return f"bubblewrap exists on Linux only, and this is {sys.platform}: use a Linux machine or virtual machine."
    if refusal(bwrap):
        return "`pip install 'pytest-arl[local]'` brings an ordinary one."
    if missing_options(bwrap):
        return "This bubblewrap is too old: `pip install 'pytest-arl[local]'` brings a newer one."
    answered = (acts or _ask_the_kernel)()
    refused = next(((act, error) for act, error in answered.items() if error), ("", 0))
    host = _Host(root, refused, label(bwrap), apparmor.own_label() if own_label is None else own_label)
    for cause in _CAUSES:
        if cause.applies(host):
            under = f" (its label is {host.label!r})" if apparmor.label_denies(host.label) else ""
            return cause.cure.format(bwrap=bwrap, label=under)
    return ""


def _ask_the_kernel() -> dict[str, int]:
    """Its answers to the same acts; empty where they cannot be had."""
    try:
        return kernel_trial.run()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}
