"""An agent that listens, PID 1 of a namespace as a pod's container would have it, and those who connect to it."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.agent import auth, frames
from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.agent_client.messages import task_message
from pytest_arl.agent_client.stream import Stream
from pytest_arl.agent_client.task_run import TaskRun
from pytest_arl.agent_package.bundle import REMOTE_BOOT, bundle
from pytest_arl.agent_package.first_stage import first_stage
from pytest_arl.cluster import pod
from tests.agent.harness import BASE_ENV, BUBBLEWRAP, _no_other, command, file_system, task
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.results import StepResult

POD = "0c4e8f7a-5b0e-4f53-9d5c-1f6f4b7a2e11"
LIMIT = 16 << 20
SECRET = hashlib.sha256(b"for tests").digest()
_epochs = itertools.count(1)

# A key pair for tests; `openssl genrsa 2048` makes another.
MODULUS = int(
    "b6d5020ac5814ac558a403d70f7a681a39a02ea7a7b8624c312970be4b86e8697206907c4896b3aac4581463f780f9974588"
    "95491c9c98e32ff90038a0314c4741a9bc2e628538b936782823fcdfb1f5c53ceacfb54c6109e15c9faf9c917601e453fb0b"
    "42381ff0674cdead1df43e097c10729f9253c3f5a46e5383060472031c59a91f7fde180f6c84128a407f9c30c82710b5af6a"
    "9a040158016abcaac302806ae9a6de57ef099737405ddfc0a9f32ae988bdbb0e802993dab6e17a18ef53375e01f5fa256dc7"
    "e48862c3fe93fdb4b154fae8957b8789421f798d1f6567deaeb91d55c661eab72fbd30a3070363597fa2b6cb370ba01b18a0"
    "d07759e83cd3",
    16,
)
_PRIVATE = int(
    "1e110a7c6dfd74a7de8b5e6c4c09d3bbd8552cc6fa707a8dd019e206115296bedc7712e4b5653f17aaa1577d1713393874c1"
    "60d77ca28e0bf2742ee2a1096a635f7b83cc56fc549734cb6ec2784feb2aa12c82eaf484228326f1fdfab9b33c26547fb10d"
    "a96ea465fafeebb1a976e48ad7c1b6afe236ef4762aa980638839ba1fab173d9d7480c94e386c840419f2a255df2a00efcd7"
    "fe7775889d12a50971465f64e2df0663814a5387577c0d922578f80f13778ea05924f9953d7c7ea4b5cc2aa168b6d18efd1c"
    "64252e2ae1b71ccd64808aaa7924917dbb0ee69e2e54dbf5c356a469acc60fa4459b378f4315c04004d131b09f85f64a3592"
    "29feef4c82fd",
    16,
)


def sign(message: bytes, *, modulus: int = MODULUS, private: int = _PRIVATE) -> bytes:
    """RSASSA-PKCS1-v1_5 with SHA-256, as the operator does it."""
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(message).digest()
    size = (modulus.bit_length() + 7) // 8
    encoded = b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info
    return pow(int.from_bytes(encoded, "big"), private, modulus).to_bytes(size, "big")


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


class Client:
    """One connection, frame by frame."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((address, port), timeout=10)
        self._parser = frames.Parser()
        self._found: list[tuple[int, int, Any]] = []

    def receive(self) -> tuple[int, int, Any] | None:
        """The next frame; None where the agent has closed."""
        while not self._found:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._found = self._parser.feed(data)
        return self._found.pop(0)

    def send(self, kind: int, stream: int, value: object) -> None:
        self.socket.sendall(frames.message(kind, stream, value))

    def hello(self) -> dict[str, Any]:
        """What the agent says first."""
        found = self.receive()
        assert found is not None
        assert found[0] == frames.HELLO
        value: dict[str, Any] = found[2]
        return value

    def refusal(self) -> str:
        """Why the agent closes this connection, which it does."""
        found = self.receive()
        assert found is not None, "closed without a word"
        kind, stream, value = found
        assert (kind, stream) == (frames.ERROR, 0), found
        assert self.receive() is None
        text: str = value["text"]
        return text

    def closed(self) -> bool:
        """Whether the agent closes this connection, whatever it says before."""
        while self.receive() is not None:
            pass
        return True

    def close(self) -> None:
        self.socket.close()


def operator_hello(hello: dict[str, Any], epoch: int, **fields: Any) -> dict[str, Any]:
    """What an operator answers to an agent's hello."""
    signature = sign(auth.challenge(hello["nonce"], hello["pod"], hello["boot"], epoch))
    return {"version": 1, "role": "operator", "epoch": epoch, "signature": signature, **fields}


def holder_hello(secret: bytes = SECRET, **fields: Any) -> dict[str, Any]:
    return {"version": 1, "role": "holder", "secret": secret, **fields}


