"""``pytest-arl setup``: the one thing that some machines want before they make sandboxes, an AppArmor profile.

It is shown before anything is written, written with sudo after a yes, tried, and taken back where it did not help.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from pytest_arl.backends.local import apparmor
from pytest_arl.backends.local.apparmor import Profile
from pytest_arl.backends.local.probe import candidates, forget, probe
from pytest_arl.errors import BackendUnavailable, UsageError
from pytest_arl.settings import ISOLATION_TIERS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from pytest_arl.backends.local.probe import Host

__all__ = ["add_arguments", "run"]

_SECONDS = 60.0
"""Time for the parser; sudo may ask for a password meanwhile."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pytest-arl setup``."""
    parser.description = (
        "On Ubuntu 23.10 and newer, AppArmor keeps bubblewrap from making sandboxes. This shows a profile for the "
        f"bubblewrap that is used here, asks, writes it to {apparmor.FOLDER} and loads it with sudo. It changes "
        "nothing where sandboxes can be made already."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--undo", action="store_true", help="remove the profiles that this command has written")
    which.add_argument("--print", action="store_true", help="print the profile, for an administrator to install")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """Do it, and say what was done; 1 where sandboxes cannot be made afterwards."""
    if arguments.print:
        sys.stdout.write(_wanted().text)
        return 0
    if arguments.undo:
        return _undo(arguments.yes)
    host = probe()
    if _works(host) and not _for_others():
        sys.stdout.write(f"nothing to do: {host.bwrap} makes sandboxes here ({host.tier})\n")
        return 0
    if not apparmor.enabled():
        raise BackendUnavailable(f"AppArmor is not on here, so no profile helps. {host.cure}".rstrip())
    if not apparmor.loadable():
        raise BackendUnavailable(f"no profile can be loaded from inside a container. {host.cure}".rstrip())
    profile = _wanted()
    if (other := apparmor.attached(profile.bwrap, apparmor.FOLDER)) is not None:
        raise BackendUnavailable(
            f"{profile.bwrap} has a profile already, {other}, and a second one would be no better: "
            "`pip install 'pytest-arl[local]'` brings a bubblewrap that a profile can be written for"
        )
    gone = _gone()
    sys.stdout.write(f"{profile.file}:\n\n{_indented(profile.text)}\n")
    sys.stdout.writelines(f"to be removed: {each.file}, whose {each.bwrap} is gone\n" for each in gone)
    root = _Root()
    if not _agreed(arguments.yes, "Write and load it?"):
        sys.stdout.write("nothing was changed\n")
        return 1
    for each in gone:
        root.remove(each)
    root.install(profile)
    forget()
    host = probe()
    if not _works(host):
        root.remove(profile)
        raise BackendUnavailable(f"the profile did not help, and was removed again: {_said(host, profile)}")
    sys.stdout.write(f"{host.bwrap} makes sandboxes here now ({host.tier}); `pytest-arl setup --undo` reverts this\n")
    return 0


def _works(host: Host) -> bool:
    return bool(host.bwrap) and host.tier != ISOLATION_TIERS[-1]


def _for_others() -> bool:
    """True for root, whom AppArmor lets alone, where it does not let other users of this environment alone.

    `sudo pytest-arl setup` is what many type.
    """
    return _is_root() and apparmor.restricts() and not _wanted().written


def _is_root() -> bool:
    return os.geteuid() == 0


def _said(host: Host, profile: Profile) -> str:
    return next((said for path, said in host.tried if os.path.realpath(path) == profile.bwrap), "") or host.cure


def _wanted() -> Profile:
    """A profile for the wheel's bubblewrap in this environment, else the system's."""
    found = candidates()
    if not found:
        raise BackendUnavailable("bubblewrap is not installed: `pip install 'pytest-arl[local]'`")
    environment = os.path.realpath(sys.prefix) + os.sep
    own = [each for each in found if os.path.realpath(each).startswith(environment)]
    return Profile.of((own or list(found))[0], apparmor.FOLDER)


def _gone() -> list[Profile]:
    return [each for each in apparmor.profiles(apparmor.FOLDER) if not os.path.lexists(each.bwrap)]


def _undo(yes: bool) -> int:
    wanted = {os.path.realpath(each) for each in candidates()}
    found = [
        each for each in apparmor.profiles(apparmor.FOLDER) if each.bwrap in wanted or not os.path.lexists(each.bwrap)
    ]
    if not found:
        sys.stdout.write(f"nothing to undo: {apparmor.FOLDER} has no profile for a bubblewrap of this environment\n")
        return 0
    sys.stdout.writelines(f"{each.file}, for {each.bwrap}\n" for each in found)
    root = _Root()
    if not _agreed(yes, "Remove?"):
        sys.stdout.write("nothing was changed\n")
        return 1
    for each in found:
        root.remove(each)
        sys.stdout.write(f"removed {each.file}\n")
    return 0


def _agreed(yes: bool, question: str) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("cannot ask: stdin is not a terminal; give --yes")
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())


class _Root:
    """Work as root, by sudo where this process is not. BackendUnavailable where that cannot be, or fails."""

    def __init__(self) -> None:
        parser = _program("apparmor_parser")
        if parser is None:
            raise BackendUnavailable("apparmor_parser is not installed: `sudo apt install apparmor`")
        self._parser = parser
        self._sudo: list[str] = []
        if not _is_root():
            sudo = _program("sudo")
            if sudo is None:
                raise BackendUnavailable(
                    "sudo is not installed, and only root may load a profile: run this command as root, or have root "
                    "install what `pytest-arl setup --print` prints"
                )
            self._sudo = [sudo]

    def install(self, profile: Profile) -> None:
        """Write and load a profile; what cannot be read by the parser is not written."""
        self._run([self._parser, "--skip-kernel-load", "--skip-cache", "--quiet"], profile.text, sudo=False)
        self._run(["install", "-m", "0644", "/dev/stdin", str(profile.file)], profile.text)
        try:
            self._run([self._parser, "--replace", str(profile.file)])
        except BackendUnavailable:
            self._run(["rm", "-f", str(profile.file)])
            raise

    def remove(self, profile: Profile) -> None:
        """Unload a profile and delete its file."""
        self._run([self._parser, "--remove", str(profile.file)], patient=True)  # it may not be loaded
        self._run(["rm", "-f", str(profile.file)])

    def _run(self, words: Sequence[str], text: str | None = None, *, sudo: bool = True, patient: bool = False) -> None:
        argv = [*(self._sudo if sudo else []), *words]
        try:
            done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendUnavailable(f"`{' '.join(argv)}` failed: {error}") from None
        if done.returncode != 0 and not patient:
            raise BackendUnavailable(f"`{' '.join(argv)}` failed: {_last(done.stderr) or f'exit {done.returncode}'}")


def _program(name: str) -> str | None:
    """Its path; the folders of root's programs are not on everybody's PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def _last(text: str) -> str:
    lines: Iterable[str] = text.strip().splitlines()
    return list(lines)[-1] if text.strip() else ""
