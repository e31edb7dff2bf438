"""A sandbox as a bundle for an OCI runtime: laid out as bubblewrap would be told to on this machine.

Folders, links and small files are made in a root folder, the rest are mounts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_arl.backends.local import identity, interpreter
from pytest_arl.backends.local.layout import HOSTNAME, UID, Content, Layout
from pytest_arl.backends.local.plan import HOME, TMP, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_arl.pools import LocalPool

__all__ = ["Program", "write_bundle"]

Json = dict[str, Any]

_CAPABILITIES = ["CAP_CHOWN", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP"]
"""Capabilities with which an agent that becomes another user is started."""


def _programs() -> Layout:
    layout = Layout()
    layout.programs()
    layout.alias("../tmp", "/var/tmp")
    layout.folder("/run")
    for path, data in identity.identity_files(None).items():
        layout.file(path, data)
    identity.add_host_files(layout)
    interpreter.add_environment(layout)
    layout.close_passages()
    return layout


class _Bundle:
    """The root folder and the mounts, by bubblewrap's arguments."""

    def __init__(self, root: Path, words: dict[bytes, bytes]) -> None:
        self._root = root
        self._words = words
        self._modes: list[tuple[Path, int]] = []
        self.mounts: list[Json] = []

    def take(self, layout: Layout) -> None:
        """Make all of it."""
        mode = 0o755
        words = iter(layout.arguments)
        for word in words:
            match word:
                case "--perms":
                    mode = int(str(next(words)), 8)
                    continue
                case "--dir":
                    self._folder(str(next(words)))
                case "--symlink":
                    text, target = str(next(words)), self._at(str(next(words)))
                    target.symlink_to(text)
                case "--file":
                    self._file(next(words), str(next(words)), mode)
                case "--ro-bind":
                    self.bind(str(next(words)), str(next(words)))
                case "--chmod":
                    mode = int(str(next(words)), 8)
                    self._modes.append((self._root / str(next(words)).lstrip("/"), mode))
                case other:
                    raise NotImplementedError(other)
            mode = 0o755
        for path, closed in self._modes:
            path.chmod(closed)

    def bind(self, source: str, target: str) -> None:
        """Show something of this machine, read-only."""
        at = self._at(target)
        if Path(source).is_dir():
            at.mkdir(exist_ok=True)
        else:
            at.touch()
        self._mount("bind", source, target, "rbind", "ro")

    def memory(self, target: str, size: int, mode: int, user: int) -> None:
        """An empty folder in memory."""
        if not target.startswith("/dev/"):
            self._folder(target)
        self._mount("tmpfs", "tmpfs", target, f"size={size}", f"mode={mode:o}", f"uid={user}", f"gid={user}")

    def _mount(self, kind: str, source: str, target: str, *options: str) -> None:
        options = ("nosuid", "nodev", *options)
        self.mounts.append({"type": kind, "source": source, "destination": target, "options": list(options)})

    def _at(self, target: str) -> Path:
        path = self._root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _folder(self, target: str) -> None:
        self._at(target).mkdir(exist_ok=True)

    def _file(self, content: object, target: str, mode: int) -> None:
        assert isinstance(content, Content)
        data = content.data
        for word, meaning in self._words.items():
            data = data.replace(word, meaning)
        path = self._at(target)
        path.write_bytes(data)
        path.chmod(mode)


@dataclass(frozen=True)
class Program:
    """The program that runs as PID 1.

    Attributes:
        argv: its command line.
        user: whom it runs as, and whose the writable folders are.
        env: its environment.
        files: more files, which can be executed, by their path.
        privileged: it is started as root, and may become that user.
    """

    argv: Sequence[str]
    user: int
    env: Mapping[str, str] = field(default_factory=lambda: interpreter.ENVIRONMENT)
    files: Mapping[str, bytes] = field(default_factory=dict)
    privileged: bool = False


def write_bundle(folder: Path, pool: LocalPool, name: str, program: Program, memory: int | None = None) -> None:
    """Write the bundle of one sandbox. ``memory``: bytes that a cgroup allows all of it, its kernel included."""
    root = folder / "rootfs"
    root.mkdir(mode=0o755)
    for mount_point in ("proc", "dev", "sys"):
        (root / mount_point).mkdir()
    bundle = _Bundle(root, {UID: str(program.user).encode(), HOSTNAME: name.encode()})
    layout = _programs()
    for path, data in program.files.items():
        layout.arguments += ["--perms", "0555", "--file", Content(data), path]
    bundle.take(layout)
    own = 0 if program.privileged else program.user
    for target, size, mode in (
        ("/dev/shm", pool.memory, 0o1777),
        (TMP, pool.tmp, 0o1777),
        (HOME, pool.tmp, 0o755),
        (WORKSPACE, pool.workspace, 0o755),
    ):
        bundle.memory(target, size, mode, own)
    granted = _CAPABILITIES if program.privileged else []
    spaces = ["pid", "ipc", "uts", "mount", *([] if pool.network == "host" else ["network"])]
    config: Json = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": own, "gid": own},
            "args": list(program.argv),
            "env": [f"{key}={value}" for key, value in program.env.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), granted),
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": name,
        "mounts": [{"type": "proc", "source": "proc", "destination": "/proc"}, *bundle.mounts],
        "linux": {"namespaces": [{"type": kind} for kind in spaces]},
    }
    if memory is not None:
        config["linux"] |= {"cgroupsPath": f"/arl-gvisor/{name}", "resources": {"memory": {"limit": memory}}}
    (folder / "config.json").write_text(json.dumps(config))
