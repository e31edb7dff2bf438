"""The agent's start: close up, introduce itself, become what the host says, serve."""

from __future__ import annotations

import os
import select
import sys

from pytest_arl.agent import command, frames, landlock, system, tree, unshielded
from pytest_arl.agent.connection import Connection
from pytest_arl.agent.loop import READ, Loop
from pytest_arl.agent.parts import AgentParts
from pytest_arl.agent.task_registry import TaskRegistry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_arl.agent.message_types import Config, Hello, Refusal

__all__ = ["EX_SOFTWARE", "described", "main", "oom_score"]

EX_SOFTWARE = 70
EX_OSERR = 71


def main(fd: int, owner: int | None = None) -> None:
    """Serve the host at the other end of ``fd``; never returns.

    ``owner`` is a pidfd of the process that made the sandbox. The agent ends with it, from the first moment on: a child
    of that process may hold a copy of our stream's other end, so that the stream would not.
    """
    oom = oom_score()
    system.harden()
    wait = Loop()
    parts = AgentParts(wait, oom)
    link = Connection(parts, TaskRegistry(parts), fd, _host_gone).link
    wait.after = link.flush
    try:
        config = _introduce(fd, owner)
        _become(config, fd, owner)
        parts.configure(config)
        if owner is not None:
            wait.add(owner, READ, lambda _events: os._exit(0))
        watch = config.get("watch")
        if watch is not None:
            # Without whoever watches its memory nothing here would be bounded any more.
            wait.add(watch["watcher_fd"], READ, lambda _events: os._exit(EX_OSERR))
        link.send(frames.READY, 0, {})
        link.flush()
        wait.run()
    except BaseException as error:  # noqa: BLE001 - the last word of PID 1, whatever happened
        refusal: Refusal = {"text": described(error), "errno": 0, "path": b""}
        link.last_word(frames.ERROR, refusal)
    finally:
        os._exit(EX_SOFTWARE)


def _host_gone(problem: frames.ProtocolError | None) -> None:
    """The agent ends with its only client."""
    if problem is not None:
        raise problem
    os._exit(0)


def oom_score() -> Callable[[bytes], None]:
    """A function that sets this process's OOM score.

    Opened while the process is still dumpable, as its file belongs to root afterwards. A program inherits the score
    it is started under, so that the kernel kills steps before the agent.
    """
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        own = os.pread(score, 16, 0).strip()
    except OSError:
        return lambda _value: None

    def write(value: bytes) -> None:
        try:
            os.pwrite(score, own if value == b"0" else value, 0)
        except OSError:
            pass  # a kernel that refuses it: the step is then no likelier to die than the agent

    return write


def _introduce(fd: int, owner: int | None) -> Config:
    """Say hello, and wait for the host's config."""
    poll = select.poll()
    for descriptor in (fd, owner):
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
    os.set_blocking(fd, True)
    boot = os.urandom(16).hex()
    hello: Hello = {"version": frames.VERSION, "boot": boot, "pid": os.getpid()}
    os.write(fd, frames.message(frames.HELLO, 0, hello))
    parser = frames.Parser()
    while True:
        ready = [descriptor for descriptor, _events in poll.poll()]
        data = b"" if owner in ready else os.read(fd, 65536)
        if not data:
            os._exit(0)
        for kind, _stream, value in (found := parser.feed(data)):
            if kind != frames.HELLO or not isinstance(value, dict) or value.get("version") != frames.VERSION:
                raise frames.ProtocolError("the host does not speak protocol version " + str(frames.VERSION))
            if len(found) > 1 or not parser.between:
                raise frames.ProtocolError("the host sent more before the agent was ready")
            os.set_blocking(fd, False)
            return value  # type: ignore[return-value]  # it is the host that started this agent


def _become(config: Config, fd: int, owner: int | None) -> None:
    named = [config.get("spool_fd"), config.get("oom_fd"), config.get("pids_fd"), config.get("cpu_fd")]
    named.append(config.get("lock_fd"))
    watch = config.get("watch") or {}
    named += [value for name, value in watch.items() if name.endswith("_fd")]
    for descriptor in (fd, owner, *named):
        if isinstance(descriptor, int):
            os.set_inheritable(descriptor, False)
    own = None
    if not tree.tells_last_pid() and unshielded.is_reached():  # what is no Linux is asked
        unshielded.ignore_signals()
        own = unshielded.OWN_USER
    uid, gid = config["uid"], config["gid"]
    if isinstance(uid, int) and isinstance(gid, int):
        for path in config["chown"]:
            os.chown(path, uid, gid)
        system.become(uid, gid, own)
        if own is not None:
            command.run_as(uid)
    system.set_limits(config["rlimits"])
    system.settle()
    landlock.keep_from_sockets()
    os.umask(0o022)


def described(error: BaseException) -> str:
    """An error's message and place: a traceback would have no reader."""
    trace = error.__traceback__
    where = []
    while trace is not None:
        where.append(os.path.basename(trace.tb_frame.f_code.co_filename) + ":" + str(trace.tb_lineno))
        trace = trace.tb_next
    return type(error).__name__ + ": " + str(error) + " (" + " > ".join(where[-4:]) + ")"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
