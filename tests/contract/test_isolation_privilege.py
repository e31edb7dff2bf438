"""Contract, "Isolation": no privilege, and the agent cannot be touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_arl import SandboxLost
from tests.contract.backends import not_on_a_cluster
from tests.contract.probes import agent_of, living, marked, new_marker, on_host, python, start_python
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import SandboxSession
    from tests.contract.backends import ContractBackend

# 18. Capabilities, setuid


def _status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.parametrize("whose", ["self", "1"])
def test_nobody_in_a_sandbox_has_a_capability_or_can_gain_one(
    backend: ContractBackend, sandbox: SandboxSession, whose: str
) -> None:
    inside = _status(sandbox.run("cat", f"/proc/{whose}/status").check().stdout)
    outside = _status(Path("/proc/self/status").read_text())

    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(inside[kind], 16) == 0, kind
    assert inside["NoNewPrivs"] == "1"
    assert inside["Seccomp"] == ("0" if backend.in_gvisor else "2"), "gVisor is the filter itself"
    assert "0" not in inside["Uid"].split() + inside["Gid"].split() + inside["Groups"].split()
    assert int(outside["CapBnd"], 16) != 0, "control"


_EFFECTIVE = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
for _ in range(100):
    status = open(f"/proc/{process.pid}/status").read()
    if "Name:\\t" + sys.argv[1].rpartition("/")[2] in status:
        break
    time.sleep(0.01)
print(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[2])
process.kill()
"""


