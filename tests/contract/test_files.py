"""Contract, "Files": what a FilePatch writes, and how files go in and come out."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import stat
import time
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pytest_arl import InfrastructureError, UsageError
from tests.contract.probes import high_water, start_python
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import SandboxSession

MIB = 2**20


def _patch(sandbox: SandboxSession, path: str, content: bytes, **more: object) -> dict[str, object]:
    step = {
        "type": "FilePatch",
        "path": path,
        "content": base64.b64encode(content).decode(),
        "encoding": "base64",
        **more,
    }
    result = sandbox.execute([step]).steps[0]
    return {"ok": result.ok, "exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}


# 13. FilePatch


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"no newline", b"a\r\nb\rc\n", bytes(range(256)), "\ufeffé\u2028".encode(), b"x" * (3 * MIB + 1)],
    ids=["empty", "newline", "text", "line ends", "binary", "unicode", "3 MiB"],
)
def test_a_filepatch_writes_exactly_its_content(sandbox: SandboxSession, content: bytes) -> None:
    patched = _patch(sandbox, "sub/folder/file", content)
    seen = sandbox.run("sha256sum", "sub/folder/file").check().stdout.split()[0]

    assert patched == {"ok": True, "exit_code": 0, "stdout": "File created: sub/folder/file\n", "stderr": ""}
    assert seen == hashlib.sha256(content).hexdigest()
    assert seen != hashlib.sha256(content + b"x").hexdigest()


def test_a_filepatch_replaces_the_whole_old_content_and_keeps_or_sets_the_mode(sandbox: SandboxSession) -> None:
    def mode() -> str:
        return sandbox.run("stat", "-c", "%a", "file").stdout.strip()

    _patch(sandbox, "file", b"a long first content", mode=0o750)
    first = mode()
    _patch(sandbox, "file", b"short")
    kept = mode()
    _patch(sandbox, "file", b"short", mode=0o600)

    assert sandbox.read("file") == b"short"
    assert (first, kept, mode()) == ("750", "750", "600")


def test_absolute_paths_mean_what_they_say_and_relative_ones_are_under_the_workspace(sandbox: SandboxSession) -> None:
    for path, really in {
        "relative": "/workspace/relative",
        "./a/../relative 2": "/workspace/relative 2",
        "/workspace/absolute": "/workspace/absolute",
        "/tmp/deep/absolute": "/tmp/deep/absolute",
        "/home/arl/.config/x": "/home/arl/.config/x",
        "../tmp/upward": "/tmp/upward",
    }.items():
        assert _patch(sandbox, path, path.encode())["ok"], path
        assert sandbox.run("cat", really).stdout == path


def test_dots_and_links_resolve_inside_the_sandbox(sandbox: SandboxSession, tmp_path: Path) -> None:
    """What leads to a folder of this machine in a path leads to the sandbox's folder of that name there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    ways = [f"{'../' * 20}{outside}/dots", "link/link", "proc-link/root-of-1", f"{outside}/absolute"]
    sandbox.run("ln", "-s", str(outside), "link").check()
    sandbox.run("ln", "-s", f"/proc/self/root{outside}", "proc-link").check()
    sandbox.run("mkdir", "-p", str(outside)).check()

    for way in ways:
        _patch(sandbox, way, b"escaped?")

    assert list(outside.iterdir()) == []
    inside = sandbox.run("ls", str(outside)).check().stdout.split()
    assert {"absolute", "dots", "link"} <= set(inside), "control: they were written, in the sandbox"


@pytest.mark.parametrize(
    "path", ["/usr/bin/env", "/etc/passwd", "/proc/sys/kernel/core_pattern", "/sys/x", "/new", "/arl/agent"]
)
def test_what_is_not_the_sandboxs_cannot_be_written(sandbox: SandboxSession, path: str) -> None:
    before = sandbox.run("cat", path)

    patched = _patch(sandbox, path, b"mine")

    assert (patched["ok"], patched["exit_code"]) == (False, 1)
    assert path in str(patched["stderr"])
    assert sandbox.run("cat", path).stdout_bytes == before.stdout_bytes


