"""Contract, "Isolation": what of this machine, and of other sandboxes, a sandbox sees."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.backends import not_on_a_cluster
from tests.contract.probes import living, marked, new_marker, on_host, python, start_python
from tests.waiting import until

if TYPE_CHECKING:
    from pytest_arl import SandboxSession
    from tests.contract.backends import ContractBackend


# 15. Nothing of the host

_SEARCH_ENVIRONMENTS = """
import os, sys
needle = sys.argv[1].encode()
found = any(needle in key or needle in value for key, value in os.environb.items())
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            found |= needle in open(f"/proc/{name}/environ", "rb").read()
        except OSError:
            pass
print(found)
"""


def test_the_hosts_environment_is_not_visible(backend: ContractBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = new_marker()
    monkeypatch.setenv("ARL_CONTRACT_SECRET", secret)

    with backend.open() as sandbox:
        inside = python(sandbox, _SEARCH_ENVIRONMENTS, secret).check().stdout
        names = sandbox.run("env").stdout

    assert inside == "False\n"
    assert "ARL_CONTRACT_SECRET" not in names
    assert on_host(_SEARCH_ENVIRONMENTS, secret).stdout == "True\n", "control: a plain child has it"


_SEARCH_ARGUMENTS = """
import os, sys
found = 0
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            found += sys.argv[1].encode() in open(f"/proc/{name}/cmdline", "rb").read()
        except OSError:
            pass
print(found)
"""


def test_the_hosts_processes_are_not_visible(sandbox: SandboxSession) -> None:
    marker = new_marker()
    with subprocess.Popen([sys.executable, "-c", "input()", marker], stdin=subprocess.PIPE) as process:
        inside = python(sandbox, _SEARCH_ARGUMENTS, marker).check().stdout
        outside = on_host(_SEARCH_ARGUMENTS, marker).stdout
        process.communicate(b"\n")

    assert inside == "0\n"
    assert int(outside) >= 1, "control: beside it, on this machine, it is"
    assert (
        python(sandbox, "import os; print([int(n) for n in os.listdir('/proc') if n.isdigit()][:1])").stdout == "[1]\n"
    )


def test_the_hosts_files_are_not_visible(sandbox: SandboxSession) -> None:
    """One that everybody may read, as permissions alone must not be what hides it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        secret = Path(folder, "secret")
        secret.write_text("mine")
        secret.chmod(0o644)
        secret.parent.chmod(0o755)
        ways = [
            str(secret),
            f"/proc/1/root{secret}",
            f"/proc/self/cwd/../..{secret}",
            f"/workspace{'/..' * 30}{secret}",
        ]
        for way in ways:
            assert not sandbox.run("cat", way).ok, way
        assert subprocess.run(["cat", ways[0]], capture_output=True, check=True).stdout == b"mine"


_FILES_BELOW = """
import os, sys
top, shown = sys.argv[1], [path for path in sys.argv[2:] if path]
for folder, folders, files in os.walk(top):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in shown]
    for name in files:
        if os.path.isfile(os.path.join(folder, name)):
            sys.exit(f"there is {os.path.join(folder, name)}")
"""


