"""The Python that runs the agent, and the Python that steps find."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.agent_package.elf import program_loader, soname
from pytest_arl.backends.local import LocalBackend, interpreter
from pytest_arl.backends.local.layout import Layout
from tests.local.conftest import MakeBackend, acquire, run, sh

SOURCE = Path(__file__).resolve().parents[2] / "src"
ASK = """
from pathlib import Path
from pytest_arl.backends.base import AcquireRequest, TaskRequest
from pytest_arl.backends.local import LocalBackend
from pytest_arl.settings import Settings
from pytest_arl.steps import parse_steps
backend = LocalBackend(Settings.build(start_dir=Path("/")))
sandbox = backend.acquire(AcquireRequest("default"))
steps = parse_steps([{"type": "Command", "command": ["python", "-c", "import sys, pluggy; print(sys.prefix)"]}])
result = sandbox.execute(TaskRequest("t", steps), None)[0]
print(result.stdout or result.stderr)
backend.close()
"""


def environment_through(link: Path, folder: Path) -> Path:
    """A virtual environment whose interpreter is reached through ``link``, a symbolic link to the real installation."""
    link.symlink_to(sys.base_prefix)
    environment = folder / "environment"
    (environment / "bin").mkdir(parents=True)
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (environment / "bin/python").symlink_to(link / "bin" / name)
    (environment / "pyvenv.cfg").write_text(f"home = {link / 'bin'}\ninclude-system-site-packages = false\n")
    (environment / "lib").symlink_to(Path(sys.prefix) / "lib")
    return environment


def test_an_environment_that_is_reached_through_links_works_inside(folder: Path) -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("pytest runs in no virtual environment")
    environment = environment_through(folder / "installed", folder)
    done = subprocess.run(
        [environment / "bin/python", "-c", ASK],
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(environment), done.stderr


LOOK = """
import os, sys

def said(call, *words):
    try:
        return sorted(call(*words) or ())
    except OSError as error:
        return error.errno

def looked_at(folder):
    new = os.path.join(folder, "new")
    tries = (os.mkdir, new), (os.chmod, folder, 0o755), (os.rename, folder, folder + "2"), (os.listdir, folder)
    return {"folder": folder, "there": os.path.isdir(folder), "said": [said(*words) for words in tries]}