def test_a_filepatch_that_cannot_write_is_a_failed_step_that_says_why(sandbox: SandboxSession) -> None:
    sandbox.run("sh", "-c", "mkdir folder; echo file > file; ln -s loop loop; mkfifo fifo").check()

    for path in ("folder", "file/below", "loop/x", "x" * 300):
        patched = _patch(sandbox, path, b"content")
        assert (patched["ok"], patched["exit_code"]) == (False, 1), path
        assert re.search(r"arl: cannot write .+: .+", str(patched["stderr"])), path
    assert sandbox.run("cat", "file").stdout == "file\n"
    assert _patch(sandbox, "folder/below", b"content")["ok"]


_READER = """
    import os, sys
    seen, torn = 0, 0
    print("ready", flush=True)
    while not os.path.exists("stop"):
        with open("file", "rb") as file:
            content = file.read()
        seen += 1
        if len(content) != 1 << 20 or content.count(content[:1]) != len(content):
            torn += 1
    print(seen, torn)
"""


@pytest.mark.parametrize("how", ["FilePatch", "a program"])
def test_a_reader_sees_the_old_file_or_the_new_one(sandbox: SandboxSession, how: str) -> None:
    contents = [bytes([letter]) * MIB for letter in b"abcdefgh"]
    sandbox.write("file", contents[0])
    reader = start_python(sandbox, _READER)
    end = time.monotonic() + 10

    for _ in range(3):
        for content in contents:
            if how == "FilePatch":
                assert _patch(sandbox, "file", content)["ok"]
            else:
                sandbox.run("dd", "of=file", "bs=64K", "status=none", stdin=content).check()
    sandbox.write("stop", "")
    seen, broken = map(int, reader.wait(20).check().stdout.split()[1:])

    assert seen > 20
    assert (broken == 0) == (how == "FilePatch"), "control: the reader notices a file that is half written"
    assert time.monotonic() < end + 60


def test_a_filepatch_that_does_not_fit_leaves_the_old_file_and_nothing_half_done(small: SandboxSession) -> None:
    small.write("file", "old")
    before = small.run("find", ".").stdout

    patched = _patch(small, "file", b"x" * (9 * MIB))

    assert (patched["ok"], patched["exit_code"]) == (False, 1)
    assert "No space left on device" in str(patched["stderr"])
    assert small.read("file") == b"old"
    assert small.run("find", ".").stdout == before
    assert _patch(small, "file", b"x" * (6 * MIB))["ok"], "control: a smaller one fits"
    with pytest.raises(OSError, match="No space left"):
        small.write("file", b"x" * (9 * MIB))


# 14. Copies


def _tree(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Everything below a folder: kind, mode and content by path."""
    found = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = os.fsencode(os.readlink(path)) if kind == "link" else path.read_bytes() if kind == "file" else b""
        mode = 0 if kind == "link" else stat.S_IMODE(state.st_mode)
        found[str(path.relative_to(root))] = (kind, mode, content)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with whatever a folder may hold."""
    root = tmp_path / "folder"
    (root / "empty folder").mkdir(parents=True)
    (root / "private").mkdir(mode=0o700)
    (root / "private" / "deep").mkdir()
    files = {
        "empty": b"",
        "binary": random.Random(3).randbytes(300_000),
        "private/deep/text": b"line\n",
        "white space\n'\"": b"1",
        ".hidden": b"2",
        "-rf": b"3",
        "ümläut": b"4",
        os.fsdecode(b"not utf-8 \xff\xfe"): b"5",
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    (root / "binary").chmod(0o755)
    (root / "private" / "deep" / "text").chmod(0o640)
    (root / "link").symlink_to("private/deep/text")
    (root / "dangling").symlink_to("nowhere")
    return root


def test_a_folder_goes_in_and_comes_out_as_it_was(sandbox: SandboxSession, folder: Path, tmp_path: Path) -> None:
    sandbox.upload(folder, "there/copy")
    listed = sandbox.run(
        "sh",
        "-c",
        "cd there/copy; find . -print0 | tr -dc '\\0' | wc -c; stat -c %a binary; cat link; sha256sum < binary",
    )
    sandbox.download("there/copy", tmp_path / "back")

    digest = hashlib.sha256((folder / "binary").read_bytes()).hexdigest()
    assert listed.stdout.split() == [str(len(_tree(folder)) + 1), "755", "line", digest, "-"]
    assert _tree(tmp_path / "back") == _tree(folder)


@pytest.mark.parametrize("content", [b"", b"\0\xff" * 1000], ids=["empty", "binary"])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o444])
def test_a_file_goes_in_and_comes_out_as_it_was(
    sandbox: SandboxSession, tmp_path: Path, content: bytes, mode: int
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    here.write_bytes(content)
    here.chmod(mode)

    sandbox.upload(here, "file")
    there = sandbox.run("stat", "-c", "%a %s", "file").stdout
    sandbox.download("file", back)

    assert there == f"{mode:o} {len(content)}\n"
    assert (back.read_bytes(), stat.S_IMODE(back.stat().st_mode)) == (content, mode)
    assert sandbox.read("file") == content


def test_100_mb_go_in_and_come_out_in_bounded_memory(sandbox: SandboxSession, tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    piece = random.Random(5).randbytes(MIB)
    with here.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4) + piece[4:])
    here.chmod(0o750)
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water(Path("/proc/self/status").read_text())

    sandbox.upload(here, "file")
    sandbox.download("file", back)

    grown = high_water(Path("/proc/self/status").read_text()) - before
    with here.open("rb") as one, back.open("rb") as other:
        assert hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
    assert stat.S_IMODE(back.stat().st_mode) == 0o750
    assert grown < 64 * MIB
    assert high_water(sandbox.run("cat", "/proc/1/status").stdout) < 64 * MIB


