"""The process that sets an ordinary user's sandboxes apart from later mounts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_arl.agent_client.channel_errors import ChannelLost
from pytest_arl.backends.local.propagation import Propagation
from tests.leftovers import below, look_at, still_alive
from tests.waiting import until

_PROGRAM = """
import sys, time
from pytest_arl.backends.local.propagation import Propagation
propagation = Propagation(privileged=False)
propagation._start()
print("started", flush=True)
time.sleep(1000)
"""


def test_it_ends_with_a_pytest_that_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"started\n"
        assert until(lambda: len(below(process.pid)) == 3, 60), "the program, and the child that waits for an order"
        seen = look_at(process.pid, tmp_path)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert until(lambda: not still_alive(seen), 60)


def test_one_that_has_died_is_an_error_and_the_next_sandbox_has_another() -> None:
    """Asked with a namespace that cannot be entered, for an answer is what counts here."""
    others = _helpers()  # of sandboxes that another test's module or session holds
    propagation = Propagation(privileged=False)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with pytest.raises(OSError, match=r"Operation not permitted|Invalid argument"):
            propagation._ask(namespace)[0]()
        assert propagation._process is not None
        assert propagation._control is not None
        os.kill(propagation._process.pid, signal.SIGKILL)
        poll = select.poll()
        poll.register(propagation._control.fileno(), 0)
        assert poll.poll(60_000), "nobody is at the other end any more"
        with pytest.raises(OSError, match="is gone"):
            propagation._ask(namespace)[0]()
        with pytest.raises(OSError, match=r"Operation not permitted|Invalid argument"):
            propagation._ask(namespace)[0]()
    finally:
        os.close(namespace)
        propagation.close()
    assert until(lambda: _helpers() <= others, 10)


def test_a_sandbox_that_is_gone_is_told_as_one_and_not_as_a_trouble_with_mounts() -> None:
    """Its own last words say why it ended."""
    child = subprocess.Popen(["/bin/true"])
    descriptor = os.pidfd_open(child.pid)
    try:
        child.wait()
        with pytest.raises(ChannelLost, match="ended while it started"):
            Propagation(privileged=True).end(child.pid, descriptor)
    finally:
        os.close(descriptor)


def _helpers() -> set[int]:
    return {pid for pid in below(os.getpid()) if b"propagation_program" in _command(pid)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
