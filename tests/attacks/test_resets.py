"""Changes that a step leaves for the next test to find, in a sandbox that is reset while a server in it lives on."""

from __future__ import annotations

import time

import pytest

from pytest_arl import SandboxSession
from pytest_arl.session.process import Process
from tests.attacks.conftest import OpenSandbox, python

_LOOK = """
import ctypes, os, stat, subprocess
folders = ["/workspace", "/tmp", os.environ["HOME"], "/dev/shm", "/workspace/kept", "/workspace/kept/in"]
for folder in folders:
    names = os.listxattr(folder)
    print(folder, oct(os.stat(folder).st_mode), [(name, os.getxattr(folder, name)) for name in sorted(names)])
for folder in folders:
    print(sorted(os.listdir(folder)))
librt = ctypes.CDLL("librt.so.1", use_errno=True)
for name in (b"/before", b"/left"):
    print(name, librt.mq_open(name, os.O_RDWR) >= 0)
for table in ("shm", "msg", "sem"):
    print(open("/proc/sysvipc/" + table).read().split()[len(open("/proc/sysvipc/" + table).readline().split()):])
"""

_PREPARE = """
import ctypes, os
os.makedirs("/workspace/kept/in")
os.chmod("/workspace/kept", 0o750)
open("/workspace/kept/file", "w").close()
os.setxattr("/workspace/kept", "user.before", b"1")
librt = ctypes.CDLL("librt.so.1", use_errno=True)
assert librt.mq_open(b"/before", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
"""

_CHANGES = {
    "modes": "for f in reversed(folders): os.chmod(f, 0o000 if f != '/workspace/kept' else 0o777)",
    "special modes": "for f in folders: os.chmod(f, 0o7777)",
    "attributes": "for f in folders: os.setxattr(f, 'user.left', b'x'); os.setxattr('/workspace/kept', 'user.before', b'2')",
    "attributes removed": "os.removexattr('/workspace/kept', 'user.before')",
    "access lists": """
acl = b'\\2\\0\\0\\0' + b''.join(
    tag.to_bytes(2, 'little') + b'\\7\\0' + b'\\xff' * 4 for tag in (1, 4, 0x20))
for f in folders: os.setxattr(f, 'system.posix_acl_default', acl)
""",
    "attributes of a file": "os.setxattr('/workspace/kept/file', 'user.left', b'x')",
    "queues": "assert librt.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o600, None) >= 0",
    "System V": "libc = ctypes.CDLL(None); libc.shmget(7, 4096, 0o1600); libc.msgget(7, 0o1600); libc.semget(7, 2, 0o1600)",
    "files in closed folders": "open('/workspace/kept/in/.left', 'w'); os.unlink('/workspace/kept/file');"
    "[os.chmod(f, 0) for f in ('/workspace/kept/in', '/workspace/kept', '/workspace')]",
    "files": "[open(f + '/.left', 'w').close() for f in folders]; os.unlink('/workspace/kept/file')",
}
_HEAD = "\n".join(_LOOK.splitlines()[:3]) + "\nlibrt = ctypes.CDLL('librt.so.1', use_errno=True)\n"


@pytest.mark.parametrize("change", _CHANGES)
def test_a_reset_in_place_undoes(open_sandbox: OpenSandbox, change: str) -> None:
    sandbox = open_sandbox()
    server = sandbox.start("sleep", "1000")
    prepare = _PREPARE if _has_attributes(sandbox) else _PREPARE.replace("os.setxattr", "# ")
    python(sandbox, prepare).check()
    sandbox.checkpoint()
    before = python(sandbox, _LOOK).check().stdout

    changed = python(sandbox, _HEAD + _CHANGES[change])
    if "attributes" in change and not _has_attributes(sandbox):
        assert "Operation not supported" in changed.stderr or "No data" in changed.stderr, changed.stderr
        pytest.skip("this kernel keeps no user's attributes in memory")
    changed.check()
    if change not in ("modes", "files in closed folders"):  # after which nothing can look
        seen = python(sandbox, _LOOK).check().stdout
        assert seen != before or change == "attributes of a file", "control: it shows"
    sandbox.reset()

    assert python(sandbox, _LOOK).check().stdout == before
    assert server.poll() is None, "control: it was in place"
    assert python(sandbox, "import os; print(os.listxattr('/workspace/kept/file'))").stdout == "[]\n"


