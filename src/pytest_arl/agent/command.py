"""A program, found and started."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import errno
import os
from _struct import pack, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CannotStart", "find_program", "run_as", "spawn", "start_at_default"]

_LONGEST_NAME = 4096  # bytes of a word that messages quote
_IGNORED = [
    number
    for number in _signal.valid_signals()
    if number == _signal.SIGPIPE or _signal.getsignal(number) == _signal.SIG_IGN
]
"""Signals at their default in programs. Python ignores some, the agent SIGPIPE, and whoever started the agent may
have ignored others (nohup does). What is not ignored, an exec sets back by itself.
"""
_KIND, _NAMED_PIPE = 0o170000, 0o010000  # of st_mode

_user: int | None = None
"""The user of programs, where the agent's real user is another."""


def start_at_default(numbers: Iterable[int]) -> None:
    """Have programs start with these signals at their default too: the agent has come to ignore them."""
    _IGNORED.extend(numbers)


def run_as(user: int) -> None:
    """Have programs run as the agent's effective user, which is not its real one."""
    global _user  # noqa: PLW0603 - of this process, as its users are
    _user = user


class CannotStart(Exception):
    """The program never ran. ``code`` is the exit code that a shell would give: 127 not found, 126 found but not
    to be run.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def find_program(name: bytes, path: bytes) -> bytes:
    """The file that a command's first word means, looked up in ``path`` (the PATH of the step) from the current
    folder.
    """
    if b"/" in name:
        if _is_named_pipe(name):  # Linux refuses to execute one, gVisor waits for who writes to it
            raise CannotStart(126, _text(name) + ": Permission denied")
        return name
    candidates = [(folder or b".") + b"/" + name for folder in path.split(b":")]
    for candidate in candidates:
        # access first: it says of most that they are not there, and raises nothing for that.
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    denied = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if denied is not None:
        raise CannotStart(126, _text(denied) + ": Permission denied")
    raise CannotStart(127, _text(name) + ": command not found (PATH is " + _text(path) + ")")


def _is_named_pipe(name: bytes) -> bool:
    try:
        return os.stat(name).st_mode & _KIND == _NAMED_PIPE
    except OSError:
        return False


def spawn(
    argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, stdio: tuple[int, int, int], oom: Callable[[bytes], None]
) -> int:
    """Start a program in a session of its own and give its pid. CannotStart says why it did not.

    posix_spawn shares the agent's memory until the exec, which costs a third of a fork. The agent has no threads,
    so its own working directory and OOM score can stand in for the child's meanwhile.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise CannotStart(126, "work_dir " + _text(cwd) + ": " + _reason(error)) from None
    try:
        program = find_program(argv[0], env.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin"))
        oom(b"1000")
        try:
            if _user is not None:
                return _fork(_user, program, argv, env, stdio)
            return os.posix_spawn(
                program,
                argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)],
                setsid=True,
                setsigmask=(),
                setsigdef=_IGNORED,
            )
        finally:
            oom(b"0")
    except OSError as error:
        raise _cannot_start(program, error) from None
    except ValueError as error:  # a NUL byte, or a variable without a name
        raise CannotStart(126, str(error)) from None
    finally:
        os.chdir("/")


def _fork(user: int, program: bytes, argv: list[bytes], env: dict[bytes, bytes], stdio: tuple[int, int, int]) -> int:
    """Start a program as another real user, which posix_spawn cannot. The pipe ends with the exec, or says why not."""
    report, said = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _become_program(said, user, program, argv, env, stdio)
        os.close(said)
        said = -1
        problem = os.read(report, 4)
    finally:
        for fd in (report, said):
            if fd >= 0:
                os.close(fd)
    if problem:
        os.waitpid(pid, 0)
        code = unpack("=i", problem)[0]
        raise OSError(code, os.strerror(code))
    return pid


def _become_program(
    said: int, user: int, program: bytes, argv: list[bytes], env: dict[bytes, bytes], stdio: tuple[int, int, int]
) -> None:
    """Do in the child as posix_spawn does. Never returns."""
    try:
        os.setresuid(user, user, user)
        os.setsid()
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        for number in _IGNORED:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.execve(program, argv, env)  # noqa: S606 - a Command is an argv
    except OSError as error:
        os.write(said, pack("=i", error.errno or errno.EIO))
    except ValueError:  # a NUL byte, or a variable without a name
        os.write(said, pack("=i", errno.EINVAL))
    finally:
        os._exit(127)


def _cannot_start(program: bytes, error: OSError) -> CannotStart:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.lexists(program):
            return CannotStart(126, _text(program) + ": found, but its interpreter or loader is missing")
        return CannotStart(127, _text(program) + ": " + _reason(error))
    return CannotStart(126, _text(program) + ": " + _reason(error))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _text(raw: bytes) -> str:
    return raw[:_LONGEST_NAME].decode("utf-8", "replace")
