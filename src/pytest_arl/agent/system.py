"""Calls of Linux that Python's builtins lack.

System calls go through ``_ctypes`` itself: ``import ctypes`` would cost 3 ms of every sandbox's start.
"""

from __future__ import annotations

import _ctypes
import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Counter",
    "Ints",
    "Longs",
    "become",
    "cpu_seconds",
    "harden",
    "libc",
    "limit",
    "map_numbers",
    "number",
    "open_plain",
    "own_bytes",
    "reset_disk_priority",
    "same_memory",
    "senders",
    "set_limits",
    "settle",
    "signal_fd",
    "subreaper",
    "system_call",
]

_PROT_READ_WRITE, _MAP_SHARED = 3, 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_TIMERSLACK = 29
_TIMERSLACK = 50_000  # nanoseconds: the kernel's default
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_THP_DISABLE = 41
_LAST_CAPABILITY = 63  # more than Linux has; those that are not there answer EINVAL
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: three sets of 64 bits
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_SYS_OPENAT2 = 437  # one number on every architecture: it came after they were unified
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1
_AT_FDCWD = -100
_RESOLVE_NO_SYMLINKS = 0x04
_PROMISED_LIMITS = ("NOFILE", "NPROC", "STACK")
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_SIGINFO_BYTES = 128  # struct signalfd_siginfo
_SENDER = 8  # where its ssi_code and ssi_pid are
_SI_USER = 0


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - the C half of ctypes, half typed
    _type_ = "l"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - as above
    _type_ = "i"


class Ints(_ctypes.Array):  # type: ignore[type-arg]  # as above
    """Size of a struct of numbers: msginfo and seminfo have fewer than that."""

    _type_ = _Int
    _length_ = 16


class Longs(_ctypes.Array):  # type: ignore[type-arg]  # as above
    """A view of a page that is shared with another process."""

    _type_ = _Long
    _length_ = 16


class _Call(_ctypes.CFuncPtr):
    _flags_ = 0x1 | 0x8  # cdecl, and errno is kept
    _restype_ = _Long


_LIBC = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is this program itself


_FAILED = (-1, 0xFFFFFFFF)
"""-1 as a long, and as an int, of which the other half says nothing."""
_functions: dict[str, _Call] = {}


def libc(name: str, *args: object) -> int:
    """A function of the C library; OSError where it answers -1."""
    function = _functions.get(name)
    if function is None:
        function = _functions[name] = _Call(_ctypes.dlsym(_LIBC, name))
    result: int = function(*(_Long(arg) if isinstance(arg, int) else arg for arg in args))
    if result in _FAILED:
        code = _ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def system_call(number: int, *args: object) -> int:
    """One by its number; OSError where it answers -1."""
    return libc("syscall", number, *args)


def harden() -> None:
    """Close the agent to the steps that will run beside it, before anything else is done.

    Not dumpable: /proc/1/{fd,mem,environ}, ptrace and pidfd_getfd are then closed to a process of the same user.
    It is never set back: a moment of it before an exec has exposed the agent's memory. Python's own SIGINT handler
    would make PID 1 killable from inside, where a process without a handler ignores its namespace's signals.
    """
    libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)


