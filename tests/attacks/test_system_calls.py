"""System calls that the filter lets through in part, made for real."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from pytest_arl import SandboxSession
from tests.attacks.conftest import python

_KCMP = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
def kcmp(one, other, kind):
    answer = libc.syscall(number, ctypes.c_long(one), ctypes.c_long(other), ctypes.c_long(kind), 0, 0)
    return errno.errorcode[ctypes.get_errno()] if answer == -1 else str(min(answer, 1))
me = os.getpid()
child = os.fork()
if child == 0:
    os.read(os.pipe()[0], 1)
print(kcmp(me, me, 1), kcmp(me, child, 1), kcmp(1, 1, 1), kcmp(1, me, 1), kcmp(me, 1, 1), kcmp(me, me, 1 << 32 | 1))
print(*(kcmp(me, me, kind) for kind in range(8) if kind != 1), kcmp(me, me, 1 << 32))
os.kill(child, 9)
"""


def test_a_step_compares_memories_of_its_own_processes_and_never_the_agents(sandbox: SandboxSession) -> None:
    memory, other = python(sandbox, _KCMP).check().stdout.splitlines()
    if memory.split()[0] != "ENOSYS":  # a kernel without it
        assert memory.split() == ["0", "1", "EPERM", "EPERM", "EPERM", "0"]
    assert set(other.split()) == {"EPERM"}


_LISTEN = """
import errno, socket, time
def heard(protocol):
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as listening:
            listening.bind((0, 1))
            end = time.monotonic() + 3
            while time.monotonic() < end:
                listening.settimeout(max(0.01, end - time.monotonic()))
                if b"ACTION=" in listening.recv(65536):
                    return "heard"
    except TimeoutError:
        return "nothing"
    except OSError as error:
        return errno.errorcode[error.errno]
    return "nothing"
print(heard(15), heard(0))
"""


def test_a_sandbox_hears_nothing_of_this_machines_devices(sandbox: SandboxSession) -> None:
    trigger = Path("/sys/devices/virtual/mem/null/uevent")
    stop, control = threading.Event(), ""

    def happen() -> None:
        while not stop.wait(0.05):
            trigger.write_text("change")

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as listening:
        listening.bind((0, 1))
        listening.settimeout(10)
        events = threading.Thread(target=happen) if os.access(trigger, os.W_OK) else None
        if events is not None:
            events.start()
            control = listening.recv(65536).decode(errors="replace")
        try:
            said = python(sandbox, _LISTEN).check().stdout.split()
        finally:
            stop.set()
            if events is not None:
                events.join()
    assert said == ["EPROTONOSUPPORT", "nothing"]
    if events is not None:
        assert "change@" in control, "the control: there were events, and this side hears them"


def test_addresses_can_be_asked_for(sandbox: SandboxSession) -> None:
    code = "import socket; socket.socket(16, 3, 0).close(); print(socket.if_nameindex())"
    assert "lo" in python(sandbox, code).check().stdout