@pytest.mark.parametrize("shown", [True, False], ids=["", "hidden"])
def test_a_reset_in_place_undoes_what_was_written_through_a_mapping(open_sandbox: OpenSandbox, shown: bool) -> None:
    """It moves no time of the file."""
    sandbox = open_sandbox()
    for name in ("mapped", "read", "beside"):
        sandbox.write(name, "before" * 1000)
    server = sandbox.start("python3", "-u", "-c", _MAPPER, "" if shown else "hidden")
    wait_for(server, "ready")
    sandbox.checkpoint()
    before = sandbox.run("stat", "-c", "%i %z", "mapped", "read", "beside").check().stdout.splitlines()

    server.write("go\n", timeout=60)
    wait_for(server, "written")
    assert sandbox.read("mapped") == b"AFTER!" + b"before" * 999, "control"
    seen = sandbox.run("stat", "-c", "%i %z", "mapped", "read", "beside").check().stdout.splitlines()
    assert seen == before, "control: nothing shows it"
    sandbox.reset()

    assert sandbox.read("mapped") == b"before" * 1000
    assert server.poll() is None, "control: it was in place"
    after = sandbox.run("stat", "-c", "%i %z", "mapped", "read", "beside").check().stdout.splitlines()
    assert after[1:] == before[1:], "what did not change is the same file"


def test_a_mapped_file_that_became_nearly_all_holes_holds_up_no_reset(open_sandbox: OpenSandbox) -> None:
    """To read its holes would take the agent longer than it may be silent."""
    sandbox = open_sandbox()
    for name in ("mapped", "read"):
        sandbox.write(name, "before" * 1000)
    server = sandbox.start("python3", "-u", "-c", _MAPPER, "")
    wait_for(server, "ready")
    sandbox.checkpoint()
    sandbox.run("truncate", "-s", "4T", "mapped").check()
    sandbox.reset()

    assert sandbox.read("mapped") == b"before" * 1000
    assert server.poll() is None, "control: it was in place"


_MAPPER = """
import ctypes, mmap, sys

maps = []
for name, access in (("mapped", mmap.ACCESS_WRITE), ("read", mmap.ACCESS_READ)):
    with open(name, "r+b") as file:
        maps.append(mmap.mmap(file.fileno(), 0, access=access))
maps[0][0:6] = b"before"  # its page is there, and can be written from here on
if sys.argv[1]:
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0  # PR_SET_DUMPABLE
print("ready")
sys.stdin.readline()
maps[0][0:6] = b"AFTER!"
print("written")
sys.stdin.readline()
"""


def wait_for(server: Process, word: str) -> None:
    while word not in server.stdout:
        assert server.poll() is None, server.stderr
        time.sleep(0.01)


def _has_attributes(sandbox: SandboxSession) -> bool:
    return python(sandbox, "import os; os.setxattr('/tmp', 'user.x', b''); os.removexattr('/tmp', 'user.x')").ok


def test_a_folder_that_a_fixture_closed_hides_nothing(sandbox: SandboxSession) -> None:
    server = sandbox.start("sleep", "1000")
    sandbox.run("sh", "-c", "mkdir -p shut/in; chmod 000 shut/in shut").check()
    sandbox.checkpoint()
    sandbox.run("sh", "-c", "chmod 700 shut shut/in; touch shut/new shut/in/new; chmod 000 shut/in shut").check()
    sandbox.reset()
    assert sandbox.run("stat", "-c", "%a", "shut").check().stdout == "0\n"
    look = "chmod 700 shut; stat -c %a shut/in; chmod 700 shut/in; find shut"
    assert sandbox.run("sh", "-c", look).check().stdout == "0\nshut\nshut/in\n"
    assert server.poll() is None, "control: it was in place"
