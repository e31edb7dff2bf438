"""The folder /arl: the agent with an interpreter of its own, which reads nothing of the image that it is put into.

``python -m pytest_arl.agent_package.image DIRECTORY`` makes it from the Python that runs this: the interpreter, its
loader, the libraries that it maps, and of the standard library only what the agent imports, compiled. What that is, a
running interpreter is asked: no list of ours would be right for Debian's Python, that of the docker images and pyenv's
alike.
Programs and libraries are copied without the paths that lead out of the folder.
Only the standard library and this package are needed to make it.
"""

from __future__ import annotations

import ast
import os
import py_compile
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest_arl.agent
from pytest_arl.agent_package.bundle import LOAD, REMOTE_BOOT, bundle
from pytest_arl.agent_package.elf import soname, without_search_path
from pytest_arl.agent_package.first_stage import first_stage
from pytest_arl.cluster import pod

__all__ = ["build", "main"]

_BUNDLE = "agent"
_BOOT = f"""\
import sys
sys.argv[1:1] = [sys.argv[0][:-len("boot.py")] + "{_BUNDLE}"]
{REMOTE_BOOT}"""
"""The program of pod.agent_command. It finds the agent beside itself, so that the folder can be tried anywhere."""

# Beside what has been imported once the agent is loaded, what it imports where it is first needed.
_ASK = f"""\
{LOAD}
del sys.modules["__future__"]  # a stand-in, perhaps; what is copied beside the agent imports the module
import __future__, _json, binascii, os, resource
wanted = {{}}
for name, module in sys.modules.items():
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        wanted[name] = spec.origin, spec.submodule_search_locations is not None
with open("/proc/self/maps") as maps:
    print((wanted, maps.read()))
"""
_TRY = """\
import os, sys
for name in sys.argv[1:]:
    __import__(name)
print(sys.prefix)
"""


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of a running interpreter with the agent in it.

    Attributes:
        modules: for each imported one where it is from (a path, ``built-in``, ``frozen``), and whether it is a package.
        libraries: the files of shared libraries by the name under which they are asked for.
    """

    modules: dict[str, tuple[str, bool]]
    libraries: dict[str, Path]


def build(folder: Path) -> None:
    """Make the folder, which must not be there or be empty. RuntimeError for a Python that cannot be carried."""
    start = first_stage(os.uname().machine)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RuntimeError(f"{folder} is not empty")
    executable = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    parts = _ask(executable)
    _copy_code(executable, folder / "bin/python3")
    for name, library in parts.libraries.items():
        _copy_code(library, folder / "lib" / ("ld.so" if _is_loader(name) else name))
    _write(folder / "start", start, 0o755)
    _add_modules(folder / sys.platlibdir / f"python{sys.version_info.major}.{sys.version_info.minor}", parts.modules)
    (folder / _BUNDLE).write_bytes(bundle(remote=True))
    (folder / "boot.py").write_text(_BOOT, encoding="utf-8")
    for name in ("install.py", "idle.py"):
        _copy(Path(pytest_arl.agent.__path__[0], name), folder / name, 0o644)
    _let_everybody_read(folder)
    _try(folder, parts)


def _ask(executable: Path) -> _Parts:
    """Load the agent in a fresh interpreter, and see what that takes."""
    with tempfile.NamedTemporaryFile() as code:
        code.write(bundle(remote=True))
        code.flush()
        said = _run([str(executable), *pod.INTERPRETER_FLAGS, "-c", _ASK, code.name])
    modules, maps = ast.literal_eval(said)
    mapped = {Path(found[0]) for line in maps.splitlines() if (found := re.findall(r" (/\S.*)$", line))}
    extensions = {Path(origin) for origin, _ in modules.values() if origin}
    libraries = {
        soname(path): path
        for path in sorted(mapped - extensions)
        if re.search(r"\.so(\.|$)", path.name) and path.exists()
    }
    if not any(map(_is_loader, libraries)):
        raise RuntimeError(
            f"{executable} is not linked dynamically: its loader is what makes it independent of an image"
        )
    return _Parts(modules, libraries)


def _is_loader(name: str) -> bool:
    return re.match(r"ld[-.]", name) is not None


def _add_modules(stdlib: Path, modules: dict[str, tuple[str, bool]]) -> None:
    extensions = stdlib / "lib-dynload"
    extensions.mkdir(parents=True)  # by it and by os.py the interpreter finds out where it is
    landmark = stdlib / "os.py"
    for name, (origin, is_package) in modules.items():
        if origin in {None, "built-in", "frozen"} or name == "__main__":
            continue
        source = Path(origin)
        if not source.name.endswith(".py"):
            _copy_code(source, extensions / source.name)
            continue
        # Without its source beside it, compiled code is believed as it is.
        compiled = stdlib.joinpath(*name.split("."), *(["__init__"] if is_package else ())).with_suffix(".pyc")
        compiled.parent.mkdir(parents=True, exist_ok=True)
        py_compile.compile(str(source), str(compiled), doraise=True, optimize=2)
    if (stdlib / "os.pyc").exists():
        _copy(Path(os.__file__), landmark, 0o644)  # read as it is, as it comes before the compiled one
    else:
        landmark.touch()


def _copy_code(source: Path, destination: Path) -> None:
    code = without_search_path(source.read_bytes())
    if destination.name == "ld.so":
        code = _own_loader(code, source)
    _write(destination, code, 0o755)


def _own_loader(code: bytes, source: Path) -> bytes:
    """The loader with its own files where no image can have any: what /etc/ld.so.preload names it would load into
    whatever it starts, and no option or variable keeps it from that. musl's has neither file.
    """
    for name in ("preload", "cache") if b"GLIBC_PRIVATE" in code else ():
        theirs, ours = f"/etc/ld.so.{name}\0".encode(), f"/proc/arl.{name}\0".encode()
        if theirs not in code:
            raise RuntimeError(f"{source} does not name /etc/ld.so.{name} as expected")
        code = code.replace(theirs, ours.ljust(len(theirs), b"\0"))
    return code


def _copy(source: Path, destination: Path, mode: int) -> None:
    _write(destination, source.read_bytes(), mode)


def _write(destination: Path, content: bytes, mode: int) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_bytes(content)
    destination.chmod(mode)


def _let_everybody_read(folder: Path) -> None:
    """Pods run as any user."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _try(folder: Path, parts: _Parts) -> None:
    """Import all that is wanted by the folder alone."""
    command = pod.agent_command(str(folder))[:-1]
    wanted = [name for name, (origin, _) in parts.modules.items() if origin and name != "__main__"]
    prefix = _run([*command, "-c", _TRY, *wanted]).strip()
    if prefix != str(folder):
        raise RuntimeError(f"the interpreter in {folder} reports sys.prefix {prefix}")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={}, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ... failed: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Make the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pytest_arl.agent_package.image DIRECTORY")
    folder = Path(sys.argv[1]).absolute()
    try:
        build(folder)
    except (OSError, RuntimeError, py_compile.PyCompileError) as error:
        sys.exit(f"the agent's folder cannot be made: {error}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(f"{folder}: {len(files)} files, {size / 1e6:.1f} MB")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
