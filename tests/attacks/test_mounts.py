"""Folders of this machine that a sandbox can write: what it swaps there must not lead this side elsewhere.

A process that exchanges a folder for a link while this side writes into it made a download write where the link led,
with this side's rights; nothing but keeping out of such folders helps against all ways to do it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, UsageError
from tests.attacks.conftest import OpenSandbox


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "shared"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("here")
    return folder


@pytest.fixture
def sandbox(open_sandbox: OpenSandbox, shared: Path, tmp_path: Path) -> SandboxSession:
    (tmp_path / "seen").mkdir(mode=0o755)
    (tmp_path / "seen" / "file").write_text("seen")
    session = open_sandbox(f'mounts = ["{shared}:/shared:rw", "{tmp_path / "seen"}:/seen:ro"]')
    session.run("sh", "-c", "mkdir out; echo theirs > out/file; echo reached > /shared/written").check()
    assert (shared / "written").read_text() == "reached\n", "the positive control: the sandbox can write it"
    return session


@pytest.mark.parametrize("where", ["x", "inside/x", "inside/../x", "new/x", "", "..", "inside/../../beside"])
def test_a_download_keeps_out_of_what_the_sandbox_can_write(sandbox: SandboxSession, shared: Path, where: str) -> None:
    before = sorted(shared.parent.rglob("*"))
    with pytest.raises(UsageError, match="/shared"):
        sandbox.download("out", shared / where)
    assert sorted(shared.parent.rglob("*")) == before


def test_a_link_does_not_lead_a_download_into_a_mount(sandbox: SandboxSession, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shared / "inside")
    sandbox.run("ln", "-s", str(tmp_path), "/shared/way-out").check()
    for target in (tmp_path / "link" / "x", shared / "way-out" / "x"):
        with pytest.raises(UsageError, match="/shared"):
            sandbox.download("out", target)


@pytest.mark.parametrize("where", ["inside/file", "inside", "", ".."])
def test_an_upload_reads_nothing_there(sandbox: SandboxSession, shared: Path, where: str) -> None:
    with pytest.raises(UsageError, match="/shared"):
        sandbox.upload(shared / where, "/workspace/copy")
    assert sandbox.run("test", "-e", "/workspace/copy").exit_code == 1


def test_everywhere_else_is_as_before(sandbox: SandboxSession, shared: Path, tmp_path: Path) -> None:
    sandbox.download("out", tmp_path / "back")
    assert (tmp_path / "back" / "file").read_text() == "theirs\n"
    sandbox.download("out/file", shared.parent / "beside.txt")
    assert (shared.parent / "beside.txt").read_text() == "theirs\n"
    sandbox.upload(tmp_path / "seen", "/workspace/copy")
    assert sandbox.read("/workspace/copy/file") == b"seen"


@pytest.mark.parametrize("slashes", ["/", "//", "///", "/./", "//.//"])
def test_no_spelling_of_a_target_frees_what_is_kept_read_only(
    open_sandbox: OpenSandbox, shared: Path, slashes: str
) -> None:
    for name in (".git", "a"):
        (shared / name).mkdir()
        (shared / name).chmod(0o777)
    session = open_sandbox(f'mounts = ["{shared}:{slashes}src:rw", "{shared}/a:{slashes}src{slashes}a/:ro"]')
    for path in ("/src/.git/hook", "/src/a/new"):
        assert "Read-only" in session.run("touch", path).stderr
    assert "busy" in session.run("mv", "/src/.git", "/src/moved").stderr
    assert session.run("touch", "/src/inside/../new").ok, "the control: around it all is writable"


@pytest.mark.parametrize("target", ["//arl/agent", "/./arl", "//proc/self", "///dev/shm", "//usr", "/", "//", "//etc"])
def test_no_spelling_of_a_target_reaches_what_is_the_sandboxs_own(
    open_sandbox: OpenSandbox, shared: Path, target: str
) -> None:
    with pytest.raises(UsageError, match=r"reserved for the sandbox itself|is a folder of the sandbox"):
        open_sandbox(f'mounts = ["{shared}/inside:{target}"]')


def _of_agent() -> list[str]:
    """Some of what an agent is loaded from where sandboxes show this machine, and what leads its loader."""
    return [
        os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        os.path.dirname(os.__file__),
        os.path.join(os.path.dirname(os.__file__), "encodings"),
        next(
            line.split()[-1]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if re.search(r"/libc[.-]", line)
        ),
        "/etc/ld.so.preload",
        "/etc/ld.so.cache",
    ]


@pytest.mark.parametrize("option", ["ro", "rw"])
@pytest.mark.parametrize("place", _of_agent())
def test_no_mount_takes_the_place_of_what_the_agent_is_loaded_from(
    open_sandbox: OpenSandbox, shared: Path, place: str, option: str
) -> None:
    source = shared / "inside"
    if not Path(place).is_dir():
        source = source / "file"
    with pytest.raises(UsageError, match=r"agent"):
        open_sandbox(f'mounts = ["{source}:{place}:{option}"]')


def test_a_mount_beside_it_is_fine(open_sandbox: OpenSandbox, shared: Path) -> None:
    for place in ("/usr/share", "/etc/ld.so.conf.d"):
        session = open_sandbox(f'mounts = ["{shared}/inside:{place}"]')
        assert session.run("cat", f"{place}/file").check().stdout == "here"
