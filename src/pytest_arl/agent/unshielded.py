"""PID 1 where the signals of its own namespace reach it.

Linux keeps them from an init: those that it has no handler for do nothing, SIGKILL and SIGSTOP included. gVisor
delivers them all. There the agent ignores what can be ignored. For the two others the kernel asks who sends them, so
the agent keeps a user of its own where it may choose its user. Where it may not, a step can end or stop it: that is the
end of the sandbox, as on Linux by a signal from outside, and no result.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes `signal`, which costs a millisecond
import os
import time

from pytest_arl.agent import command, tree

__all__ = ["OWN_USER", "ignore_signals", "is_reached"]

OWN_USER = 0x7FFF0001
"""The agent's own, above all that steps run as."""
_LOOK_SECONDS = 0.2
_TRY_SECONDS = 0.001
_NEEDED = {_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD}


def is_reached() -> bool:
    """True if a process of this namespace can stop PID 1: a child tries, and lets it go on at once."""
    agent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.kill(agent, _signal.SIGSTOP)
            stopped = not tree.can_see_processes() or _is_seen_stopped(agent)
            os.kill(agent, _signal.SIGCONT)
            os._exit(stopped)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] != 0


def _is_seen_stopped(agent: int) -> bool:
    end = time.monotonic() + _LOOK_SECONDS
    while time.monotonic() < end:
        if tree.is_stopped(agent):
            return True
        time.sleep(_TRY_SECONDS)
    return False


def ignore_signals() -> None:
    """Ignore every signal that may be, here and not in the programs that are started."""
    numbers = [number for number in _signal.valid_signals() if number not in _NEEDED]
    for number in numbers:
        _signal.signal(number, _signal.SIG_IGN)
    command.start_at_default(numbers)