@not_on_a_cluster("a pod has its image's files: that the node's are no part of them is the container runtime's work")
@pytest.mark.parametrize(
    "which", ["home", "project", "working directory", "/var", "/etc/ssl/private", "/opt", "/srv", "/run", "/boot"]
)
def test_the_hosts_folders_are_not_visible_but_for_the_toolchain(sandbox: SandboxSession, which: str) -> None:
    top = {"home": Path.home(), "project": Path(__file__).parents[2], "working directory": Path.cwd()}.get(
        which, Path(which)
    )
    toolchain = {str(Path(prefix)) for prefix in (sys.prefix, sys.base_prefix)}
    toolchain |= {str(Path(prefix).resolve()) for prefix in toolchain}

    inside = python(sandbox, _FILES_BELOW, str(top), *toolchain)

    assert inside.stderr == ""
    if which in ("home", "project", "working directory") and any(top.iterdir()):
        assert on_host(_FILES_BELOW, str(top), *toolchain).stderr != "", "control: there is something"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/ssh",
        "/etc/machine-id",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/root/.ssh",
        "/sys/class",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/fuse",
        "/dev/kvm",
        "/proc/kcore",
        "/proc/1/root/etc",
    ],
)
def test_the_machines_own_affairs_are_not_visible(backend: ContractBackend, sandbox: SandboxSession, path: str) -> None:
    if not backend.pools_of_this_machine and path in ("/etc/hostname", "/etc/resolv.conf"):
        pytest.skip("a pod has these of its own, from kubelet")
    inside = sandbox.run("sh", "-c", 'ls "$1" && head -c1 "$1" >/dev/null', "sh", path)

    assert not inside.ok
    assert sandbox.run("sh", "-c", 'ls "$1" && head -c1 "$1" >/dev/null', "sh", "/etc/passwd").ok, "control"


@pytest.mark.parametrize("path", ["/usr/bin/env", "/usr", "/etc/passwd", "/lib", "/proc/sys/kernel/hostname", "/"])
def test_the_toolchain_can_be_read_and_not_written(sandbox: SandboxSession, path: str) -> None:
    code = """
        import os, sys
        path = sys.argv[1]
        print(os.access(path, os.R_OK))
        try:
            os.close(os.open(os.path.join(path, "new"), os.O_CREAT | os.O_WRONLY) if os.path.isdir(path)
                     else os.open(path, os.O_WRONLY))
        except OSError as error:
            print(type(error).__name__)
        else:
            print("written")
    """
    readable, written = python(sandbox, code, path).stdout.split()

    assert readable == "True"
    assert written in ("OSError", "PermissionError")
    assert python(sandbox, code, "/workspace").stdout == "True\nwritten\n", "control"


_DESCRIPTORS = """
import os
found = {}
for fd in range(4096):
    try:
        found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass
import json
print(json.dumps(found))
"""