def test_a_setuid_program_gains_nothing(sandbox: SandboxSession) -> None:
    su = shutil.which("su")
    if su is None or not os.stat(su).st_mode & 0o4000:
        pytest.skip("no setuid program here that waits for its input")

    inside = python(sandbox, _EFFECTIVE, su).check().stdout
    # From this process, for its interpreter may lie where that user cannot go.
    user = 65534 if os.geteuid() == 0 else os.getuid()
    with subprocess.Popen(
        [su], user=user, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        assert until(lambda: f"Uid:\t{user}\t0\t" in status.read_text()), "control: out here it makes one root"
        process.kill()

    assert inside.strip() == sandbox.run("id", "-u").stdout.strip()


@not_on_a_cluster("a pod's mounts are the runtime's; no_new_privs is what makes setuid mean nothing there")
def test_nothing_is_mounted_in_a_way_that_honours_setuid(sandbox: SandboxSession) -> None:
    mounts = [line.split() for line in sandbox.run("cat", "/proc/self/mounts").check().stdout.splitlines()]

    assert mounts
    # Of two at one place nothing reaches the lower one: below what systemd mounts on demand there is its autofs.
    reached = {mount[1]: mount for mount in mounts}
    for mount in reached.values():
        assert "nosuid" in mount[3].split(","), mount


# 18. System calls: what fails inside with its errno, and works for root (or everybody) out here

_CALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
numbers = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
def call(pair, *args):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(pair[numbers], *words)
    return result if result >= 0 else -ctypes.get_errno()
def forked(function):
    # What may change a process for good is tried in a child.
    r, w = os.pipe()
    if os.fork() == 0:
        try:
            result = function()
        except OSError as error:
            result = -error.errno
        os.write(w, str(result).encode()); os._exit(0)
    os.close(w); os.wait()
    return int(os.read(r, 20))
NEWUSER, NEWNS, NEWPID, NEWNET = 0x10000000, 0x20000, 0x20000000, 0x40000000
unshare, clone, setns, mount, umount = (272, 97), (56, 220), (308, 268), (165, 40), (166, 39)
keyctl, add_key, ptrace, bpf = (250, 219), (248, 217), (101, 117), (321, 280)
io_uring_setup, userfaultfd, perf, chroot, open_tree, fsopen = (425,) * 2, (323, 282), (298, 241), (161, 51), (428,) * 2, (430,) * 2
open_by_handle_at, clone3, pidfd_open, reboot = (304, 265), (435,) * 2, (434,) * 2, (169, 142)
def in_user_namespace(function):
    def both():
        result = call(unshare, NEWUSER | NEWNS)
        return function() if result >= 0 else result
    return forked(both)
def child(result):
    if result == 0: os._exit(0)
    if result > 0: os.waitpid(result, 0x40000000)
    return result
TRIED = {
    "unshare a user namespace": lambda: forked(lambda: call(unshare, NEWUSER)),
    "unshare mounts": lambda: in_user_namespace(lambda: 0),
    "clone into a user namespace": lambda: forked(lambda: child(call(clone, NEWUSER | 17, 0, 0, 0, 0))),
    "clone into a pid namespace": lambda: in_user_namespace(lambda: child(call(clone, NEWPID | 17, 0, 0, 0, 0))),
    "clone3": lambda: forked(lambda: child(call(clone3, (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17), 64))),
    "mount a tmpfs": lambda: in_user_namespace(lambda: call(mount, b"none", b"/tmp", b"tmpfs", 0, 0)),
    "bind": lambda: in_user_namespace(lambda: call(mount, b"/usr", b"/tmp", 0, 4096, 0)),
    "unmount": lambda: in_user_namespace(lambda: call(mount, b"none", b"/tmp", b"tmpfs", 0, 0) and 1 or call(umount, b"/tmp", 0)),
    "open_tree": lambda: in_user_namespace(lambda: call(open_tree, -100, b"/usr", 1)),
    "fsopen": lambda: in_user_namespace(lambda: call(fsopen, b"tmpfs", 0)),
    "chroot": lambda: in_user_namespace(lambda: call(chroot, b"/tmp")),
    "keyctl": lambda: call(keyctl, 0, -4, 1),
    "add_key": lambda: forked(lambda: call(keyctl, 1, 0) and call(add_key, b"user", b"arl", b"x", 1, -3)),
    "io_uring": lambda: call(io_uring_setup, 4, ctypes.create_string_buffer(120)),
    "userfaultfd": lambda: call(userfaultfd, 1),
    "perf_event_open": lambda: call(perf, (ctypes.c_uint32 * 32)(1, 128, 1), 0, -1, -1, 0),
    "bpf": lambda: call(bpf, 0, (ctypes.c_uint32 * 32)(2, 4, 8, 1), 128),
    "be traced": lambda: forked(lambda: call(ptrace, 0, 0, 0, 0)),
    "vsock": lambda: __import__("socket").socket(40, 1).close() or 0,
    "netlink audit": lambda: __import__("socket").socket(16, 3, 9).close() or 0,
    "packet socket": lambda: __import__("socket").socket(17, 3).close() or 0,
    "write core_pattern": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
    "drop the caches": lambda: os.open("/proc/sys/vm/drop_caches", os.O_WRONLY),
    "set the hostname": lambda: __import__("socket").sethostname(__import__("socket").gethostname()) or 0,
    "become root": lambda: forked(lambda: os.setresuid(0, 0, 0) or 0),
    "raise the priority": lambda: forked(lambda: os.nice(-5) and 0),
    "make a device": lambda: os.mknod("/tmp/arl-device-%d" % os.getpid(), 0o20666, os.makedev(1, 5)) or os.unlink("/tmp/arl-device-%d" % os.getpid()) or 0,
}
def tried(name):
    try:
        return TRIED[name]()
    except OSError as error:
        return -error.errno
print(tried(sys.argv[1]))
"""
_FOR_EVERYBODY = [
    "unshare a user namespace",
    "unshare mounts",
    "clone into a user namespace",
    "clone into a pid namespace",
    "clone3",
    "mount a tmpfs",
    "bind",
    "open_tree",
    "fsopen",
    "chroot",
    "keyctl",
    "add_key",
    "io_uring",
    "be traced",
    "netlink audit",
]
_FOR_ROOT = [
    "userfaultfd",
    "bpf",
    "packet socket",
    "write core_pattern",
    "drop the caches",
    "set the hostname",
    "become root",
    "raise the priority",
    "make a device",
]
_ABSENT_IN_SOME_KERNELS = ["vsock", "perf_event_open"]
_ALLOWED_BY_RUNTIMES = ["io_uring", "be traced", "netlink audit", "vsock"]


@pytest.mark.parametrize("what", [*_FOR_EVERYBODY, *_FOR_ROOT, *_ABSENT_IN_SOME_KERNELS])
def test_a_privileged_system_call_is_refused(backend: ContractBackend, sandbox: SandboxSession, what: str) -> None:
    if not backend.on_this_machine and what in _ALLOWED_BY_RUNTIMES:
        pytest.skip("pods have the runtime's own seccomp profile (RuntimeDefault), which may allow it")
    inside = int(python(sandbox, _CALL, what).check().stdout)
    outside = int(on_host(_CALL, what).stdout)

    assert inside < 0, f"{what}: {inside}"
    if what in _FOR_EVERYBODY or (what in _FOR_ROOT and os.geteuid() == 0):
        assert outside >= 0, f"control: out here it is not refused ({os.strerror(-outside)})"


# 18. The agent

_AGENT = """
import ctypes, json, os, resource, signal, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
numbers = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
def call(pair, *args):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    if libc.syscall(pair[numbers], *words) < 0:
        raise OSError(ctypes.get_errno(), "refused")
class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(8)
here = ctypes.byref(iovec(ctypes.addressof(buffer), 8))
# Forked from this process, the child has the same memory at the same place.
there = ctypes.byref(iovec(ctypes.addressof(buffer), 8))
def write(name, data):
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
    os.write(fd, data); os.close(fd)
def attach():
    call((101, 117), 16, pid, 0, 0); os.waitpid(pid, 0); call((101, 117), 17, pid, 0, 0)
TRIED = {
    "list descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
    "open memory": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
    "read maps": lambda: open(f"/proc/{pid}/maps").read(),
    "read environment": lambda: open(f"/proc/{pid}/environ").read(),
    "read executable": lambda: os.readlink(f"/proc/{pid}/exe"),
    "read stack": lambda: open(f"/proc/{pid}/syscall").read(),
    "enter its root": lambda: os.listdir(f"/proc/{pid}/root"),
    "follow its folder": lambda: os.listdir(f"/proc/{pid}/cwd"),
    "ptrace": attach,
    "process_vm_readv": lambda: call((310, 270), pid, here, 1, there, 1, 0),
    "process_vm_writev": lambda: call((311, 271), pid, here, 1, there, 1, 0),
    "pidfd_getfd": lambda: call((438, 438), os.pidfd_open(pid), 0, 0),
    "change its limits": lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    "bind it to a processor": lambda: os.sched_setaffinity(pid, [min(os.sched_getaffinity(0))]),
    "make it idle": lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
    "make it nice": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
    # Of an unused user's processes, of which there is none out here.
    "make the user nice": lambda: os.setpriority(os.PRIO_USER, os.getuid() if pid == 1 else 0x7ffffff0, 19),
    "score it for the OOM killer": lambda: write("oom_score_adj", b"1000"),
    "make it dumpable": lambda: write("coredump_filter", b"0x7f"),
    "join its namespaces": lambda: os.close(os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)),
    "end its timers": lambda: write("timerslack_ns", b"1000000"),
}
refused = []
for name, function in TRIED.items():
    try:
        function()
    except OSError:
        refused.append(name)
