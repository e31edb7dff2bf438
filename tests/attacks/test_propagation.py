"""Mounts that are made on this machine while a sandbox runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

_OUTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.geteuid(), os.getegid()
folder = sys.argv[1].encode()
def must(answer):
    if answer:
        sys.exit("unavailable: " + os.strerror(ctypes.get_errno()))
must(libc.unshare(0x20000 if uid == 0 else 0x10020000))
if uid:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
must(libc.mount(None, b"/", None, 0x4000 | 0x40000, None))  # private, so that nothing of this gets out
must(libc.mount(None, b"/", None, 0x4000 | 0x100000, None))  # shared, as systemd has it
said, says = os.pipe(), os.pipe()
if os.fork() == 0:
    os.dup2(says[0], 0)
    os.dup2(said[1], 3)
    os.closerange(4, 64)
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[3:]])
os.close(said[1])
if os.read(said[0], 1):
    must(libc.mount(b"later", folder, b"tmpfs", 0, None))
    with open(folder + b"/file", "w") as file:
        file.write("later")
    os.chmod(folder, 0o777)
    os.write(says[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
"""Has mounts that are shared, runs a program without the rights to mount, and mounts something while that waits."""

_INNER = """
import json, os, sys
from pathlib import Path
from pytest_arl.backends.local import backend
from pytest_arl.settings import Settings
from tests.attacks.conftest import host_of
from tests.leftovers import below
from tests.local.conftest import acquire, run
host = host_of(sys.argv[2])
backend.probe = lambda: host
folder = Path(sys.argv[1])
one = backend.LocalBackend(Settings.build(cli={"pools_file": str(folder / "pools.toml")}, start_dir=folder))
sandboxes = [acquire(one, "shown"), acquire(one, "image")]
os.write(3, b"x")
os.read(0, 1)
here = (folder / "data/inner/file").read_text()
script = "cat /data/inner/*; touch /data/inner/new; cat /proc/self/mountinfo"
seen = [run(sandbox, "sh", "-c", script) for sandbox in sandboxes]
later = run(acquire(one, "shown"), "sh", "-c", script)
one.close()
left = [pid for pid in below(os.getpid()) if b"propagation" in Path(f"/proc/{pid}/cmdline").read_bytes()]
left.remove(os.getpid())  # this text has that word
print(json.dumps([sandboxes[0].isolation, left, here, *((each.stdout, each.stderr) for each in (*seen, later))]))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two pools that show a folder read-only: one of this machine's programs, and one of a folder that has the same."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        if path.owner() == tmp_path.owner() and path != Path("/tmp"):
            path.chmod(0o755)
    (tmp_path / "data/inner").mkdir(parents=True)
    (tmp_path / "root/etc").mkdir(parents=True)
    root, mounts = f'root = "{tmp_path}/root"', [f"{tmp_path}/data:/data"]
    programs = [f"{top}:{top}" for top in ("/usr",)]
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (tmp_path / "root" / name).symlink_to(f"usr/{name}")
        elif Path("/", name).is_dir():
            programs.append(f"/{name}:/{name}")
    (tmp_path / "pools.toml").write_text(
        f"[pools.shown]\nmounts = {mounts}\n[pools.image]\n{root}\nmounts = {mounts + programs}\n"
    )
    return tmp_path


def test_a_mount_that_is_made_later_does_not_appear_in_a_sandbox(tier: str, project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OUTER, str(project / "data/inner"), _INNER, str(project), tier],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    if done.stderr.startswith("unavailable"):
        pytest.skip(f"no mounts of one's own can be had here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    isolation, left, here, *seen, later = json.loads(done.stdout)
    assert isolation == tier
    assert left == [], "processes that were started for it"
    assert here == "later", "the control: on this side it is there"
    for stdout, stderr in seen:
        assert "Read-only file system" in stderr
        assert "No such file" in stderr
        assert " /data " in stdout
        for word in (" later ", "master:", "shared:"):
            assert word not in stdout
    assert later[0].startswith("later"), "the control: a sandbox that is made afterwards shows it"
    assert "Read-only file system" in later[1]