class Agent:
    """One agent, from outside."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], keep: ExitStack) -> None:
        self.port = port
        self.process = process
        self._keep = keep

    def connect(self) -> Client:
        peer = Client(self.port)
        self._keep.callback(peer.close)
        return peer

    def operator(self, epoch: int = 1, *, config: AgentConfig | None = None, **fields: Any) -> Operator:
        """The operator, who configures the agent and says who the holder is."""
        channel = self._channel()
        hello = channel.greet(time.monotonic() + 10)
        told = {"config": (config or AgentConfig(env=BASE_ENV)).message(), "holder": digest(SECRET), **fields}
        channel.introduce(operator_hello(hello, epoch, **told), time.monotonic() + 10)
        return Operator(channel, hello["boot"], epoch)

    def holder(self) -> DirectSandbox:
        """The client that holds the sandbox."""
        channel = self.holder_channel()
        return DirectSandbox(
            channel,
            name="sandbox",
            pool_ref="pool",
            isolation="pod",
            output_limit=LIMIT,
            on_close=lambda: None,
            kill=lambda: None,
            replace=_no_other,
        )

    def holder_channel(self) -> Channel:
        channel = self._channel()
        channel.introduce(holder_hello(), time.monotonic() + 10)
        return channel

    def _channel(self) -> Channel:
        channel = Channel(socket.create_connection(("127.0.0.1", self.port), timeout=10), lost=lambda: "")
        self._keep.callback(channel.close)
        return channel

    @property
    def pid(self) -> int:
        """The agent's, in this namespace."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def lives(self) -> bool:
        return self.process.poll() is None

    def descriptors(self) -> list[str]:
        """What the agent has open. It is not dumpable, so that only root may look."""
        if os.getuid() != 0:
            pytest.skip("only root can see what an agent has open")
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                found.append(str(link.readlink()))
        return found

    def cpu_seconds(self) -> float:
        """What the agent itself has taken of the processor."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that the agent has for itself."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")


class Operator:
    """The operator's end of a connection."""

    def __init__(self, channel: Channel, boot: str, epoch: int) -> None:
        self.channel = channel
        self.boot = boot
        self.epoch = epoch

    def request(self, *steps: dict[str, Any], name: str = "", **fields: Any) -> dict[str, Any]:
        """A TASK's value."""
        timeout = fields.pop("timeout", None)
        limit = fields.pop("limit", LIMIT)
        message = task_message(task(*steps, timeout=timeout, name=name), limit, live=fields.pop("live", False))
        return message | {"boot": self.boot, "epoch": self.epoch} | fields

    def execute(self, *steps: dict[str, Any], name: str = "", **fields: Any) -> list[StepResult]:
        """Run one task and wait for its results."""
        with self.channel.open() as stream:
            stream.send(frames.TASK, self.request(*steps, name=name, **fields))
            return results_of(stream, *steps, limit=fields.get("limit", LIMIT))

    def busy(self) -> bool:
        """Whether a task runs."""
        with self.channel.open() as stream:
            stream.send(frames.PING, {})
            return bool(stream.receive(time.monotonic() + 5)[1]["busy"])

    def run(self, *argv: str, **fields: Any) -> StepResult:
        (result,) = self.execute(command(*argv, **fields))
        return result

    def sh(self, script: str, **fields: Any) -> StepResult:
        return self.run("sh", "-c", script, **fields)

    def python(self, script: str, **fields: Any) -> StepResult:
        return self.run(os.path.realpath(sys.executable), "-I", "-S", "-c", script, **fields)


def results_of(stream: Stream, *steps: dict[str, Any], limit: int = LIMIT) -> list[StepResult]:
    """What a TASK or an ATTACH for these steps answers."""
    results: list[StepResult] = []
    TaskRun(task(*steps), None, results, limit=limit, label=lambda limit: limit).collect(stream)
    return results


def free_port() -> int:
    """A port that nobody has. Whoever takes it meanwhile makes the agent say so."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def agent_of(
    *,
    env: dict[str, str] | None = None,
    extra: tuple[str, ...] = (),
    argv: tuple[str, ...] | None = None,
    files: list[str] | None = None,
    spool: bool = True,
) -> Iterator[Agent]:
    """An agent until the end of the block."""
    port = free_port()
    variables = {
        pod.POD_UID_VARIABLE: POD,
        pod.OPERATOR_KEYS_VARIABLE: pod.keys_variable([(MODULUS, 65537)]),
        "IMAGE": "has this",
        **BASE_ENV,
        **(env or {}),
    }
    with ExitStack() as keep:
        code = _file(bundle(remote=True), keep)
        start = _file(first_stage(os.uname().machine), keep)
        separate = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL"]
        if os.getuid():
            separate.append("--unshare-user")
        line = [BUBBLEWRAP or "bwrap", *separate, "--as-pid-1", "--die-with-parent"]
        line += file_system() if files is None else files
        line += [
            "--tmpfs",
            "/workspace",
            *(["--tmpfs", "/arl-spool"] if spool else []),
            "--ro-bind-data",
            str(code),
            "/agent",
            *("--perms", "0555", "--ro-bind-data", str(start), "/start"),
            *extra,
        ]
        if argv is None:
            argv = ("/start", os.path.realpath(sys.executable), *pod.INTERPRETER_FLAGS, "-c", REMOTE_BOOT, "/agent")
        process = subprocess.Popen(
            [*line, *argv, str(port)],
            pass_fds=[code, start],
            env=variables,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        keep.callback(_end, process)
        until(lambda: process.poll() is not None or _listens(port))
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        yield Agent(port, process, keep)


def _file(content: bytes, keep: ExitStack) -> int:
    """A file without a name that bubblewrap can read."""
    file = os.memfd_create("data")
    keep.callback(os.close, file)
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _listens(port: int) -> bool:
    with suppress(OSError):
        Client(port).close()
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it has taken --die-with-parent along
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