def become(uid: int, gid: int, own: int | None = None) -> None:
    """Turn from a privileged process into the plain user that the steps run as; no way back is left.

    ``own`` stays the real and saved user, if it is given: files are reached as ``uid``, and who has none but ``uid``
    cannot send signals here. Needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP in this user namespace.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            libc("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError:
            break  # EINVAL: the kernel's last one was before
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    kept = uid if own is None else own
    os.setresuid(kept, uid, kept)
    libc("capset", pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))  # the inheritable ones would stay
    # The change of user made the kernel set the flag from fs.suid_dumpable, which may be 2.
    libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def subreaper() -> None:
    """Make this process the parent of its orphaned descendants."""
    libc("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_fd(number: int) -> int:
    """A descriptor that is ready when this process was sent that signal, which does nothing else from here on.

    A handler is not told who sent it.
    """
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [number])
    mask = pack("=Q", 1 << (number - 1)) + bytes(120)  # sigset_t of the C library: 1024 bits
    return libc("signalfd", -1, mask, os.O_CLOEXEC | os.O_NONBLOCK)


def senders(fd: int) -> list[int]:
    """The pids, as this namespace has them, of who sent by kill(2) what waits in a descriptor of ``signal_fd``: 0 for
    a process outside.

    Of a signal with any other code the pid says nothing: rt_sigqueueinfo(2) and pidfd_send_signal(2) have it from the
    sender, who may choose every code but that of kill, and fcntl(2) with F_SETSIG leaves it empty.
    """
    try:
        data = os.read(fd, 16 * _SIGINFO_BYTES)
    except BlockingIOError:
        return []
    whole = len(data) - len(data) % _SIGINFO_BYTES  # gVisor writes two bytes more
    sent = [unpack_from("=iI", data, at + _SENDER) for at in range(0, whole, _SIGINFO_BYTES)]
    return [pid for code, pid in sent if code == _SI_USER]


def set_limits(limits: dict[str, int]) -> None:
    """Set resource limits of this process and so of everything it starts. Keys as in RLIMIT_*; never above what is
    allowed. The stack may be raised again, as compilers do for themselves.

    Those that a kernel lets nobody set stay as they are, unless a pool promises them: ValueError.
    """
    import resource  # noqa: PLC0415 - C module, wanted once

    unlimited = resource.RLIM_INFINITY
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(kind)
        bound = hard if value == unlimited else value if hard == unlimited else min(value, hard)
        try:
            resource.setrlimit(kind, (bound, hard if name == "STACK" else bound))
        except ValueError:  # EPERM, though everybody may lower a limit
            if name in _PROMISED_LIMITS:
                raise


def settle() -> None:
    """Give up what this process was handed down and no exec resets: the disk's priority, the precision of timers, huge
    pages switched off, and a personality (``setarch --addr-no-randomize``); as far as the kernel knows of each.
    """
    calls: list[tuple[str, *tuple[int, ...]]] = [
        ("prctl", _PR_SET_TIMERSLACK, _TIMERSLACK, 0, 0, 0),
        ("prctl", _PR_SET_THP_DISABLE, 0, 0, 0, 0),
        ("personality", 0),
    ]
    for call in calls:
        try:
            libc(*call)
        except OSError:
            continue
    reset_disk_priority()


def reset_disk_priority() -> None:
    """Give this process the disk's priority that its nice value means, which every user may, as far as the kernel knows
    of it.
    """
    number = _SYS_IOPRIO_SET.get(os.uname().machine)
    try:
        if number is not None:
            libc("syscall", number, _IOPRIO_WHO_PROCESS, 0, 0)
    except OSError:
        pass


def limit(name: str) -> int:
    """A resource limit of this process, as in RLIMIT_*."""
    import resource  # noqa: PLC0415 - as above

    bound: int = resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0]
    return bound


def same_memory(one: int, other: int) -> bool | None:
    """True if two processes run in one and the same memory, as after vfork; None where that cannot be asked."""
    number = _SYS_KCMP.get(os.uname().machine)
    try:
        return None if number is None else libc("syscall", number, one, other, _KCMP_VM, 0, 0) == 0
    except OSError:
        return None


def open_plain(path: bytes, flags: int, mode: int = 0) -> int:
    """open(2) that follows no symbolic link anywhere in ``path``, so that none of /proc leads to the agent's own
    descriptors.
    """
    how = pack("=QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE_NO_SYMLINKS)
    try:
        return libc("syscall", _SYS_OPENAT2, _AT_FDCWD, path, how, len(how))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


class Counter:
    """A number in a cgroup file such as memory.events, by its key: 0 where it is not there.

    It is asked a few times for each step and hardly ever changes: the same text is not read twice.
    """

    __slots__ = ("_fd", "_key", "_text", "_value")

    def __init__(self, fd: int, key: bytes) -> None:
        self._fd = fd
        self._key = key
        self._text = b""
        self._value = 0

    def value(self) -> int:
        """The number now. OSError where the file is gone."""
        text = os.pread(self._fd, 4096, 0)
        if text != self._text:
            self._text = text
            self._value = 0
            for line in text.splitlines():
                name, _, value = line.partition(b" ")
                if name == self._key:
                    self._value = int(value)
        return self._value


def cpu_seconds(fd: int) -> float:
    """The processor time that a cgroup's cpu.stat (version 2) or cpuacct.usage counts."""
    text = os.pread(fd, 64, 0)
    if text.startswith(b"usage_usec "):
        return int(text.split(None, 2)[1]) / 1e6
    return int(text) / 1e9


def map_numbers(fd: int) -> Any:
    """The first 16 numbers of 64 bits of a memory file, to be read and written like a list: no system call is made, and
    each is one access. OSError where it cannot be mapped.
    """
    return Longs.from_address(libc("mmap", 0, Longs._length_ * 8, _PROT_READ_WRITE, _MAP_SHARED, fd, 0))


def number(fd: int) -> int:
    """The number that a cgroup file such as pids.current holds."""
    return int(os.pread(fd, 32, 0))


def own_bytes(statm: int) -> int:
    """Bytes of its memory that a process shares with no file, by its /proc/PID/statm."""
    fields = os.pread(statm, 256, 0).split()
    return (int(fields[1]) - int(fields[2])) * _PAGE_SIZE