def test_what_is_not_there_is_an_oserror_that_says_so(sandbox: SandboxSession, tmp_path: Path) -> None:
    sandbox.run("mkdir", "folder").check()

    with pytest.raises(FileNotFoundError, match="missing"):
        sandbox.read("missing")
    with pytest.raises(FileNotFoundError, match="missing"):
        sandbox.download("missing", tmp_path / "back")
    with pytest.raises(UsageError, match="missing"):
        sandbox.upload(tmp_path / "missing", "there")
    with pytest.raises(IsADirectoryError):
        sandbox.read("folder")
    assert list(tmp_path.iterdir()) == [], "nothing half-done is left"
    assert sandbox.run("ls").stdout == "folder\n"


# What a hostile sandbox tries with them


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "sub/../../secret", "/proc/self/cwd"])
def test_a_link_out_of_a_downloaded_folder_is_refused_by_name(
    sandbox: SandboxSession, tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret").write_text("mine")
    sandbox.run("sh", "-c", "mkdir -p evil/sub; echo theirs > evil/file; ln -s file evil/inside").check()
    sandbox.run("ln", "-s", target, "evil/trap").check()

    with pytest.raises(UsageError, match="trap"):
        sandbox.download("evil", tmp_path / "back")

    assert [path.name for path in tmp_path.iterdir()] == ["secret"], "nothing half-done is left"
    sandbox.run("rm", "evil/trap").check()
    sandbox.download("evil", tmp_path / "back")
    assert (tmp_path / "back" / "inside").read_text() == "theirs\n", "control: a link that stays inside comes along"


def test_what_comes_out_of_a_sandbox_has_no_setuid_bit(sandbox: SandboxSession, tmp_path: Path) -> None:
    sandbox.run("sh", "-c", "cp /bin/true program; chmod 6755 program; mkdir -m 3777 folder").check()

    sandbox.download(".", tmp_path / "back")

    assert sandbox.run("stat", "-c", "%a", "program", "folder").stdout == "6755\n3777\n", "control: it was set there"
    for name in ("program", "folder"):
        assert (tmp_path / "back" / name).stat().st_mode & 0o7000 == 0


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], ids=oct)
def test_what_comes_out_of_a_sandbox_is_open_to_nobody_whom_the_umask_keeps_out(
    sandbox: SandboxSession, tmp_path: Path, umask: int
) -> None:
    sandbox.run("sh", "-c", "mkdir -m 777 folder; echo x > folder/file; chmod 777 folder/file").check()

    before = os.umask(umask)
    try:
        sandbox.download("folder", tmp_path / "back")
        sandbox.download("folder/file", tmp_path / "one")
    finally:
        os.umask(before)

    assert sandbox.run("stat", "-c", "%a", "folder", "folder/file").stdout == "777\n777\n", "control: it was so there"
    for path in (tmp_path / "back", tmp_path / "back/file", tmp_path / "one"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask


def test_a_link_in_an_uploaded_folder_is_not_followed_on_this_machine(sandbox: SandboxSession, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "secret")

    sandbox.upload(tmp_path / "folder", "folder")

    assert "link" in sandbox.run("ls", "folder").stdout
    assert "mine" not in sandbox.run("cat", "folder/link").stdout


@pytest.mark.parametrize("make", ["mkfifo {}", "ln -s /proc/1/fd/0 {}", "ln precious {}", "mkdir {}"])
def test_what_a_step_puts_in_the_way_of_a_write_does_not_stop_the_agent(sandbox: SandboxSession, make: str) -> None:
    """Names that are easy to foresee are those of files that the agent might make for a moment."""
    sandbox.write("precious", "old")
    names = [".arl-1.tmp", ".arl-arriving-1.tmp", ".file.tmp", "file.tmp", ".file.swp", "file~"]
    for name in names:
        sandbox.run("sh", "-c", make.format(name)).check()

    began = time.monotonic()
    try:
        sandbox.write("file", "new")
    except OSError:
        assert make == "mkdir {}"

    assert time.monotonic() - began < 5
    assert sandbox.run("cat", "precious").stdout == "old"


def test_dots_after_a_link_mean_what_they_mean_to_a_program(sandbox: SandboxSession) -> None:
    sandbox.run("sh", "-c", "mkdir -p /tmp/a/b; ln -s /tmp/a/b link").check()

    for path in ("link/../relative", "/workspace/link/../absolute"):
        sandbox.write(path, path)
        assert sandbox.run("cat", path).stdout == path
    assert sandbox.run("ls", "/tmp/a").stdout.split() == ["absolute", "b", "relative"]
    assert sandbox.run("pwd", "-P", work_dir="/workspace/link/..").stdout == "/tmp/a\n"


@pytest.mark.parametrize(
    "make",
    [
        "mkfifo thing",
        "ln -s /dev/zero thing",
        "ln -s /proc/1/environ thing",
        "ln -s /proc/1/mem thing",
        "ln -s /proc/self/fd/3 thing",
        "ln -s /proc/self/status thing",
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('thing')\"",
    ],
)
def test_reading_what_is_no_plain_file_is_an_error_at_once(sandbox: SandboxSession, tmp_path: Path, make: str) -> None:
    sandbox.run("sh", "-c", make).check()
    began = time.monotonic()

    for take in (lambda: sandbox.read("thing"), lambda: sandbox.download("thing", tmp_path / "back")):
        with pytest.raises((OSError, InfrastructureError, UsageError)):
            take()

    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == []
    assert sandbox.run("true").ok, "the agent is well"


def test_a_sparse_file_of_exabytes_fills_no_disk(sandbox: SandboxSession, tmp_path: Path) -> None:
    # Terabytes, where the disk's file system has no larger ones.
    made = sandbox.run("sh", "-c", f"truncate -s {6 * 2**60} huge || truncate -s {15 * 2**40} huge")
    began = time.monotonic()

    for take in (lambda: sandbox.read("huge"), lambda: sandbox.download("huge", tmp_path / "back")):
        with pytest.raises((OSError, InfrastructureError, ValueError)):
            take()

    assert made.ok, "control: the sandbox does hold such a file"
    assert time.monotonic() - began < 30
    assert not (tmp_path / "back").exists()


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere_else(sandbox: SandboxSession, tmp_path: Path) -> None:
    code = """
        import os
        os.makedirs("real", exist_ok=True); os.makedirs("/tmp/other", exist_ok=True)
        print("ready", flush=True)
        while True:
            try:
                os.rename("real", "kept"); os.symlink("/proc/1/fd", "real"); os.unlink("real"); os.rename("kept", "real")
            except OSError: pass
    """
    start_python(sandbox, dedent(code))
    written = 0

    for number in range(200):
        try:
            sandbox.write(f"real/{number}", "x")
            written += 1
        except OSError:
            continue

    assert written
    assert until(lambda: sandbox.run("true").ok)
