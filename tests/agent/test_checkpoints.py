"""Checkpoints: files as they were, also under a server that was there before, and nothing that came since."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pytest_arl.agent import frames
from pytest_arl.agent_client.channel_errors import AgentError
from pytest_arl.agent_client.checkpoints import AgentCheckpoint
from pytest_arl.agent_client.running_process import AgentProcess
from tests.agent.harness import Sandbox, sandbox_of
from tests.waiting import until

Mark = Callable[[], AgentCheckpoint]


@pytest.fixture
def server(sandbox: Sandbox) -> AgentProcess:
    """Makes a checkpoint one that is returned to in place."""
    process = sandbox.start("sh", "-c", "exec 3< kept; echo ready; while read line; do cat <&3; echo $line; done")
    assert until(lambda: process.output("stdout"))
    return process


@pytest.fixture
def mark(sandbox: Sandbox) -> Iterator[Callable[[], AgentCheckpoint]]:
    """Makes checkpoints that are closed after the test."""
    with ExitStack() as keep:

        def make() -> AgentCheckpoint:
            checkpoint = sandbox.handle.checkpoint()
            keep.callback(checkpoint.close)
            return checkpoint

        yield make


@pytest.fixture(autouse=True)
def _files(sandbox: Sandbox) -> None:
    sandbox.sh(
        "mkdir -p d/e; echo kept > kept; echo old > changed; echo old > d/e/removed; ln -s kept link; chmod 640 changed"
    )


def listing(sandbox: Sandbox) -> str:
    return sandbox.sh(
        "cd /; find workspace tmp home/arl dev/shm -not -type d -printf '%p %m %l\\n' | sort; cat /workspace/changed"
    ).stdout


CHANGES = {
    "a new file": "touch new",
    "a new folder": "mkdir -p n/e/w; touch n/e/w/f",
    "a deep folder": "p=.; for i in $(seq 300); do p=$p/d; done; mkdir -p $p; touch $p/f",
    "in /tmp and home": "touch /tmp/x /home/arl/y /dev/shm/z",
    "other content": "echo new > changed",
    "the same content again": "cp changed c; cat c > changed",
    "another mode": "chmod 777 changed",
    "a set-back time": "cp -p changed c; echo evil > changed; touch -r c changed; rm c",
    "a removed file": "rm changed d/e/removed",
    "a removed folder": "rm -r d",
    "a file that is a folder": "rm changed; mkdir changed; touch changed/x",
    "a folder that is a file": "rm -r d; touch d",
    "a folder that is a link": "rm -r d; mkdir /tmp/elsewhere; ln -s /tmp/elsewhere d; touch d/x",
    "a link that is a file": "rm link; echo x > link",
    "a link elsewhere": "ln -sf changed link",
    "a closed folder": "mkdir -p n/m; touch n/m/f; chmod 000 n/m n",
    "a new file in a closed folder": "touch d/new; chmod 555 d",
    "a folder closed for good": "chmod 000 d",
    "a file in a folder closed for good": "echo more >> d/e/removed; chmod 000 d/e d",
    "a new file in a folder closed for good": "touch d/new d/e/new; chmod 000 d/e d",
    "a removed file in a folder closed for good": "rm d/e/removed; chmod 000 d/e d",
    "a FIFO and a socket": "mkfifo fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")' || mkfifo s",
    "odd names": "touch -- '-rf *' \"$(printf 'new\\nline')\" \"$(printf '\\377')\"",
    "a hard link": "ln changed other; echo more >> other",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_returning_in_place_undoes(sandbox: Sandbox, server: AgentProcess, mark: Mark, change: str) -> None:
    before = listing(sandbox)
    checkpoint = mark()
    sandbox.sh(change)
    assert sandbox.handle.restore(checkpoint) is sandbox.handle

    assert listing(sandbox) == before
    assert server.wait(0) is None


def test_the_server_keeps_the_files_that_it_has_open(sandbox: Sandbox, server: AgentProcess, mark: Mark) -> None:
    checkpoint = mark()
    inode = sandbox.run("stat", "-c", "%i", "kept").stdout
    sandbox.sh("echo new > changed; rm -r d")
    sandbox.handle.restore(checkpoint)

    assert sandbox.run("stat", "-c", "%i", "kept").stdout == inode
    server.write(b"hello\n")
    assert until(lambda: server.output("stdout") == b"ready\nkept\nhello\n")


def test_processes_that_came_since_are_gone_and_those_before_are_not(
    sandbox: Sandbox, server: AgentProcess, mark: Mark
) -> None:
    checkpoint = mark()
    late = sandbox.start("sh", "-c", "trap '' TERM; setsid sleep 100 & sleep 100")
    sandbox.handle.restore(checkpoint)

    assert "sleep" not in sandbox.processes()
    assert server.wait(0) is None
    result = late.wait(0)
    assert result is not None
    assert result.outcome == "Killed"


def test_shared_memory_that_came_since_is_gone(sandbox: Sandbox, server: AgentProcess, mark: Mark) -> None:
    checkpoint = mark()
    made = sandbox.sh("ipcmk -M 4096 -p 0600 && ipcmk -Q && ipcmk -S 1")
    if not made.ok:
        pytest.skip("ipcmk is not installed")
    count = "cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | grep -vc key"
    assert sandbox.sh(count).stdout == "3\n"
    sandbox.handle.restore(checkpoint)

    assert sandbox.sh(count).stdout == "0\n"


def test_a_checkpoint_can_be_returned_to_repeatedly(sandbox: Sandbox, server: AgentProcess, mark: Mark) -> None:
    checkpoint = mark()
    before = listing(sandbox)
    for turn in range(4):
        sandbox.sh(f"echo {turn} > changed; touch new{turn}; rm link")
        sandbox.handle.restore(checkpoint)
        assert listing(sandbox) == before


def test_returning_leaves_no_descriptor_and_no_temporary_file(
    sandbox: Sandbox, server: AgentProcess, mark: Mark
) -> None:
    checkpoint = mark()
    before = sandbox.descriptors()
    for _ in range(3):
        sandbox.sh("echo x > changed")
        sandbox.handle.restore(checkpoint)

    assert sandbox.descriptors() == before
    assert sandbox.sh("find / -xdev -name '.arl*' 2>/dev/null").stdout == ""


def test_without_living_processes_a_fresh_sandbox_gets_the_files(sandbox: Sandbox, mark: Mark) -> None:
    checkpoint = mark()
    before = listing(sandbox)
    sandbox.sh("echo new > changed; touch new")
    with sandbox_of() as fresh:
        sandbox.handle._replace = lambda: fresh.handle
        used = sandbox.handle.restore(checkpoint)

        assert used is fresh.handle
        assert listing(fresh) == before
        assert not sandbox.handle.alive()


def test_a_fresh_sandbox_that_cannot_be_filled_is_closed_and_the_old_one_is_not(sandbox: Sandbox, mark: Mark) -> None:
    sandbox.sh("head -c 5000000 /dev/zero > big")
    checkpoint = mark()
    with sandbox_of(workspace=1 << 20) as fresh:
        sandbox.handle._replace = lambda: fresh.handle
        with pytest.raises(OSError, match="No space"):
            sandbox.handle.restore(checkpoint)

        assert not fresh.handle.alive()
    assert sandbox.run("true").ok


def test_an_untouched_sandbox_is_its_own_fresh_one(bubblewrap: str) -> None:
    with sandbox_of() as sandbox:
        checkpoint = sandbox.handle.checkpoint()
        began = time.monotonic()
        assert sandbox.handle.restore(checkpoint) is sandbox.handle
        assert time.monotonic() - began < 0.01


def test_a_checkpoint_of_something_else_is_a_usage_error(sandbox: Sandbox, mark: Mark) -> None:
    class Other:
        def close(self) -> None:
            pass

    with pytest.raises(Exception, match="not a checkpoint of this backend"):
        sandbox.handle.restore(Other())


def test_a_closed_checkpoint_is_forgotten_by_the_agent(sandbox: Sandbox, server: AgentProcess, mark: Mark) -> None:
    sandbox.sh("for i in $(seq 3000); do : > some-rather-long-name-of-a-file-$i; done")
    for _ in range(3):
        mark().close()
    before = sandbox.memory()
    for _ in range(10):
        mark().close()

    assert sandbox.memory() < before + 3_000_000
    with pytest.raises(AgentError, match="malformed"):
        sandbox.ask(frames.RESET, {"do": "return", "id": mark().number - 1, "keep": []})


def test_closing_a_checkpoint_twice_or_after_its_sandbox_is_no_error(
    sandbox: Sandbox, server: AgentProcess, mark: Mark
) -> None:
    checkpoint = mark()
    sandbox.handle.close()
    checkpoint.close()
    checkpoint.close()
