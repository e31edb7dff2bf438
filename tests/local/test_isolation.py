"""What bubblewrap leaves open by default is closed, and a control beside each check shows that it could have failed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import textwrap
import threading
from pathlib import Path

import pytest

from pytest_arl.backends.base import BackendSandbox
from pytest_arl.backends.local import LocalBackend
from pytest_arl.backends.local.layout import Layout
from pytest_arl.backends.local.namespaces import namespace_arguments
from pytest_arl.backends.local.probe import probe
from tests.local.conftest import AS_ROOT, MakeBackend, acquire, needs_root, python, run, sh


def pid_1(backend: LocalBackend) -> int:
    """The agent of a backend's only sandbox, as this side numbers it."""
    (prepared,) = backend._open.values()
    monitor = prepared.sandbox_process._process.pid
    (child,) = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    return int(child)


def test_a_step_has_no_capability_and_cannot_gain_one(sandbox: BackendSandbox) -> None:
    status = sh(sandbox, "cat /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"


def test_the_agent_starts_with_what_it_needs_to_become_somebody_else_and_no_more() -> None:
    layout = Layout()
    layout.programs()
    arguments = [*namespace_arguments(privileged=AS_ROOT), *map(str, layout.arguments), "--proc", "/proc"]
    status = subprocess.run(
        [probe().bwrap, *arguments, "--", "/bin/cat", "/proc/self/status"], capture_output=True, text=True, check=True
    ).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    chown_setgid_setuid_setpcap = 1 << 0 | 1 << 6 | 1 << 7 | 1 << 8
    for name in ("CapPrm", "CapEff"):  # the bounding set the agent drops itself
        assert int(fields[name], 16) == (chown_setgid_setuid_setpcap if AS_ROOT else 0), name


def test_what_is_not_a_workspace_is_mounted_read_only(sandbox: BackendSandbox) -> None:
    rows = [line.split() for line in sh(sandbox, "cat /proc/self/mountinfo").splitlines()]
    flags = {row[4]: row[5].split(",")[0] for row in rows}
    for path in ("/", "/usr", "/dev", "/proc/sys"):
        assert flags[path] == "ro", path
    for path in ("/workspace", "/tmp", "/home/arl", "/dev/shm"):
        assert flags[path] == "rw", path


@needs_root
def test_as_root_every_sandbox_has_a_uid_that_nobody_else_has(make_backend: MakeBackend) -> None:
    backend = make_backend()
    uids = {int(sh(acquire(backend), "id -u")) for _ in range(3)}
    assert len(uids) == 3
    assert min(uids) >= 0x70000000


@needs_root
def test_as_root_no_user_namespace_maps_a_step_to_root(make_backend: MakeBackend) -> None:
    backend = make_backend()
    sandbox = acquire(backend)
    assert os.readlink(f"/proc/{pid_1(backend)}/ns/user") == os.readlink("/proc/self/ns/user")
    assert sh(sandbox, "cat /proc/self/uid_map").split() == ["0", "0", "4294967295"]
    assert run(sandbox, "sh", "-c", "echo x > /proc/sys/kernel/core_pattern").exit_code != 0


def test_the_kernels_settings_cannot_be_written(sandbox: BackendSandbox) -> None:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/net/ipv4/ip_forward"):
        assert run(sandbox, "sh", "-c", f"echo 0 > {path}").exit_code != 0, path
    # Whatever this kernel has: what can be opened (ns_last_pid, for everybody) refuses its own value.
    written = """
        import os
        for folder, _, names in os.walk("/proc/sys"):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    value = open(path).read()
                except OSError:
                    value = "0"
                try:
                    with open(path, "w") as file:
                        file.write(value)
                except OSError:
                    print("refused")
                else:
                    print("WRITTEN", path)
    """
    said = python(sandbox, textwrap.dedent(written)).stdout.splitlines()
    assert len(said) > 100
    assert set(said) == {"refused"}, [line for line in said if line != "refused"]


@pytest.mark.skipif(not Path("/proc/sys/fs/binfmt_misc").is_dir(), reason="this kernel has no binfmt_misc")
def test_a_sandboxs_look_does_not_make_this_machine_mount_anything(sandbox: BackendSandbox) -> None:
    """systemd mounts binfmt_misc when somebody looks, in or out of a sandbox."""
    rows = [line.split() for line in sh(sandbox, "cat /proc/self/mountinfo").splitlines()]
    reached = {row[4]: (row[row.index("-") + 1], row[5]) for row in rows}  # the last one covers those before
    kind, options = reached["/proc/sys/fs/binfmt_misc"]
    assert kind == "tmpfs"
    assert {"ro", "nosuid"} <= set(options.split(","))
    before = Path("/proc/self/mountinfo").read_text().count(" /proc/sys/fs/binfmt_misc ")
    assert sh(sandbox, "ls -a /proc/sys/fs/binfmt_misc").split() == [".", ".."]
    assert run(sandbox, "touch", "/proc/sys/fs/binfmt_misc/x").exit_code != 0
    assert Path("/proc/self/mountinfo").read_text().count(" /proc/sys/fs/binfmt_misc ") == before


def test_every_folder_that_can_be_written_has_a_bound(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend('[pools.p]\nworkspace = "3Mi"\ntmp = "2Mi"\nmemory = "64Mi"\n'), "p")
    for path, bound in (("/workspace", 3), ("/tmp", 2), ("/home/arl", 2), ("/dev/shm", 64)):
        total = python(sandbox, f"import os; s = os.statvfs('{path}'); print(s.f_blocks * s.f_frsize)").stdout
        assert int(total) == bound * 2**20, path
        assert sh(sandbox, f"echo x > {path}/control && rm {path}/control") == ""
    full = run(sandbox, "dd", "if=/dev/zero", "of=/workspace/full", "bs=1M", "count=10")
    assert full.exit_code == 1
    assert full.limit == "workspace 3Mi"
    found = sh(sandbox, "find / -xdev -writable -type d 2>/dev/null; find /dev -maxdepth 1 -writable -type d")
    assert set(found.split()) <= {"/dev/shm", "/tmp", "/workspace", "/home/arl", "/dev/pts"}  # devpts makes no files


def test_devices_cannot_be_made_or_filled(sandbox: BackendSandbox) -> None:
    assert run(sandbox, "touch", "/dev/new").exit_code == 1
    assert run(sandbox, "mknod", "/tmp/disk", "b", "7", "0").exit_code == 1
    assert sh(sandbox, "echo x > /dev/null && head -c 4 /dev/urandom | wc -c").strip() == "4"
    assert python(sandbox, "import pty; print(pty.openpty() != ())").stdout == "True\n"


def test_nothing_of_the_environment_gets_in(make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARL_TEST_SECRET", "hunter2")
    backend = make_backend('[pools.p]\nenv = { SHOWN = "yes" }\n')
    sandbox = acquire(backend, "p")
    env = sh(sandbox, "env")
    assert "hunter2" not in env
    assert "SHOWN=yes" in env
    assert not {"LC_ALL", "TZ"} & {line.partition("=")[0] for line in env.splitlines()}, "the agent's own"
    if AS_ROOT:  # the agent's and bubblewrap's own are readable to root alone
        assert Path(f"/proc/{pid_1(backend)}/environ").read_bytes() in (b"", b"LC_ALL=C\0TZ=:\0PWD=/workspace\0")
        (prepared,) = backend._open.values()
        assert Path(f"/proc/{prepared.sandbox_process._process.pid}/environ").read_bytes() == b""
    assert run(sandbox, "cat", "/proc/1/environ").exit_code == 1


def test_options_do_not_show_in_ps(make_backend: MakeBackend) -> None:
    backend = make_backend('[pools.p]\nenv = { SHOWN = "hunter2" }\n')
    acquire(backend, "p")
    (prepared,) = backend._open.values()
    words = Path(f"/proc/{prepared.sandbox_process._process.pid}/cmdline").read_bytes().split(b"\0")
    assert words[1] == b"--args"
    assert not any(word.startswith(b"--ro-bind") or b"hunter2" in word for word in words)


@pytest.mark.skipif(not AS_ROOT, reason="only root sees the descriptors of a process that is not dumpable")
def test_the_agent_holds_what_it_needs_and_nothing_else(make_backend: MakeBackend) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    try:
        backend = make_backend()
        sandbox = acquire(backend)
        folder = Path(f"/proc/{pid_1(backend)}/fd")
        held = sorted(os.readlink(path).split(":")[0].split(" ")[0] for path in folder.iterdir())
        files = [path for path in held if path.startswith("/")]
        assert os.readlink(f"/proc/self/fd/{write_end}") not in [os.readlink(path) for path in folder.iterdir()]
        assert held.count("socket") == 2  # the channel, and what holds its uid
        assert files.count("/dev/null") == 3  # one is for the stdin of steps
        assert not any("arl" in path and "memfd" in path and "stderr" not in path for path in files)
        step = sh(sandbox, "ls -l /proc/self/fd | tail -n +2 | wc -l")
        assert int(step) == 4  # its three, and ls's own
    finally:
        os.close(read_end)
        os.close(write_end)


def test_the_agent_is_closed_to_steps(sandbox: BackendSandbox) -> None:
    for path in ("fd", "mem", "maps", "environ", "root", "cwd"):
        assert run(
            sandbox, "sh", "-c", f"ls /proc/self/{path} && ls -l /proc/1/{path}/ && cat /proc/1/{path}"
        ).exit_code
        assert run(sandbox, "ls", f"/proc/self/{path}").exit_code == 0
    for number in (2, 9, 15, 19):
        run(sandbox, "kill", f"-{number}", "1")
    assert sh(sandbox, "echo alive") == "alive\n"


@pytest.mark.parametrize(
    ("call", "control"),
    [
        ("os.sched_setaffinity(1, {0})", "os.sched_setaffinity(0, os.sched_getaffinity(0))"),
        ("os.setpriority(os.PRIO_PROCESS, 1, 19)", "os.setpriority(os.PRIO_PROCESS, 0, 19)"),
        ("os.setpriority(os.PRIO_PGRP, 1, 19)", "os.setpriority(os.PRIO_PGRP, 0, 19)"),
        ("os.setpriority(os.PRIO_USER, os.getuid(), 19)", "os.setpriority(os.PRIO_PROCESS, 0, 19)"),
        (
            "resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
            "resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (30, 30))",
        ),
        (
            "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
            "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
        ),
    ],
)
def test_a_step_cannot_throttle_the_agent(sandbox: BackendSandbox, call: str, control: str) -> None:
    assert python(sandbox, f"import os, resource; {control}").exit_code == 0
    result = python(sandbox, f"import os, resource; {call}")
    assert "PermissionError" in result.stderr


@pytest.mark.parametrize(
    ("call", "control"),
    [
        ("socket.socket(40, 1)", "socket.socket(socket.AF_UNIX)"),
        ("libc('unshare', 0x10000000)", "libc('unshare', 0x400)"),
        ("libc('ptrace', 16, os.getppid(), 0, 0)", "libc('getppid')"),
        ("fcntl.ioctl(pty.openpty()[0], 0x5412, b'x')", "fcntl.ioctl(pty.openpty()[0], 0x5413, bytes(8))"),
        ("libc('mount', b'none', b'/tmp', b'tmpfs', 0, 0)", "os.mkdir('/tmp/control')"),
        ("libc('syscall', {'x86_64': 250, 'aarch64': 219}[os.uname().machine], 0, -3, 1)", "libc('syscall', 39)"),
        ("libc('syscall', 425, 1, 0)", "libc('syscall', 39)"),
        ("libc('process_vm_readv', 1, 0, 0, 0, 0, 0)", "libc('getpid')"),
    ],
)
def test_kernel_interfaces_are_refused(sandbox: BackendSandbox, call: str, control: str) -> None:
    prelude = """
import ctypes, fcntl, os, pty, socket
C = ctypes.CDLL(None, use_errno=True)
def libc(name, *arguments):
    if getattr(C, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
"""
    allowed = python(sandbox, prelude + control)
    assert allowed.exit_code == 0, allowed.stderr
    result = python(sandbox, prelude + call)
    assert any(
        word in result.stderr for word in ("Operation not permitted", "PermissionError", "Errno 97", "[Errno 1]")
    )


def test_processes_of_this_machine_are_not_visible(sandbox: BackendSandbox) -> None:
    pids = [int(pid) for pid in sh(sandbox, "ls /proc").split() if pid.isdigit()]
    assert 1 in pids
    assert len(pids) <= 3


def answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"reached")


def test_loopback_and_abstract_sockets_of_this_machine_are_not_reachable(make_backend: MakeBackend) -> None:
    connect = "import socket; s = socket.socket(socket.{family}); s.connect({address!r}); print(s.recv(9))"
    backend = make_backend('[pools.open]\nnetwork = "host"\n')
    name = f"arl-test-{os.getpid()}"
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"\0{name}")):
        with socket.socket(family) as server:
            server.bind(address)
            server.listen()
            thread = threading.Thread(target=answer, args=(server,))
            thread.start()
            script = connect.format(
                family=family.name, address=server.getsockname() if family == socket.AF_INET else address
            )
            assert python(acquire(backend), script).exit_code == 1
            assert (
                "reached" in python(acquire(backend, "open"), script).stdout
            )  # the control: network = "host" gives it up
            thread.join()


