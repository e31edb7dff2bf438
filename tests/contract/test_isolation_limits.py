"""Contract, "Isolation": bombs end the step, not the machine, and the result names the limit."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pytest_arl import SandboxLost
from tests.contract.backends import not_on_a_cluster
from tests.contract.probes import living, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_arl import SandboxSession, StepResult
    from tests.contract.backends import ContractBackend

PATIENCE = 90.0
"""Seconds: a bomb that has not ended by then was not ended by its limit."""

_processes = not_on_a_cluster("how many processes a pod may have is its node's setting (podPidsLimit), not the pool's")
_files = not_on_a_cluster("how many files a process may open in a pod is the runtime's setting, not the pool's")


def _ended_by_a_limit(result: StepResult) -> str:
    """The limit's name, where the step did end by one."""
    assert result.outcome in ("Failed", "Killed", "OutOfMemory"), result
    assert not result.ok
    assert result.limit is not None, result.stderr
    return result.limit


def _named(result: StepResult, again: Callable[[], StepResult]) -> StepResult:
    """The same once more, a few times, while no limit is named: where a look must see it, it can be missed."""
    for _ in range(9):
        if result.limit is None:
            result = again()
    return result


# 17. Processes

_FORKS = {
    "all at once": "import os\nwhile True: os.fork()",
    "deaf to refusal": """
import os, time
while True:
    try: os.fork()
    except OSError: pass
""",
    "from a shell": "import os; os.execv('/bin/sh', ['sh', '-c', 'bomb() { bomb | bomb & }; while :; do bomb; sleep 0.01; done'])",
    "sessions and exits": """
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid(); os.fork()
    except OSError: pass
""",
    "threads": """
import threading, time
while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
""",
}


@_processes
@pytest.mark.parametrize("bomb", _FORKS)
def test_a_fork_bomb_ends_the_step_and_names_the_limit(backend: ContractBackend, bomb: str) -> None:
    with backend.open("crowded") as sandbox:  # whose memory is enough for all of them
        result = python(sandbox, _FORKS[bomb], timeout=PATIENCE)
        if sandbox.isolation != "bwrap+cgroup":
            # Nothing counts refused forks there: a bomb that ends by itself may do so between two looks.
            result = _named(result, lambda: python(sandbox, _FORKS[bomb], timeout=PATIENCE))

        assert _ended_by_a_limit(result) == "processes 40"
        assert living(sandbox) == [], "the sandbox goes on"


def test_as_many_processes_as_the_pool_allows_are_no_bomb(small: SandboxSession) -> None:
    code = """
        import os, time
        children = [pid for _ in range(30) if (pid := os.fork()) or time.sleep(0.2) or os._exit(0)]
        print(sum(os.waitpid(pid, 0)[1] for pid in children), len(children))
    """
    assert python(small, code).check().stdout == "0 30\n"


@_processes
def test_a_program_that_finds_its_bounds_once_may_go_on(small: SandboxSession) -> None:
    code = """
        import os, time
        children = []
        try:
            while True:
                pid = os.fork()
                if pid == 0:
                    time.sleep(0.02); os._exit(0)
                children.append(pid)
        except OSError as error:
            print(error.errno, 25 < len(children) <= 48)
        for pid in children: os.waitpid(pid, 0)
        time.sleep(0.3); print("went on")
    """
    assert python(small, code).check().stdout == "11 True\nwent on\n"


# 17. Memory