print(json.dumps(sorted(refused)))
print(json.dumps(sorted(TRIED)))
if pid != 1:
    os.kill(pid, 9)
"""


_SLOWS_DOWN = {
    "bind it to a processor",
    "change its limits",
    "make it idle",
    "make it nice",
    "make the user nice",
    "make it dumpable",
}
"""What any process may do to another one of its user, as steps in a pod are of the agent's: it reads nothing and forges
nothing."""


_SAYS_LITTLE = {"list descriptors", "join its namespaces"}
"""Things for which gVisor asks no right: the numbers of descriptors, and namespaces that nobody may enter."""


def test_the_agent_can_neither_be_read_nor_traced_nor_throttled(
    backend: ContractBackend, sandbox: SandboxSession
) -> None:
    own = _AGENT.replace("pid = int(sys.argv[1])", "pid = os.fork() or __import__('time').sleep(60)")

    inside = python(sandbox, _AGENT, "1").check().stdout.splitlines()
    outside = on_host(own)

    tried = set(json.loads(inside[1])) - (set() if backend.on_this_machine else _SLOWS_DOWN)
    if backend.in_gvisor:
        tried -= _SAYS_LITTLE
    assert tried <= set(json.loads(inside[0])), "each of them is refused"
    refused_outside = set(json.loads(outside.stdout.splitlines()[0]))
    needs_more = {"make the user nice", "end its timers"}
    assert refused_outside <= needs_more, "control: a child of one's own is open to all others"


def test_no_signal_from_inside_reaches_the_agent(sandbox: SandboxSession) -> None:
    code = """
        import os, signal
        for number in signal.valid_signals():
            os.kill(1, number)
            try: os.kill(-1, number if number not in (9, 19) else 0)
            except ProcessLookupError: pass
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        print("survived")
    """
    result = python(sandbox, code)

    assert result.stdout == "survived\n"
    assert sandbox.run("echo", "agent too").stdout == "agent too\n"


def test_what_a_step_puts_in_the_place_of_dev_null_is_no_later_steps_stdin(sandbox: SandboxSession) -> None:
    """The agent may read its own memory, so a link of a step's that it followed would hand that out."""
    for target in ("/proc/self/maps", "/etc/passwd"):
        sandbox.run("sh", "-c", f"rm -f /dev/null; ln -s {target} /dev/null; true")
        result = sandbox.run("cat")
        assert (result.exit_code, result.stdout) == (0, "")


def test_what_a_step_does_to_its_empty_stdin_no_later_step_finds(sandbox: SandboxSession) -> None:
    code = "import fcntl, os; print(fcntl.fcntl(0, fcntl.F_GETFL) & os.O_NONBLOCK); fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)"
    assert [sandbox.run("python3", "-I", "-c", code).stdout for _ in range(2)] == ["0\n", "0\n"]