def test_the_network_is_loopback_alone_unless_the_pool_says_host(make_backend: MakeBackend) -> None:
    backend = make_backend('[pools.open]\nnetwork = "host"\n')
    interfaces = "import socket; print(*sorted(name for _, name in socket.if_nameindex()))"
    assert python(acquire(backend), interfaces).stdout == "lo\n"
    opened = acquire(backend, "open")
    for _ in range(50):  # a node's come and go with its pods
        ours = sorted(name for _, name in socket.if_nameindex())
        found = python(opened, interfaces).stdout.split()
        if ours == sorted(name for _, name in socket.if_nameindex()):
            break
    assert found == ours
    assert run(acquire(backend), "cat", "/etc/resolv.conf").exit_code == 1
    if Path("/etc/resolv.conf").exists():
        assert sh(acquire(backend, "open"), "cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text()


def test_two_sandboxes_do_not_see_each_other(make_backend: MakeBackend) -> None:
    backend = make_backend()
    first, second = acquire(backend), acquire(backend)
    sh(first, "touch /workspace/mine /tmp/mine ~/mine /dev/shm/mine")
    assert sh(second, "ls /workspace ~ /dev/shm").count("mine") == 0
    assert sh(first, "ls /workspace ~ /dev/shm").count("mine") == 3
    assert "mine" not in sh(second, "ls /tmp")


def test_a_step_has_the_sandboxs_host_name_user_and_folders(sandbox: BackendSandbox) -> None:
    assert sh(sandbox, "hostname; id -un; pwd; echo ~; stat -c %U /workspace ~ .") == (
        f"{sandbox.name}\narl\n/workspace\n/home/arl\narl\narl\narl\n"
    )


ASK_NAME = "import socket; name = socket.gethostname(); print(name, socket.gethostbyname(name))"


@pytest.mark.parametrize(
    ("pool", "label"),
    [
        ("p", "p"),
        ("Python_3.9 ÜBER/std", "python-3-9-ber-std"),
        ("-a-", "a"),
        ("ü", "sandbox"),
        ("x" * 56, "x" * 56),
        ("x" * 57, "x" * 56),
        ("x" * 55 + "-y", "x" * 55),
        ("line\nbreak\0", "line-break"),
    ],
)
def test_a_sandboxs_name_is_its_hostname_and_a_label_of_the_dns(
    pool: str, label: str, make_backend: MakeBackend
) -> None:
    pools = f"[pools.{json.dumps(pool)}]\n"
    sandbox = acquire(make_backend(pools), pool)
    asked = python(sandbox, ASK_NAME)
    assert asked.stdout == f"{sandbox.name} 127.0.0.1\n", asked.stderr
    assert re.fullmatch(rf"{label}-[0-9a-f]{{6}}", sandbox.name)
    assert len(sandbox.name) <= 63


def test_each_sandbox_has_a_hostname_of_its_own(make_backend: MakeBackend) -> None:
    """Of a warm pool too, and the one that a reset puts in the place of another."""
    backend = make_backend("[pools.p]\nwarm = 1\n")
    sandboxes = [acquire(backend, "p") for _ in range(4)]
    checkpoint = sandboxes[0].checkpoint()
    sh(sandboxes[0], "touch changed")
    sandboxes.append(sandboxes.pop(0).restore(checkpoint))
    asked = [
        sh(sandbox, "hostname; cat /proc/sys/kernel/hostname; grep -o 'p-......$' /etc/hosts") for sandbox in sandboxes
    ]
    assert asked == [f"{sandbox.name}\n" * 3 for sandbox in sandboxes]
    assert len(set(asked)) == len(sandboxes)


def test_git_works_in_the_workspace(sandbox: BackendSandbox) -> None:
    if run(sandbox, "git", "--version").exit_code:
        pytest.skip("no git here")
    sh(sandbox, "git init -q . && git status")


def test_the_python_of_pytest_is_the_first_on_the_path(sandbox: BackendSandbox) -> None:
    import sys

    assert sh(sandbox, "python -c 'import sys, pytest; print(sys.prefix, sys.base_prefix)'").split() == [
        sys.prefix,
        sys.base_prefix,
    ]
    assert sh(sandbox, "command -v python").strip() == f"{sys.prefix}/bin/python"


def test_of_the_python_environment_only_programs_and_libraries_are_there(sandbox: BackendSandbox) -> None:
    import sys

    shown = sh(sandbox, f"ls -A {sys.prefix}").split()
    assert "bin" in shown
    assert all(name in {"bin", "include", "pyvenv.cfg"} or name.startswith("lib") for name in shown)


def test_private_keys_and_accounts_of_this_machine_stay_out(sandbox: BackendSandbox) -> None:
    for path in ("/etc/shadow", "/etc/ssl/private", "/root/.ssh", "/home", "/var/lib", "/sys", "/boot"):
        assert run(sandbox, "sh", "-c", f"ls -A {path} | grep -v '^arl$'").stdout == "", path
    assert sh(sandbox, "wc -l < /etc/passwd").strip() in {"2", "3"}
    assert sh(sandbox, "ls /etc/ssl/certs | wc -l") != "0\n" or not Path("/etc/ssl/certs").exists()


def test_core_dumps_are_not_written(sandbox: BackendSandbox) -> None:
    assert run(sandbox, "sh", "-c", "kill -SEGV $$").exit_code == 139
    assert sh(sandbox, "ls -A") == ""
    assert python(sandbox, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))").stdout == "(1, 1)\n"