_MEMORY = {
    "malloc": "x = []\nwhile {more}: x.append(bytearray(b'x' * (1 << 20)))",
    "many processes": """
import os, time
mine = None
for _ in range({count} // 10):
    if os.fork() == 0:
        mine = bytearray(b'x' * (10 << 20)); time.sleep({pause}); os._exit(0)
status = 0
try:
    while True: status |= os.wait()[1]
except ChildProcessError: pass
os._exit(bool(status))
""",
    "anonymous mapping": """
import mmap
x = []
while {more}:
    x.append(mmap.mmap(-1, 1 << 20)); x[-1].write(b'x' * (1 << 20))
""",
    "shared mappings of many processes": """
import mmap, os, time
for _ in range({count} // 20):
    if os.fork() == 0:
        x = mmap.mmap(-1, 20 << 20); x.write(b'x' * (20 << 20)); time.sleep({pause}); os._exit(0)
status = 0
try:
    while True: status |= os.wait()[1]
except ChildProcessError: pass
os._exit(bool(status))
""",
    "memfd": """
import os
fd = os.memfd_create("bomb")
written = 0
while {more}: written += os.write(fd, b'x' * (1 << 20))
""",
    "files in /dev/shm": """
with open("/dev/shm/bomb", "wb") as file:
    while {more}: file.write(b'x' * (1 << 20))
""",
    "System V shared memory": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
n = 0
while {more}:
    segment = libc.shmget(0, 1 << 20, 0o1600)
    address = libc.shmat(segment, None, 0)
    if segment < 0 or address in (None, 2**64 - 1):
        raise MemoryError(ctypes.get_errno())
    ctypes.memset(address, 1, 1 << 20)
    if n % 8: libc.shmdt(ctypes.c_void_p(address))
    n += 1
""",
}


def _memory(kind: str, count: int, pause: float) -> str:
    """A program that takes ``count`` MiB, then ends well, or so many that it cannot."""
    counter = "import itertools; counter = itertools.count()\n"
    words = {"{more}": f"next(counter) < {count}", "{count}": str(count), "{pause}": str(pause)}
    code = _MEMORY[kind]
    for word, value in words.items():
        code = code.replace(word, value)
    return counter + code


@pytest.mark.parametrize("kind", _MEMORY)
def test_a_memory_bomb_ends_the_step_and_names_the_limit(backend: ContractBackend, kind: str) -> None:
    began = time.monotonic()
    with backend.open("small") as sandbox:
        try:
            result = python(sandbox, _memory(kind, 380, 1), timeout=PATIENCE)
        except SandboxLost as lost:
            # What fills a tmpfs is no process's, and Linux may end the container's PID 1 for it.
            assert not backend.on_this_machine
            assert "OOMKilled" in str(lost)
            return
        limit = _ended_by_a_limit(result)

    assert limit.split()[0] in ("memory", "shm")
    assert limit.split()[1] == "128Mi", "with the pool's value"
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("kind", _MEMORY)
def test_a_program_within_the_limit_is_not_ended(small: SandboxSession, kind: str) -> None:
    assert python(small, _memory(kind, 40, 0.2), timeout=PATIENCE).check().ok


def test_a_step_that_ran_out_of_memory_says_so_and_the_sandbox_goes_on(small: SandboxSession) -> None:
    result = python(small, _memory("malloc", 380, 0), timeout=PATIENCE)

    assert (result.outcome, result.signal, result.exit_code) == ("OutOfMemory", "SIGKILL", 137)
    assert result.limit == "memory 128Mi"
    assert small.run("echo", "alive").stdout == "alive\n"
    assert living(small) == []


_RUNTIMES = {
    "java": ["java", "-version"],
    "node": ["node", "-e", "WebAssembly.instantiate(new Uint8Array([0,97,115,109,1,0,0,0,5,3,1,0,1]))"],
    "gcc": ["sh", "-ec", "echo 'int main(void) { return 0; }' > m.c; gcc -fsanitize=thread m.c -o m; ./m"],
}
"""What reserves much address space and uses little of it, by the program that must be installed."""


@pytest.mark.parametrize("program", _RUNTIMES)
def test_what_reserves_more_than_it_uses_starts_in_the_default_pool(
    sandbox: SandboxSession, tmp_path: Path, program: str
) -> None:
    if not sandbox.run("sh", "-c", f"command -v {program}").ok:
        pytest.skip(f"{program} is not installed")
    result = sandbox.run(*_RUNTIMES[program], timeout=PATIENCE)
    if not result.ok and shutil.which(program):
        outside = subprocess.run(_RUNTIMES[program], cwd=tmp_path, capture_output=True, text=True, check=False)
        if outside.returncode:
            pytest.skip(f"it does not start without a sandbox either: {outside.stderr.strip()[-200:]}")
    result.check()


# 17. Disks


@pytest.mark.parametrize(("folder", "limit"), [("/workspace", "workspace"), ("/tmp", "tmp"), ("/home/arl", "tmp")])
def test_a_full_disk_fails_the_step_and_names_the_limit(small: SandboxSession, folder: str, limit: str) -> None:
    fits = small.run("dd", "if=/dev/zero", f"of={folder}/fits", "bs=1M", "count=4")
    full = small.run("dd", "if=/dev/zero", f"of={folder}/full", "bs=1M", "count=20")
    small.run("rm", f"{folder}/full", f"{folder}/fits").check()

    assert fits.ok, "control"
    assert _ended_by_a_limit(full) == f"{limit} 8Mi"
    assert "No space left on device" in full.stderr
    assert small.run("dd", "if=/dev/zero", f"of={folder}/fits", "bs=1M", "count=4").ok, "the sandbox goes on"


def test_files_without_end_or_content_end_at_a_limit_too(backend: ContractBackend, small: SandboxSession) -> None:
    code = """
        import os
        for number in range({}):
            os.mknod(f"/workspace/{{number}}")
    """
    assert python(small, code.format(500)).ok
    small.run("sh", "-c", "rm -f /workspace/*").check()
    try:
        result = python(small, code.format(1_000_000), timeout=PATIENCE)
    except SandboxLost as lost:
        # As for what fills a tmpfs with content.
        assert not backend.on_this_machine
        assert "OOMKilled" in str(lost)
        return

    assert _ended_by_a_limit(result).split()[0] in ("workspace", "memory")


@pytest.mark.parametrize("folder", ["/dev", "/etc", "/run", "/", "/arl", "/home", "/var", "/dev/pts", "/dev/mqueue"])
def test_nowhere_else_can_a_disk_be_filled(small: SandboxSession, folder: str) -> None:
    result = small.run("dd", "if=/dev/zero", f"of={folder}/file", "bs=1M", "count=20")

    assert not result.ok
    assert "No space left" not in result.stderr, "nothing is written there at all"


# 17. Descriptors


@_files
def test_a_descriptor_leak_fails_the_step_and_names_the_limit(small: SandboxSession) -> None:
    code = """
        import os
        leaked = [os.dup(0) for _ in range({})]
        print(len(leaked))
    """
    assert python(small, code.format(50)).stdout == "50\n", "control"
    result = python(small, code.format(100_000))
    result = _named(result, lambda: python(small, code.format(100_000)))  # nothing counts it, in no tier

    assert _ended_by_a_limit(result) == "files 64"
    assert "Too many open files" in result.stderr
    assert small.run("true").ok


@_files
def test_a_limit_cannot_be_raised_from_inside(small: SandboxSession) -> None:
    code = """
        import resource
        for name in ("NOFILE", "CORE"):
            kind = getattr(resource, "RLIMIT_" + name)
            soft, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (hard, hard))
            try:
                resource.setrlimit(kind, (hard + 1, hard + 1))
            except (ValueError, PermissionError):
                print(name, hard)
    """
    assert python(small, code).check().stdout == "NOFILE 64\nCORE 1\n"


# 17. A limit is named where it was reached

_NOT_REACHED = {
    "a socket that would block": """
