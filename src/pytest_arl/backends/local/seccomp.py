"""The system calls a sandbox may not make, compiled to the program that ``bwrap --seccomp`` loads.

A deny list, because the code under test may be anything: what namespaces and dropped capabilities
leave open is closed here (kernel interfaces with a history of holes, ways to reach the agent from a
step that shares its uid, new namespaces). The policy is the table :data:`POLICY`; everything else in
this module only translates it. 32-bit code is killed, because its calls have other numbers.

Where two words of an argument matter the kernel looks at the lower one only (``pid_t``, ``int``), and so does
every condition here: ``prlimit64(0x1_0000_0001, ...)`` reaches pid 1 and is refused.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_arl.backends.local.syscalls import MACHINES, Architecture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["POLICY", "ArgumentCondition", "Instruction", "Rule", "compile_filter", "filter_bytes", "supported"]

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
_FARTHEST = 255  # instructions that a comparison can leave out
_FEW = 3  # calls that are compared one by one
_OFFSET_NUMBER, _OFFSET_AUDIT, _OFFSET_ARGUMENTS = 0, 4, 16
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_NEW_TIME = 0x80
"""CLONE_NEWTIME: only unshare and clone3 know it, in clone those bits are the exit signal."""
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_F_SETLEASE = 1024
_KCMP_VM = 1
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_AGENT = 1
"""The agent's pid, and its process group: bubblewrap makes a session for it."""


@dataclass(frozen=True, slots=True)
class ArgumentCondition:
    """One test of one argument (its lower 32 bits).

    ``in``: it is one of the values; ``not in``: it is none of them; ``bits``: it has one of these bits.
    """

    argument: int
    test: Literal["in", "not in", "bits"]
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """These calls fail with this errno where every condition holds (none: always)."""

    calls: tuple[str, ...]
    error: int = errno.EPERM
    when: tuple[ArgumentCondition, ...] = ()


def _deny(calls: str, *when: ArgumentCondition, error: int = errno.EPERM) -> Rule:
    return Rule(tuple(calls.split()), error, when)


POLICY: tuple[Rule, ...] = (
    # Other processes' memory and descriptors, the agent's first of all.
    _deny("ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd"),
    # The agent asks which processes are in one memory, for processes that a step could trace anyway: not for the agent.
    # What else it tells, of descriptors and file tables, is of use to attacks on the kernel.
    _deny("kcmp", ArgumentCondition(2, "not in", (_KCMP_VM,))),
    _deny("move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node"),
    # Mounts, roots, namespaces.
    _deny("mount umount2 pivot_root chroot open_tree open_tree_attr move_mount mount_setattr"),
    _deny("fsopen fsconfig fsmount fspick setns open_by_handle_at quotactl quotactl_fd sysfs"),
    _deny("unshare", ArgumentCondition(0, "bits", (_NAMESPACES | _NEW_TIME,))),
    _deny("clone", ArgumentCondition(0, "bits", (_NAMESPACES,))),
    # Its flags lie in memory, where a filter cannot look. ENOSYS makes C libraries use clone.
    _deny("clone3", error=errno.ENOSYS),
    # Kernel interfaces that a sandbox has no business with.
    _deny("add_key request_key keyctl bpf perf_event_open userfaultfd fanotify_init"),
    _deny("io_uring_setup io_uring_enter io_uring_register"),
    _deny("init_module finit_module delete_module create_module get_kernel_syms query_module"),
    _deny("kexec_load kexec_file_load reboot syslog acct swapon swapoff vhangup iopl ioperm"),
    _deny("settimeofday clock_settime clock_adjtime sethostname setdomainname"),
    _deny("uselib _sysctl nfsservctl lookup_dcookie"),
    # A lease makes whoever opens the file wait for 45 s: the agent, another sandbox or this machine in a mount.
    _deny("fcntl", ArgumentCondition(1, "in", (_F_SETLEASE,))),
    # Typing into a terminal, and line disciplines (each a kernel module one could load).
    _deny("ioctl", ArgumentCondition(1, "in", (_TIOCSTI, _TIOCLINUX, _TIOCSETD))),
    # AF_VSOCK reaches the hypervisor, the rest loads modules on demand.
    _deny(
        "socket",
        ArgumentCondition(0, "not in", (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)),
        error=errno.EAFNOSUPPORT,
    ),
    # Addresses and routes. As root, a sandbox would hear of every device of this machine by NETLINK_KOBJECT_UEVENT.
    _deny(
        "socket",
        ArgumentCondition(0, "in", (_AF_NETLINK,)),
        ArgumentCondition(2, "not in", (_NETLINK_ROUTE,)),
        error=errno.EPROTONOSUPPORT,
    ),
    # Steps share the agent's uid: without these they could throttle it, by pid, process group or user.
    _deny(
        "prlimit64 sched_setparam sched_setscheduler sched_setaffinity sched_setattr",
        ArgumentCondition(0, "in", (_AGENT,)),
    ),
    _deny("setpriority", ArgumentCondition(0, "in", (0, 1)), ArgumentCondition(1, "in", (_AGENT,))),
    _deny("setpriority", ArgumentCondition(0, "in", (2,))),
    _deny("ioprio_set", ArgumentCondition(0, "in", (1, 2)), ArgumentCondition(1, "in", (_AGENT,))),
    _deny("ioprio_set", ArgumentCondition(0, "in", (3,))),
)


