"""The Python that runs the agent, and its files in a sandbox.

A sandbox that shows this machine's /usr also shows the Python environment that pytest runs in, under the same
paths. A root folder may hold no Python, no C library and no shell, or ones made to attack: the interpreter
is then bound in under /arl, a file system of its own, together with its loader and libraries, and started through that
loader. Its environment makes the C library read neither locales nor time zones, so that no file of the image is opened.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_arl.agent_package.elf import program_loader, soname
from pytest_arl.agent_package.first_stage import ENVIRONMENT
from pytest_arl.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_arl.backends.local.layout import Layout

__all__ = [
    "ARL",
    "ENVIRONMENT",
    "add_companion",
    "add_environment",
    "host_command",
    "loader_options",
    "part_of_agent",
    "search_path",
]

_FLAGS = ("-I", "-S", "-B")
ARL = "/arl"
"""The folder that is ours in every sandbox."""
_HOME = f"{ARL}/python"
_LIBRARIES = f"{ARL}/lib"
_LIST_MAPS = "import _ctypes, fcntl, resource, select, binascii, marshal; print(open('/proc/self/maps').read())"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _base_executable() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def host_command() -> tuple[str, ...]:
    """The interpreter as this machine has it, with the flags of the agent."""
    return (_base_executable(), *_FLAGS)


def part_of_agent(target: str) -> str:
    """The file or folder that :func:`host_command` loads and that a mount at ``target`` would replace; else empty."""
    companion = _companion()
    for part in map(str, (companion.executable, companion.stdlib, *companion.libraries.values())):
        if part == target or part.startswith(f"{target}/"):
            return part
    below = os.path.relpath(target, companion.stdlib)
    installed = below.startswith(("../", "site-packages", "dist-packages"))  # which the agent's flags leave out
    return "" if installed else str(companion.stdlib)


def search_path(*, host: bool) -> str:
    """PATH for steps: where the sandbox shows this machine, its Python environment's programs come first."""
    prefix = Path(sys.prefix)
    if not host or prefix in (Path("/"), Path("/usr")):
        return _SYSTEM_PATH
    return f"{prefix / 'bin'}:{_SYSTEM_PATH}"


def add_environment(layout: Layout) -> None:
    """Show the Python environment that this process runs in: programs, libraries, headers; no more of its folders."""
    prefixes = dict.fromkeys((sys.base_prefix, sys.prefix))
    for prefix in dict.fromkeys(Path(prefix).resolve() for prefix in prefixes):
        _add_prefix(layout, prefix)
    for path in (*(f"{prefix}/bin" for prefix in prefixes), sys.executable, _home_of_environment()):
        if path:
            _add_links(layout, path)
    executable = _base_executable()
    if not layout.covers(executable):
        layout.passage(executable)
        layout.bind(Path(executable), executable)


def _add_prefix(layout: Layout, prefix: Path) -> None:
    if layout.covers(str(prefix)):
        return
    layout.passage(str(prefix))
    for path in sorted(prefix.iterdir()):
        if path.name in {"bin", "include", "pyvenv.cfg"} or path.name.startswith("lib"):
            real = path.resolve()
            if path.is_symlink() and real.is_relative_to(prefix):
                layout.symlink(str(path.readlink()), str(path))
            elif real.is_file():
                layout.file(str(path), real.read_bytes())  # pyvenv.cfg: a copy is there sooner than a mount
            elif any(files for _, _, files in os.walk(real)):
                layout.bind(real, str(path))


def _home_of_environment() -> str:
    """The interpreter that pyvenv.cfg names, whose path may lead through links that the prefix does not show."""
    try:
        text = Path(sys.prefix, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^home\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    return os.path.join(found[1], "python3") if found else ""  # noqa: PTH118 - a string in, a string out


def _add_links(layout: Layout, path: str) -> None:
    """Make the symbolic links on the way to ``path`` that nothing bound brings along."""
    seen: set[str] = set()
    pending = list(Path(path).parts)
    here = Path(pending.pop(0))
    while pending:
        part = pending.pop(0)
        here = here.parent if part == ".." else here / part
        if not here.is_symlink() or str(here) in seen:
            continue
        seen.add(str(here))
        text = str(here.readlink())
        if not layout.covers(str(here.parent)) and not layout.covers(str(here)):
            layout.passage(str(here))
            layout.symlink(text, str(here))
        rest = [*Path(text).parts, *pending]
        here, pending = (Path(rest[0]), rest[1:]) if text.startswith("/") else (here.parent, rest)


@dataclass(frozen=True, slots=True)
class _Companion:
    """An interpreter that can be carried: its parts on the host, and the name of the one that loads the others.

    ``extensions`` are modules of the standard library in C, by their path in it.
    """

    executable: Path
    stdlib: Path
    libraries: Mapping[str, Path]
    extensions: tuple[str, ...]
    loader: str | None


def add_companion(layout: Layout) -> tuple[str, ...]:
    """Bind the interpreter in beside a root folder, and give the command that starts it there."""
    companion = _companion()
    executable = f"{_HOME}/bin/{companion.executable.name}"
    layout.bind(companion.executable, executable)
    stdlib = f"{_HOME}/{sys.platlibdir}/{companion.stdlib.name}"
    layout.bind(companion.stdlib, stdlib)
    for name, library in companion.libraries.items():
        layout.bind(library, f"{_LIBRARIES}/{name}")
    if companion.loader is None:
        return (executable, *_FLAGS)
    objects = [f"{_LIBRARIES}/{name}" for name in companion.libraries]
    objects += [f"{stdlib}/{name}" for name in companion.extensions]
    loader = f"{_LIBRARIES}/{companion.loader}"
    return (loader, *loader_options(companion.loader, _LIBRARIES, objects), executable, *_FLAGS)


def loader_options(loader: str, folder: str, objects: Iterable[str]) -> tuple[str, ...]:
    """Options that have a loader look for libraries in one folder and nowhere else.

    A folder that a program or one of these objects names itself (DT_RPATH) would come first. The program's own name is
    empty to the loader. musl's knows none of these options, and looks for nothing elsewhere that it has found here.
    """
    if loader.startswith("ld-musl"):
        return ("--library-path", folder)
    return ("--library-path", folder, "--inhibit-cache", "--inhibit-rpath", ":".join(("", *objects)))


@functools.cache
def _companion() -> _Companion:
    """Ask a running interpreter what it is made of: the only list that is right on every distribution."""
    executable = Path(_base_executable())
    try:
        maps = subprocess.run(
            [executable, *_FLAGS, "-c", _LIST_MAPS], capture_output=True, text=True, check=True, timeout=30, env={}
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BackendUnavailable(f"the interpreter for sandboxes, {executable}, cannot be run: {error}") from None
    stdlib = Path(os.__file__).parent
    mapped = {Path(found[0]) for line in maps.splitlines() if (found := re.findall(r" (/\S.*)$", line))}
    libraries = {
        soname(path): path
        for path in sorted(mapped)
        if re.search(r"\.so(\.|$)", path.name) and not path.is_relative_to(stdlib) and path.exists()
    }
    loader = Path(program_loader(executable))
    if loader.name:
        libraries[loader.name] = loader.resolve()
    extensions = tuple(str(path.relative_to(stdlib)) for path in sorted(mapped) if path.is_relative_to(stdlib))
    return _Companion(executable, stdlib, libraries, extensions, loader.name or None)