import socket
listening = socket.socket(); listening.bind(("127.0.0.1", 0)); listening.listen(); listening.setblocking(False)
listening.accept()
""",
    "a lock that is taken": """
import fcntl
first, second = open("/tmp/lock", "w"), open("/tmp/lock", "w")
fcntl.flock(first, fcntl.LOCK_EX)
fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
""",
    "an exception of the program's own": "raise MemoryError('the table has room for 5 rows')",
    "a test about full disks": "raise AssertionError('expected No space left on device')",
    "a test about descriptors": "raise AssertionError('expected Too many open files')",
    "a test about threads": 'raise AssertionError("expected can\'t start new thread")',
    "a limit of its own for descriptors": """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
while True: os.dup(0)
""",
    "a descriptor that was asked for by its number": """
import os, resource, sys, time
os.dup2(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1)
print("Too many open files", file=sys.stderr, flush=True); time.sleep(0.2); sys.exit(1)
""",
    "a limit of its own for the size of files": """
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
file = os.open("/workspace/large", os.O_WRONLY | os.O_CREAT)
while True: os.write(file, bytes(512))
""",
    "a limit of its own for memory": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
bytearray(2**29)
""",
    "nearly all descriptors": """
import os, resource, sys, time
leaked = [os.dup(0) for _ in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 5)]
print("Too many open files", file=sys.stderr, flush=True); time.sleep(0.2); sys.exit(1)
""",
    "a nearly full disk": """
import os, sys
state = os.statvfs("/workspace")
open("/workspace/large", "wb").write(bytes((state.f_bavail - 1) * state.f_frsize))
sys.exit("No space left on device")
""",
}


@pytest.mark.parametrize("kind", _NOT_REACHED)
def test_no_limit_is_named_that_was_not_reached(small: SandboxSession, kind: str) -> None:
    result = python(small, _NOT_REACHED[kind])

    assert (result.outcome, result.exit_code, result.limit) == ("Failed", 1, None), result.stderr


def test_nothing_that_a_program_says_makes_its_kill_one_for_memory(small: SandboxSession) -> None:
    code = "import os, sys; sys.stderr.write('MemoryError: Cannot allocate memory\\n'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    result = python(small, code)

    assert (result.outcome, result.signal, result.limit) == ("Killed", "SIGKILL", None)


def test_a_disk_that_was_full_for_a_while_is_named_too(small: SandboxSession) -> None:
    code = """
        import os, sys
        try:
            with open("/workspace/large", "wb", 0) as file:
                while True: file.write(bytes(1 << 20))
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        {}
        os.unlink("/workspace/large")
        sys.exit(1)
    """
    for _ in range(2):
        assert python(small, code.format("import time; time.sleep(0.2)")).limit == "workspace 8Mi"
    assert python(small, "raise SystemExit(1)").limit is None, "it is a step's own"


def test_a_patch_that_finds_no_room_names_the_limit(small: SandboxSession) -> None:
    patch = {"type": "FilePatch", "path": "large", "content": "x" * (9 << 20)}
    result = small.execute([patch]).steps[0]

    assert _ended_by_a_limit(result) == "workspace 8Mi"
    assert small.run("df", "--output=used", "/workspace").stdout.split()[-1] == "0", "it is not full any more"


# 17. The machine lives


@_processes
def test_bombs_in_one_sandbox_leave_another_at_ease(backend: ContractBackend) -> None:
    with backend.open("small") as bombed, backend.open("small") as calm:
        process = bombed.start("python3", "-c", _FORKS["deaf to refusal"])
        began = time.monotonic()
        for _ in range(5):
            assert calm.run("sh", "-c", "true | true | echo fine").check().stdout == "fine\n"
        assert time.monotonic() - began < 10
        process.kill()
