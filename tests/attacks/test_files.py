"""Files that a step leaves behind for those who handle them: the agent, and this side."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_arl import SandboxSession, UsageError
from pytest_arl.host_files.destinations import Destination
from tests.attacks.conftest import python

_NEST = """
import os, sys
os.chdir("/workspace")
for _ in range(int(sys.argv[1])):
    os.mkdir("d")
    os.chdir("d")
open("bottom", "w").close()
"""


def test_a_chain_of_links_is_refused_as_the_kernel_would(sandbox: SandboxSession) -> None:
    chain = "import os\nfor i in range(3000): os.symlink(f'l{i + 1}', f'l{i}')\nopen('l3000', 'w').close()"
    python(sandbox, chain).check()
    with pytest.raises(OSError, match="symbolic links") as caught:
        sandbox.read("l0")
    assert caught.value.errno == errno.ELOOP
    patched = sandbox.execute([{"type": "FilePatch", "path": "l0", "content": "x"}]).steps[0]
    assert (patched.outcome, patched.exit_code) == ("Failed", 1)
    assert sandbox.read("l2999") == b""


def test_a_path_that_is_too_long_is_an_error_of_its_own(sandbox: SandboxSession) -> None:
    path = "a/" * 5000 + "x"
    with pytest.raises(OSError, match="too long"):
        sandbox.read(path)
    with pytest.raises(OSError, match="too long"):
        sandbox.write(path, "")
    assert sandbox.run("true", work_dir=path).exit_code == 126
    assert sandbox.run("true").ok


def test_ten_thousand_folders_in_folders_are_undone_in_place(sandbox: SandboxSession) -> None:
    server = sandbox.start("sleep", "1000")
    sandbox.checkpoint()
    python(sandbox, _NEST, "10000").check()
    sandbox.reset()
    assert sandbox.run("ls", "-A", "/workspace").stdout == ""
    assert server.poll() is None


def test_a_deep_download_is_refused_and_leaves_nothing(sandbox: SandboxSession, tmp_path: Path) -> None:
    python(sandbox, _NEST, "400").check()
    with pytest.raises(UsageError, match="deep"):
        sandbox.download("d", tmp_path / "here")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    sandbox.upload(tmp_path / "pools-0.toml", "d/d/file")
    assert sandbox.run("true").ok


def test_a_lease_makes_nobody_wait(sandbox: SandboxSession) -> None:
    lease = """
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
try:
    fcntl.fcntl(os.open("/workspace/program", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("leased", flush=True)
except PermissionError:
    print("refused", flush=True)
time.sleep(1000)
"""
    sandbox.write("program", "#!/bin/sh\necho ran\n", mode=0o755)
    holder = sandbox.start("python3", "-I", "-c", lease)
    end = time.monotonic() + 10
    while not holder.stdout and time.monotonic() < end:
        time.sleep(0.01)
    assert holder.stdout == "refused\n", "granted, it makes an open of the file wait for 45 s"
    assert sandbox.run("/workspace/program", timeout=5).stdout == "ran\n"
    assert sandbox.read("program")


def test_a_killed_download_leaves_what_the_next_one_removes(sandbox: SandboxSession, tmp_path: Path) -> None:
    sandbox.write("file", "content")
    target = tmp_path / "artifacts"
    target.mkdir()
    killed = os.fork()
    if killed == 0:
        # What a download holds when its process is killed, as nothing of it is cleaned up then.
        staging = Destination(target / "file").staging()
        os.close(staging.__enter__().create(b"half"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    assert len(list(target.iterdir())) == 1, "the positive control"
    under_way = Destination(target / "other")
    with under_way.staging() as beside:
        sandbox.download("file", target / "file")
        assert os.fstat(beside.fd).st_nlink, "one that is under way is left alone"
    under_way.close()
    assert [path.name for path in target.iterdir()] == ["file"]


def test_three_downloads_into_one_folder_write_nothing_outside(sandbox: SandboxSession, tmp_path: Path) -> None:
    outside, results = tmp_path / "outside", tmp_path / "results"
    outside.mkdir()
    results.mkdir()
    for script in (
        "mkdir -p o/a/b/c && ln -s ../../.. o/a/b/c/k",
        "rm o/a/b/c/k && ln -s ../outside o/a/b/c/k && mkdir o/a/b/outside",
        "rm -rf o && mkdir o && echo written > o/k",
    ):
        sandbox.run("sh", "-c", script).check()
        sandbox.download("o", results)

    assert list(outside.iterdir()) == []
    assert (results / "k").read_text() == "written\n", "control: it was written, in its own folder"
    assert not (results / "k").is_symlink()
    assert os.readlink(results / "a/b/c/k") == "../outside"


@pytest.mark.parametrize("there", ["k", "sub/k", "sub"])
def test_a_link_that_the_destination_came_with_leads_no_download_out(
    sandbox: SandboxSession, tmp_path: Path, there: str
) -> None:
    outside, results = tmp_path / "outside", tmp_path / "results"
    outside.mkdir()
    (results / there).parent.mkdir(parents=True)
    (results / there).symlink_to(outside)
    sandbox.run(
        "sh", "-c", "mkdir -p o/sub; echo top > o/k; echo deep > o/sub/k; ln -s k o/l; echo 1 > o/first"
    ).check()

    if there == "sub":
        with pytest.raises(UsageError, match="results/sub is in the way"):
            sandbox.download("o", results)
        assert [path.name for path in results.iterdir()] == ["sub"], "nothing of it arrived"
    else:
        sandbox.download("o", results)
        assert ((results / "k").read_text(), (results / "sub/k").read_text()) == ("top\n", "deep\n")
        assert not (results / there).is_symlink()
    assert list(outside.iterdir()) == []


def test_a_destination_that_is_a_link_is_refused_unless_it_may_be_followed(
    sandbox: SandboxSession, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    sandbox.run("sh", "-c", "mkdir o; echo content > o/file").check()

    for what in ("o", "o/file"):
        with pytest.raises(UsageError, match=r"link is a link to 'real'.*follow_symlinks=True"):
            sandbox.download(what, link)
    assert list((tmp_path / "real").iterdir()) == []
    sandbox.download("o", link, follow_symlinks=True)
    assert (tmp_path / "real/file").read_text() == "content\n"
    assert link.is_symlink()


def test_a_link_that_is_uploaded_is_refused_unless_it_may_be_followed(sandbox: SandboxSession, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    solution = tmp_path / "solution.py"
    solution.symlink_to("private")

    with pytest.raises(UsageError, match=r"solution.py is a link to 'private'.*follow_symlinks=True"):
        sandbox.upload(solution, "solution.py")
    assert sandbox.run("ls").stdout == ""
    sandbox.upload(solution, "./", follow_symlinks=True)
    assert sandbox.read("solution.py") == b"secret"
    sandbox.upload(tmp_path / "private", "plain")
    assert sandbox.read("plain") == b"secret", "control: a plain file needs no word"


def test_what_a_download_seems_to_have_left_may_be_too_deep_to_remove(tmp_path: Path) -> None:
    """In a ``:rw`` mount, code in a sandbox of an ordinary user can make such a folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))  # enough to come to Python's own limit
    for name, depth in ((".arl-download-shallow", 50), (".arl-download-deep", 1500)):
        folder = tmp_path / name
        nest = "import os, sys\nfor _ in range(int(sys.argv[1])):\n os.mkdir('d')\n os.chdir('d')"
        folder.mkdir()
        subprocess.run([sys.executable, "-c", nest, str(depth)], cwd=folder, check=True)
    try:
        destination = Destination(tmp_path / "new")
        with destination.staging() as staging:
            staging.make(b"arrived")
            destination.put(staging, b"arrived")
        destination.close()
        assert (tmp_path / "new").is_dir()
        assert not (tmp_path / ".arl-download-shallow").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        subprocess.run(["rm", "-rf", tmp_path / ".arl-download-deep"], check=True)
