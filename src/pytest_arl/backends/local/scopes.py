"""A cgroup of one's own, asked of systemd: a transient scope with Delegate=yes.

Where pytest usually runs (a login session, a terminal, a service) the cgroup is systemd's, and nobody else may divide
it. But systemd gives a part of the tree to everyone who asks: the user manager to an ordinary user, the system manager
to root. What is placed there is the fork server alone, not pytest:

- A user manager ends with the last session of its user. A pytest in its scope would end with it, where
  ``nohup pytest & logout`` is meant to go on; in its session it keeps both alive.
- The limits and the accounting of the place where pytest was started (a service's MemoryMax, a batch system's job) go
  on to hold for it and for what the tests start beside sandboxes.
- Nothing else that runs where pytest does, a terminal's shell for one, is moved.

Each process asks for itself: workers of pytest-xdist and runs inside of runs have nothing to share and to fight over.

It is asked by ``systemd-run``, which registers itself and then becomes the server. It reaches the manager's own socket
also where there is no message bus, and every systemd has the one that suits it. A D-Bus library would be one more
dependency whose import alone costs 50 ms (jeepney 0.9) to 200 ms (dbus-fast 5.2); a bare interpreter needs 25.
The scope ends by itself with its last process.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from pytest_arl.backends.local.forkserver import ForkServer, NoForkServer

__all__ = ["NoScope", "Systemd"]

_SECONDS = 10.0
"""Time for systemd to answer. Two seconds were too few on a machine with ten times the work that it can do
at once, and a tier must not depend on that. A manager that hangs is waited for once in each process."""
_PROPERTIES = ("Delegate=yes", "TasksMax=infinity")
"""TasksMax: the manager's default, a part of what the machine has, would bound all sandboxes of a run together."""
_SLICE = re.compile(r"[^/]+\.slice")


class NoScope(Exception):
    """systemd gave none; the text says why.

    Attributes:
        cure: what would help; empty where that is not known.
    """

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.cure = cure


class Systemd:
    """The manager that gives this user a part of the tree: the system's for root, else the user's own."""

    def __init__(self, *, root: bool, run: Path = Path("/run")) -> None:
        """``run`` is /run (tests bring their own)."""
        self._root = root
        self._uid = os.geteuid()
        self._run = run
        self._silent = False
        self.name = "systemd" if root else "systemd's user manager"

    @property
    def booted(self) -> bool:
        """True if systemd manages this machine."""
        return (self._run / "systemd/system").is_dir()

    def manages(self, path: str) -> bool:
        """True if it made the unit of that cgroup."""
        return self._root or f"/user@{self._uid}.service/" in path

    def delegates(self, unit: str) -> bool | None:
        """True if that unit was made with Delegate=yes; None where nobody answers."""
        try:
            done = subprocess.run(
                [*self._command("systemctl"), "show", "--property=Delegate", "--value", "--", unit],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self._silent = True
            return None
        except (OSError, NoScope):
            return None
        return {b"yes": True, b"no": False}.get(done.stdout.strip())

    def scope(self, path: str) -> ForkServer:
        """A server in a scope of its own, in the slice of that cgroup if it is this manager's. Raises NoScope."""
        if self._silent:
            raise NoScope(f"{self.name} does not answer")
        name = f"pytest-arl-{os.getpid()}-{secrets.token_hex(4)}.scope"
        options = ["--scope", "--quiet", "--collect", "--no-ask-password", f"--unit={name}"]
        options += [f"--property={text}" for text in _PROPERTIES]
        options.append(f"--description=Sandboxes of pytest ({os.getpid()})")
        slices = _SLICE.findall(path) if self.manages(path) else []
        if slices:
            options.append(f"--slice={slices[-1]}")
        prefix = [*self._command("systemd-run"), *options, "--"]
        try:
            server = ForkServer.start(
                prefix, self._environment(), seconds=_SECONDS, begun=lambda pid: name in _membership(pid)
            )
        except NoForkServer as error:
            raise NoScope(f"{self.name} created no scope: {error}") from None
        if name not in _membership(server.pid):
            server.close()
            raise NoScope(f"{self.name} created a scope but moved no process into it")
        return server

    def _command(self, program: str) -> list[str]:
        if not self.booted:
            raise NoScope("systemd is not running here")
        path = shutil.which(program)
        if path is None:
            raise NoScope(f"{program}, which asks systemd for one, is not installed")
        return [path] if self._root else [path, "--user"]

    def _environment(self) -> dict[str, str]:
        """Variables by which the manager is found. Raises NoScope where it does not run.

        XDG_RUNTIME_DIR is of the login that made the shell, which may be another user's (su), or none.
        """
        if self._root:
            return {}
        for folder in (Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")), self._run / f"user/{self._uid}"):
            with suppress(OSError):
                if folder.stat().st_uid == self._uid and (folder / "systemd/private").is_socket():
                    return {"XDG_RUNTIME_DIR": str(folder)}
        raise NoScope(
            "systemd's user manager does not run for this user",
            "`loginctl enable-linger` starts it and keeps it (from root: `loginctl enable-linger USER`)",
        )


def _membership(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
