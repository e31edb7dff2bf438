"""A probe of this machine: the bubblewrap that works here, and the isolation of its sandboxes.

Nothing is concluded from a version number. The real flags are run once, with a program that does as root what the agent
does first, which takes 5 ms; what bubblewrap says is read, and the answer is kept for the life of the process.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_arl.backends.local import hierarchies, seccomp, uids
from pytest_arl.backends.local.bubblewraps import candidates, refusal
from pytest_arl.backends.local.layout import Layout
from pytest_arl.backends.local.namespaces import namespace_arguments
from pytest_arl.backends.local.spawner import hear_of_children
from pytest_arl.backends.local.troubleshooting import MASKED_PROC, NOT_INSTALLED, cure_for
from pytest_arl.errors import BackendUnavailable
from pytest_arl.settings import ISOLATION_TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Host", "candidates", "examine", "forget", "probe"]

_CGROUP, _RLIMIT, _OUTER_PROC = ISOLATION_TIERS
_NONE = "none"
_SECONDS = 10.0
_PATH = "/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Host:
    """The result of the probe.

    Attributes:
        bwrap: the bubblewrap to use; empty where none works.
        tier: the isolation it gives, as the last line of a run names it; ``none`` where none works.
        privileged: whether this process is root with users to give away, so that each sandbox gets an unused uid.
        outer_proc: whether sandboxes see this machine's /proc, for want of their own.
        hierarchies: where cgroups can be made, or None.
        without_cgroups: why not, or empty.
        tried: every bubblewrap looked at, with what it said (empty: it works).
        cure: what would mend it, or make it stronger; empty where nothing is to be done.
    """

    bwrap: str
    tier: str
    privileged: bool
    outer_proc: bool
    hierarchies: hierarchies.Hierarchies | None
    without_cgroups: str
    tried: tuple[tuple[str, str], ...]
    cure: str

    @property
    def cgroups(self) -> bool:
        """True if the kernel bounds memory and processes of a whole sandbox."""
        return self.hierarchies is not None

    def overlay_bwrap(self) -> str | None:
        """A bubblewrap that makes overlays here, which the one in use may be too old for; None where none does."""
        return _find_overlay(candidates(), privileged=self.privileged)

    def require(self, weakest: str) -> None:
        """Raise BackendUnavailable, with the cure, where no sandbox or only a weaker one can be had."""
        __tracebackhide__ = True
        tried = "; ".join(f"{path}: {said}" for path, said in self.tried if said)
        if not self.bwrap:
            brief = "no sandbox can be made on this machine"
            said = f"{brief} ({tried})" if tried else brief
            raise BackendUnavailable(f"{said}. {self.cure}".rstrip(), brief)
        if ISOLATION_TIERS.index(self.tier) > ISOLATION_TIERS.index(weakest):
            reason = self.without_cgroups if self.tier == _RLIMIT else tried or "/proc is masked"
            brief = f"sandboxes on this machine are {self.tier!r}, and --arl-isolation-min asks for {weakest!r}"
            raise BackendUnavailable(f"{brief} ({reason}). {self.cure}".rstrip(), brief)


@functools.cache
def probe() -> Host:
    """The result of the probe; found out once for each process. Raises BackendUnavailable."""
    __tracebackhide__ = True
    hear_of_children()
    return examine(candidates())


def forget() -> None:
    """Find out again at the next :func:`probe`."""
    probe.cache_clear()
    _find_overlay.cache_clear()


def examine(paths: Iterable[str]) -> Host:
    """Try each bubblewrap: the first that gives full isolation is taken, else the first that gives any."""
    privileged = uids.can_lease()
    tried: list[tuple[str, str]] = []
    weaker = ""
    if sys.platform.startswith("linux") and seccomp.supported():
        for path in paths:
            said = _try(path, privileged=privileged, outer_proc=False)
            tried.append((path, said))
            if not said:
                return _with_limits(path, privileged=privileged, outer_proc=False, tried=tuple(tried))
            if not weaker and not refusal(path) and not _try(path, privileged=privileged, outer_proc=True):
                weaker = path
    if weaker:
        return _with_limits(weaker, privileged=privileged, outer_proc=True, tried=tuple(tried))
    return Host("", _NONE, privileged, False, None, "", tuple(tried), _cure(tried))


def _cure(tried: list[tuple[str, str]]) -> str:
    if not sys.platform.startswith("linux"):
        return cure_for("")
    if not seccomp.supported():
        return f"There is no system call filter for {os.uname().machine} yet, only for x86_64 and aarch64."
    if not tried:
        return NOT_INSTALLED
    # What stops the newest of them is the host.
    return next((cure for path, _ in tried if (cure := cure_for(path))), "")


def _with_limits(path: str, *, privileged: bool, outer_proc: bool, tried: tuple[tuple[str, str], ...]) -> Host:
    found, why, cure = None, "", ""
    try:
        found = hierarchies.find()
    except hierarchies.NoCgroups as error:
        why, cure = str(error), error.cure
    except OSError as error:
        why = str(error)
    tier = _OUTER_PROC if outer_proc else _CGROUP if found else _RLIMIT
    if outer_proc:
        cure = MASKED_PROC
    return Host(path, tier, privileged, outer_proc, found, why, tried, cure)


def _try(path: str, *, privileged: bool, outer_proc: bool) -> str:
    """The message of this bubblewrap for the real flags; empty where they work."""
    arguments = [*namespace_arguments(privileged=privileged), *_programs()]
    arguments += ["--ro-bind", "/proc", "/proc"] if outer_proc else ["--proc", "/proc"]
    arguments += ["--hostname", "arl", "--dev", "/dev", "--perms", "1777", "--size", "65536", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    if privileged and (said := uids.why_not()):
        return said
    first = ("chown", f"{uids.FIRST}:{uids.FIRST}", "/tmp") if privileged else ("true",)  # noqa: S108 - the sandbox's own
    usr = os.open("/usr", os.O_PATH | os.O_CLOEXEC)
    try:
        arguments += ["--ro-bind-fd", str(usr), "/mnt"]  # came with 0.10, and to Debian's 0.8 as a security update
        settings = Layout()
        settings.kernel_settings()
        arguments += [*map(str, settings.arguments), "--remount-ro", "/dev", "--remount-ro", "/"]
        return _run(path, arguments, *first, descriptors=(usr,))
    finally:
        os.close(usr)


def _programs() -> list[str]:
    """This machine's programs and no other folder: below those, containers' mounts come and go, and bubblewrap fails
    where one goes while it is bound with the rest.
    """
    layout = Layout()
    layout.programs()
    return [str(argument) for argument in layout.arguments]


def _run(path: str, arguments: list[str], *program: str, descriptors: tuple[int, ...] = ()) -> str:
    if said := refusal(path):
        return said
    try:
        done = subprocess.run(
            [path, *arguments, "--setenv", "PATH", _PATH, "--", *program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            cwd="/",
            timeout=_SECONDS,
            check=False,
            start_new_session=True,
            pass_fds=descriptors,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("bwrap: ") if lines else f"exited {done.returncode} without a message"


@functools.cache
def _find_overlay(paths: tuple[str, ...], *, privileged: bool) -> str | None:
    arguments = [*namespace_arguments(privileged=privileged), *_programs()]
    arguments += ["--overlay-src", "/usr", "--tmp-overlay", "/tmp"]  # noqa: S108 - the sandbox's own
    return next((path for path in paths if not _run(path, arguments, "true")), None)