print([looked_at(folder) for folder in sys.argv[1:]])
"""


def looked_at(backend: LocalBackend, *folders: Path) -> list[dict[str, Any]]:
    """What comes of making something in a folder, opening it, renaming it and listing it, in a sandbox."""
    result = run(acquire(backend), sys.executable, "-I", "-c", LOOK, *map(str, folders))
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = ast.literal_eval(result.stdout)
    return found


def leading_to(path: Path) -> list[Path]:
    """The folders above it that are in a sandbox for its sake alone."""
    own = {*map(Path, ("/", "/tmp", "/var/tmp", "/usr", "/etc"))}
    return [folder for folder in path.parents if folder not in own]


@pytest.mark.parametrize("place", ["where pytest runs", "in a folder of the sandbox's own"])
def test_the_folders_around_the_environment_show_nothing_and_take_nothing(
    place: str, make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = Path(sys.prefix)
    if place != "where pytest runs":
        prefix = environment_through(folder / "installed", folder)
        monkeypatch.setattr(sys, "prefix", str(prefix))
    around = leading_to(prefix)
    if not around:
        pytest.skip(f"nothing but folders of the sandbox's own leads to {prefix}")
    for seen in looked_at(make_backend(), *around):
        assert seen["there"]
        *changed, listed = seen["said"]
        assert all(error in (errno.EROFS, errno.EBUSY, errno.EACCES, errno.EPERM) for error in changed), seen
        assert listed == errno.EACCES, seen


def test_the_environment_and_the_folders_of_the_sandboxs_own_are_listed(make_backend: MakeBackend) -> None:
    shown, root, temporary = looked_at(make_backend(), Path(sys.prefix), Path("/"), Path("/tmp"))
    assert {"bin", "lib"} <= set(shown["said"][-1])
    assert {"home", "workspace"} <= set(root["said"][-1])
    assert temporary["said"][0] == []
    assert "new" in temporary["said"][-1]


def test_a_mount_below_a_folder_that_shows_nothing_is_there(
    make_backend: MakeBackend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder / "source" / "data"
    source.mkdir(parents=True)
    (source / "file").write_text("seen")
    monkeypatch.setattr(sys, "prefix", str(environment_through(folder / "installed", folder)))
    target = folder / "new" / "data"
    sandbox = acquire(make_backend(f'[pools.p]\nmounts = ["{source}:{target}"]\n'), "p")
    assert sh(sandbox, f"cat {target}/file; ls {folder} || echo closed") == "seenclosed\n"


def test_every_link_on_the_way_is_made(tmp_path: Path) -> None:
    real = tmp_path / "real/3.11.7/bin"
    real.mkdir(parents=True)
    (real / "python").write_text("")
    (tmp_path / "real/3.11").symlink_to("3.11.7")
    (tmp_path / "current").symlink_to(tmp_path / "real/3.11")
    layout = Layout()
    interpreter._add_links(layout, f"{tmp_path}/current/bin/python")
    made = [layout.arguments[at + 1 : at + 3] for at, word in enumerate(layout.arguments) if word == "--symlink"]
    assert made == [
        [f"{tmp_path}/real/3.11", f"{tmp_path}/current"],
        ["3.11.7", f"{tmp_path}/real/3.11"],
    ]


def test_links_that_go_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    interpreter._add_links(Layout(), f"{tmp_path}/a/python")


def test_a_library_is_known_by_the_name_programs_ask_for(tmp_path: Path) -> None:
    listed = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    checked = 0
    for line in listed.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            copy = tmp_path / "renamed"
            copy.write_bytes(Path(rest.split(" (")[0]).read_bytes())
            assert soname(copy) == name
            checked += 1
    assert checked
    copy.write_bytes(b"no library")
    assert soname(copy) == "renamed"
    copy.write_bytes(b"\x7fELF\x02\x01 cut short")
    assert soname(copy) == "renamed"


def test_the_interpreter_names_its_loader_and_the_libraries_of_what_the_agent_imports() -> None:
    companion = interpreter._companion()
    assert companion.executable.exists()
    assert companion.loader in companion.libraries
    assert any(name.startswith("libc.") for name in companion.libraries)
    assert not any(path.is_relative_to(companion.stdlib) for path in companion.libraries.values())


def test_a_program_names_its_loader_itself(folder: Path) -> None:
    loader = program_loader(Path(interpreter.host_command()[0]))
    assert Path(loader).is_absolute()
    assert program_loader(Path(loader)) == "", "the positive control: a loader has none"
    (folder / "script").write_text("#!/bin/sh\n")
    assert program_loader(folder / "script") == ""


def test_no_folder_that_a_program_names_itself_comes_before_the_one_of_its_libraries(folder: Path) -> None:
    compiler = shutil.which("gcc")
    loader = program_loader(Path(interpreter.host_command()[0]))
    if compiler is None or Path(loader).name.startswith("ld-musl"):
        pytest.skip("no gcc here, or no C library of GNU")
    (folder / "program.c").write_text("int which(void); int main(void) { return which(); }")
    for number, name in enumerate(("ours", "theirs"), 1):
        (folder / name).mkdir()
        (folder / "library.c").write_text(f"int which(void) {{ return {number}; }}")
        library = folder / name / "libwhich.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "library.c"], check=True)
    link = ["-L", str(folder / "ours"), "-lwhich", f"-Wl,--disable-new-dtags,-rpath,{folder}/theirs"]
    subprocess.run([compiler, "-o", folder / "program", folder / "program.c", *link], check=True)

    def answer(*options: str) -> int:
        return subprocess.run([loader, *options, folder / "program"], check=False).returncode

    ours = str(folder / "ours")
    assert answer("--library-path", ours) == 2, "the control: what the program names comes first"
    assert answer(*interpreter.loader_options(Path(loader).name, ours, [f"{ours}/libother.so"])) == 1
