"""Makes the mounts of a sandbox private, from within its mount namespace: :func:`make_private`.

The program is for an ordinary user, whose sandboxes have user namespaces. Started as
``python -I -S -B propagation_program.py CONTROL OWNER``. CONTROL is a socket of packets: a request brings the mount
namespace along, and a socket for the answer, which is an error number (0: done). A process that has entered a user
namespace cannot come back, so a child does each, which is made before it is wanted. It uses only what an interpreter
has built in, for it must be there at once.
"""

import _ctypes
import _socket
import fcntl
import os
import select
import sys
from _struct import unpack

_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWUSER = 0x200, 0x20000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_NS_GET_USERNS = 0xB701


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - the C half of ctypes, half typed
    _type_ = "l"


class _Bytes(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001 - likewise
    _type_ = "z"


class _Call(_ctypes.CFuncPtr):
    _flags_ = 0x1 | 0x8  # cdecl, and errno is kept
    _restype_ = _Long


def _call(name: str, *arguments: int | bytes | None) -> None:
    function = _Call(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]  # None: this program
    if function(*(_Long(each) if isinstance(each, int) else _Bytes(each) for each in arguments)) == -1:
        error = _ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def make_private(namespace: int, *, of_user: bool) -> None:
    """Enter a mount namespace for good, and make all mounts in it private; raises OSError.

    ``of_user``: first the user namespace that it belongs to. The thread must have no use for its working directory
    afterwards; it shares that with no other from here on.
    """
    if of_user:
        _call("setns", fcntl.ioctl(namespace, _NS_GET_USERNS), _CLONE_NEWUSER)
    _call("unshare", _CLONE_FS)
    _call("setns", namespace, _CLONE_NEWNS)
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)


def _serve(control: _socket.socket, ends: tuple[int, ...]) -> bool:
    """One request; False where there will be no more, as one of these processes has ended."""
    poll = select.poll()
    for descriptor in (control.fileno(), *ends):
        poll.register(descriptor, select.POLLIN)
    if any(ready in ends for ready, _ in poll.poll()):
        return False
    request, ancillary, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
    if not request:
        return False
    ((_, _, received),) = ancillary
    namespace, answering = unpack("2i", received)
    answer = 0
    try:
        make_private(namespace, of_user=True)
    except OSError as error:
        answer = error.errno or 1
    try:  # noqa: SIM105 - contextlib costs more than all of this
        os.write(answering, b"%d" % answer)
    except OSError:
        pass  # nobody waits for it any more
    return True


def main(control: _socket.socket, owner: int) -> None:
    """Serve until pytest closes the socket or is dead."""
    ends = owner, os.pidfd_open(os.getpid())
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if _serve(control, ends) else 1
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            return


if __name__ == "__main__":
    main(_socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
