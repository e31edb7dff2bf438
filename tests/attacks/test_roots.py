"""A root folder that somebody else made, and what it would have the agent load."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, UsageError
from pytest_arl.backends.local import backend
from pytest_arl.backends.local.probe import Host
from tests.attacks.conftest import OpenSandbox, host_of
from tests.leftovers import look_at

_OURS = ("/arl/", "/proc/", "/dev/")
_OWN = ("/", "/proc", "/workspace", "/workspace/.", "/tmp", "/home/arl", "/dev/shm")
"""File systems of the sandbox's own, whose size the agent asks for; ``/``, whose size is that of an overlay."""

_LIBRARY = "libz.so.1"
"""Any library that neither the agent nor ``cat`` needs."""


def _copy(root: Path, source: Path, target: str) -> None:
    there = root / target.lstrip("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), there)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("bin", "etc", "opt"):
        (folder / name).mkdir(parents=True)
    found = shutil.which("cat")
    assert found
    _copy(folder, Path(found), "/bin/cat")
    for line in subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout.split():
        if line.startswith("/"):
            _copy(folder, Path(line), line)
    return folder


def _loaded(sandbox: SandboxSession) -> bool:
    """Whether a program of the sandbox has loaded what the root folder's preload file names."""
    return "/opt/" in sandbox.run("cat", "/proc/self/maps").check().stdout


def _preload(root: Path) -> None:
    libraries = list(Path("/usr/lib", f"{os.uname().machine}-linux-gnu").glob("libz.so.1*"))
    libraries += list(Path("/usr/lib64").glob("libz.so.1*"))
    if not libraries:
        pytest.skip("no library here to preload")
    _copy(root, libraries[0], f"/opt/{_LIBRARY}")
    (root / "etc/ld.so.preload").write_text(f"/opt/{_LIBRARY}\n")


def test_a_root_folder_preloads_nothing_into_the_agent(open_sandbox: OpenSandbox, root: Path) -> None:
    _preload(root)
    sandbox = open_sandbox(f'root = "{root}"')
    # The agent's own loader reads the same file; its maps are closed to a step, so a step's stand for them.
    assert not _loaded(sandbox)
    preloaded = sandbox.run("cat", "/proc/self/maps", env={"LD_PRELOAD": f"/opt/{_LIBRARY}"}).check().stdout
    assert "/opt/" in preloaded, "the positive control: asked for by a step, it is loaded"
    assert (root / "etc/ld.so.preload").read_text(), "the folder itself is as it was"


def test_a_preload_file_that_is_a_link_is_refused(open_sandbox: OpenSandbox, root: Path) -> None:
    (root / "etc/ld.so.preload").symlink_to("/opt/list")
    with pytest.raises(UsageError, match=r"ld\.so\.preload"):
        open_sandbox(f'root = "{root}"')


@pytest.fixture
def image(root: Path) -> Path:
    """A root folder with all that a C library and a Python look for as they start, where they usually look."""
    for path in (
        *Path("/usr/lib/locale").glob("*"),
        *Path("/usr/lib").glob("*/gconv/gconv-modules.cache"),
        Path("/usr/lib64/gconv/gconv-modules.cache"),
    ):
        if path.exists():
            target = root / str(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    for name in ("localtime", "ld.so.preload", "ld.so.cache", "marker"):
        (root / "etc" / name).write_bytes(b"")
    return root


def test_no_file_of_a_root_folder_is_in_the_memory_of_its_agent(
    open_sandbox: OpenSandbox, image: Path, tmp_path: Path
) -> None:
    sandbox = open_sandbox(f'root = "{image}"')
    (agent,) = look_at(os.getpid(), tmp_path).agents
    mapped = set(re.findall(r" (/\S.*)$", Path(f"/proc/{agent}/maps").read_text(), re.MULTILINE))
    assert {path for path in mapped if not path.startswith(("/arl/", "/memfd:", "/dev/"))} == set()
    assert any(path.startswith("/arl/lib/") for path in mapped), "the positive control: its libraries are seen"
    assert sandbox.run("cat", "/etc/marker").ok


def test_what_a_root_folder_has_below_arl_is_no_part_of_the_agent(open_sandbox: OpenSandbox, image: Path) -> None:
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path, text in (
        (f"arl/python/bin/{name}._pth", "/opt"),
        ("arl/python/pyvenv.cfg", "home = /opt"),
        ("arl/lib/glibc-hwcaps/x86-64-v2/libm.so.6", "no library"),
        ("arl/lib/tls/libm.so.6", "no library"),
        ("arl/own", "the image's own"),
    ):
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(text)
    sandbox = open_sandbox(f'root = "{image}"')
    for path in ("/arl/own", f"/arl/python/bin/{name}._pth"):
        assert "No such file" in sandbox.run("cat", path).stderr
    assert sandbox.run("cat", "/etc/marker").ok
    assert (image / "arl/own").read_text(), "the folder itself is as it was"


def test_the_folder_of_the_agent_cannot_be_added_to(open_sandbox: OpenSandbox, image: Path) -> None:
    _copy(image, Path(shutil.which("touch") or ""), "/bin/touch")
    sandbox = open_sandbox(f'root = "{image}"')
    for folder in ("/arl", "/arl/lib", "/arl/python", "/arl/python/bin"):
        assert "Read-only" in sandbox.run("touch", f"{folder}/new").stderr
    assert sandbox.run("touch", "/tmp/new").ok


def _strace(bwrap: str, folder: Path) -> str:
    """A program that starts a bubblewrap and writes down each file that it and its children name."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("no strace here")
    wrapper = folder / f"traced-{len(list(folder.iterdir()))}"
    wrapper.write_text(f'#!/bin/sh\nexec {strace} -D -f -qq -e trace=%file -o {folder}/trace {bwrap} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def test_an_agent_opens_no_file_of_its_root_folder(
    open_sandbox: OpenSandbox, tier: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_of(tier)
    overlay = host.overlay_bwrap()
    traced = dataclasses.replace(host, bwrap=_strace(host.bwrap, tmp_path))
    monkeypatch.setattr(Host, "overlay_bwrap", lambda _self: overlay and _strace(overlay, tmp_path))
    monkeypatch.setattr(backend, "probe", lambda: traced)
    sandbox = open_sandbox(f'root = "{image}"')
    assert sandbox.run("/bin/cat", "/etc/marker").ok  # by a path, which the agent need not look up
    sandbox.delete_sandbox()
    lines = [line.split(maxsplit=1) for line in (tmp_path / "trace").read_text().splitlines()]
    agent, at = next((pid, at) for at, (pid, call) in enumerate(lines) if call.startswith('execve("/arl/'))
    # A name below an open folder is left out, for that folder was named before; so is the second half of a call.
    calls = [call for pid, call in lines[at:] if pid == agent and not re.match(r"\w+\(\d|<", call)]
    # What kind of file a step's program is, is asked before it is started (see find_program); that opens nothing.
    calls = [call for call in calls if not re.match(r'(newfstatat|stat|statx)\(.*"/bin/cat"', call)]
    named = {name for call in calls for name in re.findall(r'"((?:[^"\\]|\\.)*)"', call)[:1]}
    # The last is a file of ours over the folder's own.
    assert {name for name in named if not name.startswith(_OURS) and name not in (*_OWN, "/etc/ld.so.preload")} == set()
    assert any(name.startswith("/arl/python/") for name in named), "the positive control: what it reads is seen"
    assert any('"/etc/marker"' in call for pid, call in lines if pid != agent), "likewise: what a step opens"


@pytest.mark.parametrize("place", ["arl", "workspace", "tmp", "home", "home/arl", "etc", "dev"])
def test_a_file_where_a_sandbox_needs_a_folder_is_refused(open_sandbox: OpenSandbox, root: Path, place: str) -> None:
    if (root / place).exists():
        shutil.rmtree(root / place)
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).write_text("")
    with pytest.raises(UsageError, match=rf"root/{place} is no folder, and every sandbox has a folder"):
        open_sandbox(f'root = "{root}"')


@pytest.mark.parametrize("place", ["etc/passwd", "etc/ld.so.preload"])
def test_a_folder_where_a_sandbox_needs_a_file_is_refused(open_sandbox: OpenSandbox, root: Path, place: str) -> None:
    (root / place).mkdir()
    with pytest.raises(UsageError, match=rf"root/{place} is a folder, and every sandbox has a file"):
        open_sandbox(f'root = "{root}"')