def test_what_a_step_prints_or_leaves_open_forges_no_result(sandbox: SandboxSession) -> None:
    """A frame of the agent's protocol is only bytes on a step's streams, and no other stream leads out."""
    from pytest_arl.agent import frames

    forged = frames.message(frames.DONE, 1, {"ran": 1})
    code = """
        import os, sys
        forged = sys.stdin.buffer.read()
        for fd in range(1, 256):
            try: os.write(fd, forged)
            except OSError: pass
        sys.exit(3)
    """
    result = sandbox.run("python3", "-c", "\n".join(line[8:] for line in code.splitlines()), stdin=forged)

    assert (result.outcome, result.exit_code) == ("Failed", 3)
    assert result.stdout_bytes == forged


# 18. Killing the agent


def _needs_processes(backend: ContractBackend) -> None:
    if not backend.on_this_machine:
        pytest.skip("its processes are not on this machine")


def test_killing_the_agent_is_sandbox_lost_and_never_a_success(backend: ContractBackend) -> None:
    _needs_processes(backend)
    marker = new_marker()
    lost: list[int] = []
    with backend.open() as sandbox:

        def kill(_step: str, _stream: str, data: bytes) -> None:
            if b"ready" in data and not lost:
                lost.append(agent_of(marker))
                os.kill(lost[0], 9)

        steps = [
            {"name": "before", "type": "Command", "command": ["echo", "done before"]},
            {"name": "during", "type": "Command", "command": ["sh", "-c", "echo ready; sleep 30; true", marker]},
            {"name": "after", "type": "Command", "command": ["true"]},
        ]
        began = time.monotonic()
        with pytest.raises(SandboxLost) as caught:
            sandbox.execute(steps, on_output=kill)

        assert time.monotonic() - began < 5
        assert "SIGKILL" in str(caught.value)
        partial = caught.value.result
        assert partial is not None
        assert not partial.ok
        assert partial.step("before").stdout == "done before\n"
        assert partial.step("during").stdout == "ready\n", "what it had printed is kept"
        assert partial.step("during").exit_code != 0
        assert until(lambda: marked(marker) == set(), 2)
        with pytest.raises(SandboxLost):
            sandbox.run("true")
        with pytest.raises(SandboxLost):
            sandbox.read("/etc/passwd")
        assert not sandbox.is_open


def test_an_agent_that_is_stopped_is_sandbox_lost_by_the_hosts_own_deadline(backend: ContractBackend) -> None:
    """It cannot report the timeout of its step; the one who asked must not wait for it for ever."""
    _needs_processes(backend)
    marker = new_marker()
    with backend.open() as sandbox:

        def stop(_step: str, _stream: str, data: bytes) -> None:
            if b"ready" in data:
                os.kill(agent_of(marker), 19)

        step = {"type": "Command", "command": ["sh", "-c", "echo ready; sleep 1000; true", marker], "timeout": 2}
        began = time.monotonic()
        with pytest.raises(SandboxLost) as caught:
            sandbox.execute([step], on_output=stop)

        assert time.monotonic() - began < 20
        assert caught.value.result is not None
        assert caught.value.result.steps[0].stdout == "ready\n"
        assert until(lambda: marked(marker) == set(), 2)


def test_losing_one_sandbox_does_not_touch_another(backend: ContractBackend) -> None:
    _needs_processes(backend)
    marker, new = new_marker(), new_marker()
    with backend.open() as one, backend.open() as other:
        start_python(one, "print('ready'); import time; time.sleep(60)", marker)
        start_python(other, "print('ready'); import time; time.sleep(60)", new)
        os.kill(agent_of(marker), 9)

        with pytest.raises(SandboxLost):
            one.run("true")
        assert new in "".join(living(other))


def test_a_background_process_of_a_lost_sandbox_ends_in_sandbox_lost(backend: ContractBackend) -> None:
    _needs_processes(backend)
    marker = new_marker()
    with backend.open() as sandbox:
        process = start_python(sandbox, "print('ready'); import time; time.sleep(60)", marker)
        os.kill(agent_of(marker), 9)

        with pytest.raises(SandboxLost):
            process.wait(10)
        assert until(lambda: marked(marker) == set())


def test_only_its_parts_run_out_here(backend: ContractBackend, sandbox: SandboxSession) -> None:
    """No helper of a sandbox runs as root out here where the sandbox does not."""
    _needs_processes(backend)
    marker = new_marker()
    start_python(sandbox, "print('ready'); import time; time.sleep(60)", marker)
    agent = agent_of(marker)

    status = _status(Path(f"/proc/{agent}/status").read_text())

    assert int(status["CapEff"], 16) == 0
    assert int(status["Uid"].split()[0]) != 0
    assert subprocess.run(["cat", f"/proc/{agent}/comm"], capture_output=True, check=True).stdout