def test_the_files_limit_is_the_pools(make_backend: MakeBackend) -> None:
    sandbox = acquire(make_backend("[pools.p]\nfiles = 64\n"), "p")
    assert sh(sandbox, "ulimit -n; ulimit -Hn").split() == ["64", "64"]


def test_setuid_programs_gain_nothing(sandbox: BackendSandbox) -> None:
    uid = sh(sandbox, "id -u").strip()
    for program in ("su", "sudo", "passwd", "mount"):
        assert run(sandbox, "sh", "-c", f"command -v {program} && {program} --help | grep -q '^uid 0'").exit_code != 0
    assert "nosuid" in sh(sandbox, "grep ' /usr ' /proc/self/mountinfo")
    assert sh(sandbox, "id -u").strip() == uid


def test_a_sandbox_does_not_hold_our_terminal_or_session(make_backend: MakeBackend) -> None:
    backend = make_backend()
    acquire(backend)
    (prepared,) = backend._open.values()
    for pid in (prepared.sandbox_process._process.pid, pid_1(backend)):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        session, terminal = int(fields[3]), int(fields[4])
        assert session != os.getsid(0)
        assert terminal == 0


def test_a_zombie_free_end(make_backend: MakeBackend) -> None:
    backend = make_backend()
    sandbox = acquire(backend)
    monitor = next(iter(backend._open.values())).sandbox_process._process.pid
    agent = pid_1(backend)
    sandbox.close()
    for pid in (monitor, agent):
        assert not Path(f"/proc/{pid}").exists()
    assert subprocess.run(["true"], check=True).returncode == 0


def test_what_the_kernel_tells_everybody_is_seen_and_no_more(make_backend: MakeBackend, folder: Path) -> None:
    """As docs/security.md says."""
    (folder / "shown").mkdir()
    sandbox = acquire(make_backend(f'[pools.p]\nmounts = ["{folder}/shown:/shown"]\n'), "p")
    assert sh(sandbox, "cat /proc/cmdline") == Path("/proc/cmdline").read_text()
    for name in ("interrupts", "diskstats", "cpuinfo", "meminfo", "sys/kernel/random/boot_id"):
        assert sh(sandbox, f"cat /proc/{name}")
    assert re.search(r"/shown /shown ", sh(sandbox, "cat /proc/self/mountinfo")), "a mount's source"
    for hidden in ("/sys", "/proc/keys", "/proc/key-users"):
        assert run(sandbox, "cat", hidden).stdout == ""
    refused = run(sandbox, "sh", "-c", "echo > /proc/sys/kernel/pid_max").stderr
    assert "denied" in refused or "Read-only" in refused