def test_no_descriptor_of_the_host_is_inherited(backend: ContractBackend, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    descriptors = [os.open(secret, os.O_RDONLY), *os.pipe()]
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        with backend.open() as sandbox:
            inside = json.loads(python(sandbox, _DESCRIPTORS).check().stdout)
            agents = python(sandbox, "import os; print(os.listdir('/proc/1/fd'))")
            terminal = sandbox.run("sh", "-c", "echo hello > /dev/tty")
        outside = json.loads(on_host(_DESCRIPTORS, close_fds=False).stdout)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

    assert sorted(inside) == ["0", "1", "2"]
    assert inside["0"] == "/dev/null"
    if not backend.in_gvisor:  # which tells their numbers, and nothing else
        assert "PermissionError" in agents.stderr, "nor can the agent's be looked at"
    assert not terminal.ok, "nor is there a terminal"
    assert str(secret) in outside.values(), "control: a child that closes nothing has it"


_CONNECT = """
import socket, sys
family, address = sys.argv[1:3]
try:
    if family == "tcp":
        socket.create_connection(("127.0.0.1", int(address)), 5).close()
    elif family == "tcp6":
        socket.create_connection(("::1", int(address)), 5).close()
    elif family == "udp":
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect(("127.0.0.1", int(address)))
        s.send(b"hello"); s.recv(1)
    else:
        s = socket.socket(socket.AF_UNIX); s.connect("\\0" + address if family == "abstract" else address)
except OSError as error:
    print(type(error).__name__)
else:
    print("connected")
"""


@contextmanager
def _listening(family: str, tmp_path: Path) -> Iterator[str]:
    """A service of this machine; gives its address."""
    if family == "udp":
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        address = str(server.getsockname()[1])
    elif family in ("tcp", "tcp6"):
        server = socket.socket(socket.AF_INET if family == "tcp" else socket.AF_INET6)
        server.bind(("127.0.0.1" if family == "tcp" else "::1", 0))
        server.listen(8)
        address = str(server.getsockname()[1])
    else:
        server = socket.socket(socket.AF_UNIX)
        address = new_marker() if family == "abstract" else str(tmp_path / "socket")
        server.bind(f"\0{address}" if family == "abstract" else address)
        server.listen(8)
    with closing(server):
        yield address


def _echo(server: socket.socket) -> None:
    try:
        data, sender = server.recvfrom(100)
        server.sendto(data, sender)
    except OSError:
        return


@pytest.mark.parametrize("family", ["tcp", "udp", "abstract", "path"])
def test_the_hosts_loopback_services_and_sockets_are_not_reached(
    sandbox: SandboxSession, tmp_path: Path, family: str
) -> None:
    with _listening(family, tmp_path) as address:
        inside = python(sandbox, _CONNECT, family, address).check().stdout
        outside = on_host(_CONNECT, family, address).stdout

    assert inside.endswith("Error\n")
    assert outside == "connected\n", "control: from this machine it is"


def test_the_sandboxs_own_loopback_works(sandbox: SandboxSession) -> None:
    code = """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname(), 5)
        print("connected")
    """
    assert python(sandbox, code).stdout == "connected\n"


def test_each_sandbox_has_a_hostname_of_its_own_that_results_tell(
    backend: ContractBackend, sandbox: SandboxSession
) -> None:
    ask = "import socket; name = socket.gethostname(); print(name, bool(socket.gethostbyname(name)), end='')"
    with backend.open() as other:
        asked = [(each.run("python3", "-c", ask).check().stdout, each.name) for each in (sandbox, other)]
        sandbox.reset()
        asked.append((sandbox.run("python3", "-c", ask).check().stdout, sandbox.name))
        result = sandbox.execute([{"type": "Command", "command": ["hostname"]}])
    assert asked[0][0] != asked[1][0]
    assert all(said.endswith(" True") for said, _ in asked)
    if (
        backend.pools_of_this_machine
    ):  # a pod, which may have been there before, has the hostname that its cluster gave it
        assert [said for said, _ in asked] == [f"{name} True" for _, name in asked]
        assert result.steps[0].stdout == f"{result.sandbox}\n"


def test_the_hosts_shared_memory_and_names_are_not_visible(backend: ContractBackend, sandbox: SandboxSession) -> None:
    assert sandbox.run("uname", "-n").stdout.strip() != socket.gethostname()
    assert sandbox.run("ls", "-A", "/dev/shm").stdout == ""
    if not backend.in_gvisor:  # which has no such table
        assert len(sandbox.run("cat", "/proc/sysvipc/shm").stdout.splitlines()) == 1
    if backend.pools_of_this_machine:  # a pod's users have the names that its image gives them
        assert sandbox.run("id", "-un").stdout == "arl\n"


_KEYS = """
import ctypes, os, sys
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
user_keyring, revoke = -4, 3
if sys.argv[1] == "add":
    print(libc.syscall(add_key, b"user", sys.argv[2].encode(), b"payload", 7, user_keyring))
    print(sys.argv[2] in open("/proc/keys").read())
else:
    libc.syscall(keyctl, revoke, int(sys.argv[2]))
"""


def test_no_key_of_the_host_is_visible(backend: ContractBackend) -> None:
    """One in the user's own keyring, which every process of that user can search."""
    name = f"arl-contract-{new_marker()}"
    number, seen = on_host(_KEYS, "add", name).stdout.split() or ("-1", "no keyrings here")
    try:
        with backend.open() as sandbox:
            inside = sandbox.run("cat", "/proc/keys").stdout
    finally:
        on_host(_KEYS, "revoke", number)

    assert name not in inside
    assert seen in ("True", "no keyrings here"), "control: other processes of this user see it"


# 15 and 8. Nothing of another sandbox


def test_another_sandboxs_sockets_and_shared_memory_are_not_reached(backend: ContractBackend) -> None:
    marker = new_marker()
    serve = """
        import ctypes, socket, sys, time
        a = socket.socket(socket.AF_UNIX); a.bind("\\0" + sys.argv[1]); a.listen()
        t = socket.create_server(("127.0.0.1", 45678))
        libc = ctypes.CDLL(None)
        assert libc.shmget(4242, 4096, 0o1666) >= 0
        print("ready"); time.sleep(60)
    """
    look = """
        import ctypes, socket, sys
        seen = []
        for family, address in ((socket.AF_UNIX, "\\0" + sys.argv[1]), (socket.AF_INET, ("127.0.0.1", 45678))):
            try:
                socket.socket(family).connect(address); seen.append(family.name)
            except OSError:
                pass
        if ctypes.CDLL(None).shmget(4242, 4096, 0) >= 0: seen.append("shm")
        print(*seen)
    """
    with backend.open() as one, backend.open() as other:
        start_python(one, serve, marker)

        assert python(one, look, marker).stdout == "AF_UNIX AF_INET shm\n", "control: in its own sandbox it is"
        assert python(other, look, marker).stdout == "\n"


def test_another_sandboxs_processes_cannot_be_signalled(backend: ContractBackend) -> None:
    """As root each sandbox has a user of its own; everywhere each has a process table of its own."""
    marker = new_marker()
    kill_all = "import os\nfor pid in range(2, 70000):\n  if pid != os.getpid():\n    try: os.kill(pid, 9)\n    except OSError: pass"
    with backend.open() as one, backend.open() as other:
        start_python(one, "print('ready'); import time; time.sleep(60)", marker)
        python(other, kill_all).check()
        assert marker in "".join(living(one))
        python(one, kill_all)
        assert until(lambda: marker not in "".join(living(one))), "control: in its own sandbox it can"


def test_sandboxes_that_root_starts_have_users_of_their_own(backend: ContractBackend) -> None:
    if not backend.on_this_machine or os.geteuid() != 0:
        pytest.skip("only root can give each sandbox a user of its own")
    with backend.open() as one, backend.open() as other:
        users = {int(sandbox.run("id", "-u").stdout) for sandbox in (one, other)}

    assert len(users) == 2
    assert min(users) >= 0x70000000


# 16. The network

_NETWORK = """
import socket
# veth*: of containers that others start and end meanwhile.
interfaces = sorted(name for _, name in socket.if_nameindex() if not name.startswith("veth"))
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
    route = True
except OSError:
    route = False
print(interfaces, route)
"""


_no_network = not_on_a_cluster("what keeps pods from the network is a NetworkPolicy, which not every cluster enforces")


@_no_network
def test_there_is_no_network_unless_the_pool_allows_it(backend: ContractBackend) -> None:
    with backend.open() as closed, backend.open("connected") as connected:
        inside = python(closed, _NETWORK).check().stdout
        allowed = python(connected, _NETWORK).check().stdout

    assert inside == "['lo'] False\n"
    if backend.on_this_machine:
        assert allowed == on_host(_NETWORK).stdout, "control: a pool may allow it"


@_no_network
def test_a_pool_with_network_reaches_what_others_do_not(backend: ContractBackend, tmp_path: Path) -> None:
    with backend.open() as closed, backend.open("connected") as connected, _listening("tcp", tmp_path) as address:
        assert python(closed, _CONNECT, "tcp", address).stdout != "connected\n"
        if backend.on_this_machine:
            assert python(connected, _CONNECT, "tcp", address).stdout == "connected\n"


@_no_network
def test_a_pool_with_network_gives_up_nothing_else(backend: ContractBackend, tmp_path: Path) -> None:
    secret, marker = tmp_path / "secret", new_marker()
    secret.write_text("mine")
    with backend.open("connected") as sandbox:
        assert not sandbox.run("cat", str(secret)).ok
        with subprocess.Popen([sys.executable, "-c", "input()", marker], stdin=subprocess.PIPE) as process:
            assert python(sandbox, _SEARCH_ARGUMENTS, marker).stdout == "0\n"
            assert marked(marker)
            process.communicate(b"\n")
