"""The agent's port in a pod: whoever is neither the operator nor the holder gets nothing, and keeps nobody out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pytest_arl import SandboxSession
from pytest_arl.cluster import pod
from tests.cluster.installation import Installation

# Everybody that anybody may claim to be, with all that is public in the pod.
_TRY = """
import socket, struct, sys, hashlib
def message(kind, stream, body): return struct.pack("!IBI", len(body), kind, stream) + body
def text(value): return struct.pack("!I", len(value)) + value
def hello(**fields):
    out = b"d" + struct.pack("!I", len(fields))
    for key, value in fields.items():
        out += text(key.encode())
        if isinstance(value, int): out += b"i" + struct.pack("!q", value)
        elif isinstance(value, str): out += b"s" + text(value.encode())
        else: out += b"b" + text(value)
    return out
said = []
for body in (
    hello(version=1, role="operator", epoch=10**12, signature=bytes(256)),
    hello(version=1, role="operator", epoch=0, signature=b"\\xff" * 256),
    hello(version=1, role="holder", secret=b""),
    hello(version=1, role="holder", secret=hashlib.sha256(b"").digest()),
    hello(version=1, role="root"),
    hello(),
):
    peer = socket.create_connection((sys.argv[1], PORT), timeout=10)
    peer.sendall(message(0x40, 0, body))
    answer = b""
    while piece := peer.recv(65536): answer += piece
    size = struct.unpack_from("!I", answer)[0]
    said.append(answer[9 + size + 4])
print(said == [0x4F] * 6, len(said))
""".replace("PORT", str(pod.PORT))

_FLOOD = """
import socket, sys
while True:
    try: socket.create_connection((sys.argv[1], PORT))
    except OSError: pass
""".replace("PORT", str(pod.PORT))

_CROWD = """
import socket, sys, time
peers = []
while True:
    try: peers.append(socket.create_connection((sys.argv[1], PORT), timeout=1))
    except OSError: time.sleep(0.1)
    if len(peers) == 1000: open("/workspace/crowded", "w").close()
""".replace("PORT", str(pod.PORT))


@pytest.fixture
def sandbox(installation: Installation, python_pool: str) -> Iterator[SandboxSession]:
    with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
        yield session


@pytest.fixture
def other(installation: Installation, python_pool: str) -> Iterator[SandboxSession]:
    with SandboxSession(python_pool, namespace=installation.namespace, backend="kubernetes") as session:
        yield session


def address(sandbox: SandboxSession) -> str:
    """Of the sandbox's pod."""
    return sandbox.run("hostname", "-i").stdout.split()[0]


@pytest.mark.parametrize("where", ["127.0.0.1", "::1", "its own", "another's"])
def test_code_in_a_sandbox_is_admitted_to_no_agent(sandbox: SandboxSession, other: SandboxSession, where: str) -> None:
    target = {"its own": address(sandbox), "another's": address(other)}.get(where, where)
    result = sandbox.run("python3", "-c", _TRY, target)
    if where == "::1" and "Cannot assign requested address" in result.stderr:
        pytest.skip("pods have no IPv6 here")

    assert (result.stdout, result.stderr) == ("True 6\n", "")


@pytest.mark.parametrize("attack", [_FLOOD, _CROWD], ids=["flood", "crowd"])
@pytest.mark.parametrize("where", ["its own", "another's"])
def test_a_crowd_at_its_port_keeps_nobody_from_an_agent(
    sandbox: SandboxSession, other: SandboxSession, attack: str, where: str
) -> None:
    victim = sandbox if where == "its own" else other
    with sandbox.start("python3", "-c", attack, address(victim)):
        time.sleep(0.5)
        began = time.monotonic()
        assert victim.run("echo", "on").stdout == "on\n"
        victim.write("file", b"content")  # the first of its kind: the holder comes only now
        assert victim.read("file") == b"content"
        assert time.monotonic() - began < 10


def test_the_agents_variables_and_folder_are_not_the_sandboxs(sandbox: SandboxSession) -> None:
    script = """
env | grep -c ARL_
cat /proc/1/environ /proc/1/mem /proc/1/fd/* 2>&1 | grep -vc "ermission denied"
for folder in /arl-*; do touch $folder/x; done; kill -9 1; kill 1; sleep 0.1; echo on
"""
    result = sandbox.run("sh", "-c", script)

    assert result.stdout == "0\n0\non\n"
    assert "Read-only file system" in result.stderr


_FORGED = """
import ctypes, signal, struct
info = struct.pack("=iiiiiI", signal.SIGTERM, 0, -1, 0, 0, 0) + bytes(104)
assert ctypes.CDLL(None).syscall({"x86_64": 129, "aarch64": 138}[__import__("os").uname().machine], 1, signal.SIGTERM, info) == 0
"""


def test_an_agent_ends_when_the_kubelet_asks_and_not_when_a_step_does(
    installation: Installation, python_pool: str
) -> None:
    """However the runtime sends its signal, it is told from one whose sender a step made up."""
    with SandboxSession(pool_ref=python_pool, backend="kubernetes", namespace=installation.namespace) as sandbox:
        sandbox.run("python3", "-c", _FORGED).check()
        time.sleep(0.2)
        sandbox.run("true").check()
        name = installation.get("sandbox", sandbox._held().sandbox.name)["status"]["podName"]

        began = time.monotonic()
        installation.kubectl("delete", "pod", name, "--grace-period=100", "--wait=true")
        assert time.monotonic() < began + 60, "it was killed when its time was over"
