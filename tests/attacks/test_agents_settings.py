"""What a step could change of the agent beside it, and leave to all later steps, which inherit it."""

from __future__ import annotations

import pytest

from pytest_arl import SandboxSession
from tests.attacks.conftest import python

_CHANGE = """
import ctypes, os, resource

libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

def write(name, text):
    def change(pid):
        file = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
        os.write(file, text)
        os.close(file)
    return change

def lower(name):
    kind = getattr(resource, "RLIMIT_" + name)
    def change(pid):
        _, hard = resource.prlimit(os.getpid(), kind)
        resource.prlimit(pid, kind, (0 if name in ("CORE", "MEMLOCK") else 1 << 30, hard))
    return change

CPUS = os.sched_getaffinity(0)
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
CHANGES = {name: lower(name) for name in ("CORE", "MEMLOCK", "AS", "DATA", "FSIZE", "CPU")}
CHANGES |= {
    "niceness": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 10),
    "affinity": lambda pid: os.sched_setaffinity(pid, {min(CPUS)}),
    "disk": lambda pid: call(IOPRIO_SET, 1, pid, 3 << 13),
    "score": write("oom_score_adj", b"1000"),
    "dump": write("coredump_filter", b"0"),
    "name": write("comm", b"other"),
    "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
}

def changed(pid):
    for name, change in CHANGES.items():
        try:
            change(pid)
        except OSError:
            continue
        yield name

print(*changed(1), flush=True)
if os.fork() == 0:
    print(*changed(os.getpid()), flush=True)
    os._exit(0)
os.wait()
"""
_LOOK = """
import os, resource
for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_")):
    print(name, resource.getrlimit(getattr(resource, name)))
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getaffinity(0))
print(open("/proc/self/oom_score_adj").read(), open("/proc/self/coredump_filter").read(), os.umask(0))
"""


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a server"])
def test_a_step_changes_nothing_of_the_agent_nor_of_later_steps(sandbox: SandboxSession, beside: bool) -> None:
    if beside:
        sandbox.start("sleep", "1000")
    before = python(sandbox, _LOOK).check().stdout

    agents, own = python(sandbox, _CHANGE).check().stdout.splitlines()

    assert agents == ""
    assert {"niceness", "affinity", "disk", "CORE", "FSIZE", "score", "scheduler"}.issubset(own.split()), "control"
    assert python(sandbox, _LOOK).check().stdout == before
