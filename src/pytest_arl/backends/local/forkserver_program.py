"""The fork server's own program: starts processes that are in a given cgroup of version 2 from their first moment.

Started as ``python -I -S -B forkserver_program.py CONTROL OWNER``. CONTROL is a socket of packets: a request has the
numbers that the descriptors are to have, then the command, separated by null bytes, and brings the descriptors along
(cgroup, standard error, and those numbered). The answer is the pid and an error number (0: the program runs).

Linux lets a packet bring 253 descriptors. Where there are more, packets without a command come before: each begins with
how many descriptors its request has sent so far, and is answered by a pid of 0.

The new process is a child of pytest, not of this one (CLONE_PARENT), and is made inside its cgroup (CLONE_INTO_CGROUP):
moving a process costs some 10 ms, for the kernel then waits until all processors have passed a quiet moment. Nothing
imports this; it uses only what an interpreter has built in, for it must be there at once.
"""

import _ctypes
import _signal  # type: ignore[import-not-found]  # has no stub; signal costs 3 ms
import _socket
import fcntl
import os
import resource
import select
import sys
from _struct import iter_unpack, pack
from errno import EMFILE

_SYS_CLONE3 = 435  # one number on every architecture
_CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x2_0000_0000
_MOST = 253  # SCM_MAX_FD, of Linux
_UMASK = 0o022
_SEPARATOR = b"\0"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - the C half of ctypes, half typed
    _type_ = "l"


class _Bytes(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - likewise
    _type_ = "z"


class _Call(_ctypes.CFuncPtr):
    # cdecl, Python's lock is kept, errno is kept: the child begins where the parent was, alone.
    _flags_ = 0x1 | 0x4 | 0x8
    _restype_ = _Long


_syscall = _Call(_ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall"))  # type: ignore[arg-type]  # None: this program


def _clone(cgroup: int) -> int:
    """Fork: 0 in the child, which is in that cgroup."""
    arguments = pack("11Q", _CLONE_PARENT | _CLONE_INTO_CGROUP, 0, 0, 0, 0, 0, 0, 0, 0, 0, cgroup)
    pid: int = _syscall(_Long(_SYS_CLONE3), _Bytes(arguments), _Long(len(arguments)))
    if pid == -1:
        raise OSError(_ctypes.get_errno(), "clone3")
    return pid


def _elsewhere(descriptor: int, taken: set[int]) -> int:
    """A copy whose number is none of those, closed by exec."""
    number = descriptor
    while number in taken:
        number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, number + 1)
    return number


def _run(argv: list[bytes], descriptors: list[int], numbers: list[int], limit: tuple[int, int]) -> None:
    """Become the program, in the child. Raises OSError."""
    os.setsid()
    os.chdir("/")
    os.umask(_UMASK)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores these
        _signal.signal(number, _signal.SIG_DFL)
    for descriptor, number in zip(descriptors, numbers, strict=True):
        os.dup2(descriptor, number, True)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    os.execve(argv[0], argv, {})  # noqa: S606 - that is the purpose


class _Request:
    """The parts of a request that have come.

    Attributes:
        numbers: that the descriptors are to have, but for the cgroup's, which is the first.
        argv: the command; empty while there is more to come.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.numbers: list[int] = []
        self.argv: list[bytes] = []

    def add(self, packet: bytes, descriptors: list[int]) -> None:
        """The next packet of it, or the first one of another: whoever asked for this one has given it up."""
        words, *argv = packet.split(_SEPARATOR)
        sent, *numbers = map(int, words.split())
        if sent != len(self.descriptors):
            self.close()
        self.argv = argv
        self.descriptors += descriptors
        self.numbers += numbers

    def close(self) -> None:
        """It is over."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors, self.numbers, self.argv = [], [], []


def _start(request: _Request, limit: tuple[int, int]) -> tuple[int, int]:
    """The pid (0: none), and an error number."""
    numbers, argv = [2, *request.numbers], request.argv
    cgroup, *descriptors = request.descriptors
    reader, writer = os.pipe()
    try:
        pid = _clone(cgroup)
        if pid == 0:
            taken = set(numbers)
            try:
                writer = _elsewhere(writer, taken)
                _run(argv, [_elsewhere(each, taken) for each in descriptors], numbers, limit)
            except OSError as error:
                os.write(writer, b"%d" % (error.errno or 0))
            os._exit(127)
        os.close(writer)
        writer = -1
        return pid, int(os.read(reader, 16) or 0)  # nothing: exec has closed it
    except OSError as error:
        return 0, error.errno or 0
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _serve(control: _socket.socket, request: _Request, limit: tuple[int, int]) -> bool:
    """One packet; False at the end of the stream."""
    size = _socket.CMSG_SPACE(_MOST * 4)
    packet, ancillary, flags, _ = control.recvmsg(1 << 16, size, _socket.MSG_CMSG_CLOEXEC)
    if packet:
        request.add(packet, [number for _, _, data in ancillary for (number,) in iter_unpack("i", data)])
        answer = 0, 0
        if flags & _socket.MSG_CTRUNC:  # no number was free for the others
            answer = 0, EMFILE
        elif request.argv:
            answer = _start(request, limit)
        if request.argv or answer[1]:
            request.close()
        control.send(b"%d %d" % answer)
    return bool(packet)


def _keep_from_sandboxes(ours: set[int]) -> None:
    """Close what the command before this one left open, as systemd-run may; have exec close what is needed here."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - as in the janitor
        if descriptor in ours:
            os.set_inheritable(descriptor, False)
        elif descriptor > 2:
            try:  # noqa: SIM105 - contextlib costs more than all of this
                os.close(descriptor)
            except OSError:
                pass  # that of the listing


def main(control: _socket.socket, owner: int) -> None:
    """Serve until pytest closes the socket or is dead."""
    _keep_from_sandboxes({control.fileno(), owner})
    for number in (_signal.SIGHUP, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))  # numbers are pytest's, which may raise its own
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(owner, select.POLLIN)
    control.send(b"ready")
    request = _Request()
    while owner not in [ready for ready, _ in poll.poll()]:
        if not _serve(control, request, limit):
            return


if __name__ == "__main__":
    try:
        main(_socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    except OSError:
        os._exit(1)  # pytest is gone
    os._exit(0)