class Instruction(NamedTuple):
    """A ``struct sock_filter``: jumps count the instructions that are left out."""

    code: int
    if_true: int
    if_false: int
    value: int

    def pack(self) -> bytes:
        """The instruction as in the kernel's memory."""
        return struct.pack("<HBBI", *self)


_Body = tuple[int, list[Instruction]]
"""A call's number, and what answers it; its last instruction returns."""


def _give(value: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, value)


def _condition(condition: ArgumentCondition, skip: int) -> list[Instruction]:
    """Fall through where the condition holds, else skip that many instructions after this block."""
    load = Instruction(_LOAD, 0, 0, _OFFSET_ARGUMENTS + 8 * condition.argument)
    count = len(condition.values)
    if condition.test == "bits":
        return [load, Instruction(_ANY_BIT, 0, skip, condition.values[0])]
    tests = []
    for index, value in enumerate(condition.values):
        left = count - 1 - index
        if condition.test == "not in":
            tests.append(Instruction(_EQUAL, left + skip, 0, value))
        else:
            tests.append(Instruction(_EQUAL, left, skip if left == 0 else 0, value))
    return [load, *tests]


def _rule(rule: Rule) -> list[Instruction]:
    """Return the rule's errno where its conditions hold, else fall out at the end."""
    code = [_give(_ERRNO | rule.error)]
    for condition in reversed(rule.when):
        code = _condition(condition, len(code)) + code
    return code


def _by_call(policy: Iterable[Rule], machine: Architecture) -> Mapping[int, list[Rule]]:
    calls: dict[int, list[Rule]] = {}
    for rule in policy:
        for name in rule.calls:
            if name in machine.numbers:
                calls.setdefault(machine.numbers[name], []).append(rule)
    return calls


def compile_filter(machine: Architecture, policy: Iterable[Rule] = POLICY) -> list[Instruction]:
    """The policy as a program for that machine: check the convention, then compare the call's number."""
    code = [
        Instruction(_LOAD, 0, 0, _OFFSET_AUDIT),
        Instruction(_EQUAL, 1, 0, machine.audit),
        _give(_KILL_PROCESS),
        Instruction(_LOAD, 0, 0, _OFFSET_NUMBER),
    ]
    if machine.foreign_bit is not None:
        code += [Instruction(_AT_LEAST, 0, 1, machine.foreign_bit), _give(_ERRNO | errno.ENOSYS)]
    bodies: list[_Body] = []
    for number, rules in sorted(_by_call(policy, machine).items()):
        body = [instruction for rule in rules for instruction in _rule(rule)]
        if rules[-1].when:
            body.append(_give(_ALLOW))
        bodies.append((number, body))
    return code + _search(bodies)


def _search(bodies: list[_Body]) -> list[Instruction]:
    """Find a call's body by halves. When the kernel loads the filter it tries it for each of its calls: 0.12 ms, where
    one comparison after the other took 0.18 (Linux 6.18, x86_64).
    """
    if len(bodies) <= _FEW:
        code = [_give(_ALLOW)]
        for number, body in reversed(bodies):
            code = [Instruction(_EQUAL, 0, len(body), number), *body, *code]
        return code
    middle = len(bodies) // 2
    low, high = _search(bodies[:middle]), _search(bodies[middle:])
    number = bodies[middle][0]
    if len(low) > _FARTHEST:
        return [Instruction(_AT_LEAST, 0, 1, number), Instruction(_JUMP, 0, 0, len(low)), *low, *high]
    return [Instruction(_AT_LEAST, len(low), 0, number), *low, *high]


def supported(machine: str | None = None) -> bool:
    """True if there is a filter for this machine (None: the one this runs on)."""
    return (machine or os.uname().machine) in MACHINES


def filter_bytes(machine: str | None = None) -> bytes:
    """The program as ``bwrap --seccomp`` reads it."""
    chosen = MACHINES[machine or os.uname().machine]
    return b"".join(instruction.pack() for instruction in compile_filter(chosen))
