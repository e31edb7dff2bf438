"""Memory of processes: what fits is left alone and what does not is ended, in every tier, whatever they do meanwhile."""

from __future__ import annotations

import pytest

from pytest_arl import SandboxSession
from tests.attacks.conftest import OpenSandbox, descriptors, python

_HOLD = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
MIB = 2**20
kept = []
def fill(memory):
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
    kept.append(memory)
def private(size):
    fill(mmap.mmap(-1, size * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
def shared(size):
    fill(mmap.mmap(-1, size * MIB))
def written(fd, size):
    for _ in range(size):
        os.write(fd, bytes(MIB))
    kept.append(fd)
def in_shm(size):
    written(os.open("/dev/shm/file", os.O_CREAT | os.O_WRONLY), size)
def memfd(size):
    written(os.memfd_create("file"), size)
def system_v(size):
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(libc.shmget(0, size * MIB, 0o1600), None, 0)
    ctypes.memset(ctypes.c_void_p(at), 1, size * MIB)
def many(size):
    pids = []
    for _ in range(8):
        if not (pid := os.fork()):
            private(size // 8); time.sleep(2); os._exit(0)
        pids.append(pid)
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in pids]))
def copied(size):
    private(size // 8)
    pids = []
    for _ in range(7):
        if not (pid := os.fork()):
            fill(kept[0]); time.sleep(2); os._exit(0)
        pids.append(pid)
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in pids]))
"""


@pytest.mark.parametrize("kind", ["private", "shared", "in_shm", "memfd", "system_v", "many", "copied"])
def test_what_fits_goes_on_and_what_does_not_is_ended_for_memory(sandbox: SandboxSession, kind: str) -> None:
    fits = python(sandbox, _HOLD + f"{kind}(224); time.sleep(0.3)")
    is_too_much = python(sandbox, _HOLD + f"{kind}({320 if kind == 'in_shm' else 1000}); time.sleep(5)")

    assert (fits.outcome, fits.limit) == ("Succeeded", None), fits.stderr
    if kind != "in_shm" or is_too_much.limit != "shm 256Mi":  # which is as large, and may be full a moment before
        assert (is_too_much.outcome, is_too_much.limit) == ("OutOfMemory", "memory 256Mi"), is_too_much.stderr


def test_reserved_addresses_cost_nothing(sandbox: SandboxSession) -> None:
    code = """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    try:
        for _ in range(64): kept.append(mmap.mmap(-1, 2**36, flags))
    except OSError:  # the address space of a user-mode Linux is smaller
        for _ in range(4): kept.append(mmap.mmap(-1, 2**30, flags))
    private({})
    """
    assert python(sandbox, _HOLD + _dedented(code.format(100))).check().ok
    assert python(sandbox, _HOLD + _dedented(code.format(600))).limit == "memory 256Mi"


def test_files_count_against_their_own_sizes_alone(sandbox: SandboxSession) -> None:
    code = """
    for folder, size in (("/workspace", 56), ("/tmp", 28)):
        file = os.open(folder + "/file", os.O_CREAT | os.O_RDWR)
        os.ftruncate(file, size * MIB)
        fill(mmap.mmap(file, size * MIB))
    private(200)
    time.sleep(0.5)
    """
    result = python(sandbox, _HOLD + _dedented(code))
    assert (result.outcome, result.limit) == ("Succeeded", None), result.stderr


def test_a_child_that_has_its_parents_memory_until_its_exec_is_no_second_one(sandbox: SandboxSession) -> None:
    code = """
    os.mkfifo("/tmp/gate")
    if not os.fork():
        children = f"/proc/{os.getppid()}/task/{os.getppid()}/children"
        while len(open(children).read().split()) < 2: time.sleep(0.01)
        time.sleep(1)
        os.open("/tmp/gate", os.O_WRONLY)
        os._exit(0)
    private(170)
    # Like vfork: the child waits for the gate before its exec, and the parent for that.
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, "/tmp/gate", os.O_RDONLY, 0)])
    """
    result = python(sandbox, _HOLD + _dedented(code))

    assert (result.outcome, result.limit) == ("Succeeded", None), result.stderr
    assert result.duration > 1, "control: they were there together"


_SEEMS_TOO_MUCH = """
    file = os.open("/workspace/file", os.O_CREAT | os.O_RDWR)
    os.ftruncate(file, 50 * MIB)
    fill(mmap.mmap(file, 50 * MIB))
    sleepers = []
    for _ in range(2):
        if not (pid := os.fork()):
            time.sleep(60); os._exit(0)
        sleepers.append(pid)
    own, other = sleepers
    os.kill(own, 19)
    os.waitpid(own, os.WUNTRACED)
    for _ in range(8):  # orphans, each with all of the file in its pages
        if not (pid := os.fork()):
            if not os.fork():
                fill(kept[0]); time.sleep(60); os._exit(0)
            os._exit(0)
        os.waitpid(pid, 0)
    stopped = False
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end and not stopped:
        stopped = stopped or os.waitpid(other, os.WCONTINUED | os.WNOHANG)[1] == 0xFFFF
        time.sleep(0.001)
    state = lambda pid: open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    end = time.monotonic() + 20
    while state(other) in "TR" and time.monotonic() < end:
        time.sleep(0.001)  # they go on one after another, and this one may be the first
    print(stopped, state(own), state(other))
"""


def test_what_a_program_has_stopped_itself_stays_so_when_all_was_stopped_for_a_look(
    tier: str, sandbox: SandboxSession
) -> None:
    seconds = "60" if tier == "bwrap+rlimit" else "1.5"  # until it is seen; for as long as it is not to be seen
    result = python(sandbox, _HOLD + _dedented(_SEEMS_TOO_MUCH), seconds).check()

    assert result.stdout.split() == [str(tier == "bwrap+rlimit"), "T", "S"]


def test_very_many_descriptors_do_not_make_the_agent_deaf(open_sandbox: OpenSandbox) -> None:
    code = """
    import resource
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 10
    for _ in range(50):
        if not os.fork():
            for _ in range(most): os.dup(0)
            time.sleep(1000)
    print("ready", flush=True)
    time.sleep(1000)
    """
    sandbox = open_sandbox(f"files = {descriptors(50, 40_000)}\n")
    for timeout in (8, 80):  # a slow machine has not opened them all by then
        result = python(sandbox, _HOLD + _dedented(code), timeout=timeout)
        if result.stdout:
            break

    assert result.stdout == "ready\n"
    assert result.outcome == "TimedOut"
    assert result.duration < timeout + 7, "a look at all of them takes longer"


def test_as_many_busy_processes_as_the_pool_allows_are_no_bomb(sandbox: SandboxSession) -> None:
    code = """
    for _ in range(63):
        if not os.fork():
            end = time.monotonic() + 1
            while time.monotonic() < end: os.getppid()
            os._exit(0)
    print(len([os.wait() for _ in range(63)]))
    """
    assert python(sandbox, _HOLD + _dedented(code)).check().stdout == "63\n"


def _dedented(code: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in code.splitlines()) + "\n"
