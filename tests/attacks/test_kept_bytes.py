"""Bytes that cost a sandbox nothing and this machine much: holes, files that are gone again, streams, names."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from pytest_arl import InfrastructureError, SandboxSession, UsageError
from tests.attacks.conftest import OpenSandbox, python

MIB = 2**20

_SPARSE = """
import os
with open("sparse", "wb") as file:
    file.write(b"begins")
    file.seek(100 << 20)
    file.write(b"middle")
    file.truncate(300 << 20)
os.truncate(os.open("hole", os.O_CREAT | os.O_WRONLY), 300 << 20)
"""


def _content(path: Path) -> tuple[int, bytes, bytes, bytes]:
    """Length and what is at four places of the sparse file: its beginning, middle and end."""
    with path.open("rb") as file:
        return (
            path.stat().st_size,
            file.read(8),
            os.pread(file.fileno(), 8, (100 << 20) - 1),
            os.pread(file.fileno(), 8, (300 << 20) - 8),
        )


_RIGHT = (300 * MIB, b"begins\0\0", b"\0middle\0", bytes(8))


def test_holes_stay_holes_in_a_download_and_an_upload(open_sandbox: OpenSandbox, tmp_path: Path) -> None:
    sandbox = open_sandbox('kept = "4Mi"')
    python(sandbox, _SPARSE).check()
    sandbox.download(".", tmp_path / "o")

    assert _content(tmp_path / "o/sparse") == _RIGHT
    assert (tmp_path / "o/hole").stat().st_size == 300 * MIB
    assert sum((tmp_path / "o" / name).stat().st_blocks for name in ("sparse", "hole")) * 512 < MIB
    assert (tmp_path / "o/sparse").stat().st_blocks > 0, "control: what is data takes room"

    sandbox.upload(tmp_path / "o", "back")
    assert sandbox.run("cmp", "sparse", "back/sparse").ok
    assert int(sandbox.run("stat", "-c", "%b", "back/sparse").stdout) * 512 < MIB


def test_holes_stay_holes_over_a_checkpoint(open_sandbox: OpenSandbox, tmp_path: Path) -> None:
    sandbox = open_sandbox('kept = "4Mi"')
    python(sandbox, _SPARSE).check()
    sandbox.checkpoint()
    sandbox.run("sh", "-c", "rm sparse hole").check()
    sandbox.reset()

    assert int(sandbox.run("stat", "-c", "%b", "sparse").stdout) * 512 < MIB
    sandbox.download("sparse", tmp_path / "sparse")
    assert _content(tmp_path / "sparse") == _RIGHT


def test_a_checkpoint_is_as_large_as_the_pool_lets_it_be(open_sandbox: OpenSandbox) -> None:
    sandbox = open_sandbox('kept = "4Mi"')
    for _ in range(5):  # each gives back what the one before it kept
        sandbox.run("sh", "-c", "head -c 1900000 /dev/urandom > file").check()
        sandbox.checkpoint()
    sandbox.run("sh", "-c", "head -c 4194304 /dev/urandom > large").check()
    with pytest.raises(UsageError, match=r"checkpoint of /workspace: .*large'.*`kept` of pool 'attacked'"):
        sandbox.checkpoint()
    sandbox.reset()
    assert sandbox.run("ls").stdout == "file\n", "the one before it still stands"


def test_downloads_are_counted_over_the_sandboxs_life(open_sandbox: OpenSandbox, tmp_path: Path) -> None:
    sandbox = open_sandbox('kept = "4Mi"')
    sandbox.run("sh", "-c", "head -c 2000000 /dev/zero > file; head -c 150000 /dev/zero > small").check()
    sandbox.download("file", tmp_path / "1")
    sandbox.download("file", tmp_path / "2")
    with pytest.raises(UsageError) as caught:
        sandbox.download("file", tmp_path / "3")
    message = str(caught.value)
    assert message.startswith("download of file: '/workspace/file' has 2000000 bytes, but of the 4Mi "), message
    assert message.endswith("take less of it, or raise `kept` of pool 'attacked'")
    sandbox.download("small", tmp_path / "4")  # what was refused is not counted
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".toml") == ["1", "2", "4"]
    sandbox.reset()
    assert sandbox.run("true").ok


def test_many_names_without_content_are_counted_too(open_sandbox: OpenSandbox, tmp_path: Path) -> None:
    sandbox = open_sandbox('kept = "1Mi"')
    make = "import os\nos.mkdir('d')\nfor n in range({}): os.mkdir(f'd/{n}')"
    python(sandbox, make.replace("{}", "900", 1)).check()
    sandbox.download("d", tmp_path / "few")
    sandbox.reset()
    python(sandbox, make.replace("{}", "1100", 1)).check()
    with pytest.raises(UsageError, match="`kept`"):
        sandbox.download("d", tmp_path / "many")
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize("kind", ["hole", "data"])
def test_a_file_is_read_up_to_what_the_pool_lets_be_kept(open_sandbox: OpenSandbox, kind: str) -> None:
    sandbox = open_sandbox('kept = "4Mi"')
    make = "truncate -s %d file" if kind == "hole" else "head -c %d /dev/zero > file"
    sandbox.run("sh", "-c", make % (4 * MIB)).check()
    assert sandbox.read("file") == bytes(4 * MIB)
    sandbox.run("sh", "-c", make % (4 * MIB + 1)).check()
    with pytest.raises(UsageError, match=r"read: file has 4194305 bytes; at most 4Mi .*`kept` of pool"):
        sandbox.read("file")


def test_what_is_read_is_in_memory_once(sandbox: SandboxSession) -> None:
    sandbox.run("truncate", "-s", str(100 * MIB), "file").check()
    tracemalloc.start()
    content = sandbox.read("file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(content), content[-1:]) == (100 * MIB, b"\0")
    assert 100 * MIB <= peak < 150 * MIB


@pytest.mark.parametrize("when", ["2400-01-01", "1600-01-01", "2026-01-01"])
def test_a_file_of_any_time_is_read_kept_and_comes_out(sandbox: SandboxSession, tmp_path: Path, when: str) -> None:
    sandbox.run("sh", "-c", f"mkdir o; echo hello > o/x; touch -d {when} o/x o").check()
    before = sandbox.run("stat", "-c", "%y", "o", "o/x").stdout
    assert sandbox.read("o/x") == b"hello\n"
    sandbox.download("o", tmp_path / "o")
    assert (tmp_path / "o/x").read_text() == "hello\n"
    sandbox.checkpoint()
    sandbox.run("rm", "-r", "o").check()
    sandbox.reset()
    assert sandbox.run("stat", "-c", "%y", "o", "o/x").stdout == before
    sandbox.upload(tmp_path / "o", "back")
    if when >= "1902":  # this machine's file system may know no earlier time
        assert sandbox.run("stat", "-c", "%y", "back", "back/x").stdout == before


def test_a_file_time_at_the_end_of_all_times_ends_nothing(sandbox: SandboxSession, tmp_path: Path) -> None:
    python(sandbox, "import os\nopen('x', 'w').close()\nos.utime('x', (2**62, -2**62))").check()
    assert sandbox.read("x") == b""
    sandbox.download("x", tmp_path / "x")
    sandbox.checkpoint()
    sandbox.reset()
    assert sandbox.run("stat", "-c", "%Y", "x").stdout == f"{-(2**62)}\n"


def test_what_is_printed_fills_this_machines_disk_no_further_than_the_pool_lets_it(open_sandbox: OpenSandbox) -> None:
    sandbox = open_sandbox('kept = "1Mi"\noutput = "64Ki"')
    for _ in range(2):
        step = sandbox.run("sh", "-c", "echo first; head -c 100000000 /dev/zero; echo last")
        assert (step.stdout[:6], step.stdout[-6:]) == ("first\n", "\0last\n")
        assert (len(step.stdout_bytes), step.stdout_size) == (65536, 100_000_011)
    got = 0
    with pytest.raises(InfrastructureError, match=r"no longer kept: .*`kept`"):
        for piece in sandbox.output(step, "stdout"):
            got += len(piece)
    assert 2**20 < got < 8 * (2**22 + 65536), "some of it is there"
