"""Sandboxes that are the same whatever shell started pytest: resource limits, niceness, scheduling.

A process hands all of that down to those it starts, and a test must not pass in one terminal and fail in another. Soft
limits are set to fixed values. A hard limit below such a value is raised by root; an ordinary user cannot do that: what
a pool promises is then refused, the rest stays lower, and ``pytest-arl doctor`` names it.
"""

from __future__ import annotations

import json
import os
import resource
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pytest_arl.errors import BackendUnavailable
from pytest_arl.text.units import format_quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_arl.pools import LocalPool

__all__ = ["FIXED", "UNLIMITED", "detach", "lowered", "refuse_unreachable"]

UNLIMITED = resource.RLIM_INFINITY

FIXED: Mapping[str, int] = {
    "AS": UNLIMITED,
    "CORE": 1,  # not 0: a core pattern that is a pipe ignores 0
    "CPU": UNLIMITED,
    "DATA": UNLIMITED,
    "FSIZE": UNLIMITED,
    "MEMLOCK": 8 * 2**20,
    "MSGQUEUE": 819200,
    "NICE": 0,
    "NPROC": UNLIMITED,
    "RSS": UNLIMITED,
    "RTPRIO": 0,
    "RTTIME": UNLIMITED,
    "SIGPENDING": 4096,
}
"""Limits of every sandbox that no pool has a key for, named as in RLIMIT_*: Linux's own defaults, where it has some."""

_SOFT_ONLY = "STACK"
"""Compilers raise it for themselves, and so may everybody: memory bounds it all the same."""


class _Named(NamedTuple):
    """A limit as people know it, and the option of ``ulimit`` that shows it."""

    text: str
    option: str


_NAMES = {
    "AS": _Named("address space", "v"),
    "CPU": _Named("CPU time", "t"),
    "DATA": _Named("data segment", "d"),
    "FSIZE": _Named("file size", "f"),
    "MEMLOCK": _Named("locked memory", "l"),
    "MSGQUEUE": _Named("message queues", "q"),
    "NOFILE": _Named("open files", "n"),
    "NPROC": _Named("processes", "u"),
    "RSS": _Named("resident memory", "m"),
    "SIGPENDING": _Named("pending signals", "i"),
    "STACK": _Named("stack", "s"),
}


_COUNTS = ("CPU", "NOFILE", "NPROC", "SIGPENDING")


def _kind(name: str) -> int:
    kind: int = getattr(resource, f"RLIMIT_{name}")
    return kind


def _below(limit: int, wanted: int) -> bool:
    return limit != UNLIMITED and (wanted == UNLIMITED or limit < wanted)


def _shown(name: str, value: int | None) -> str:
    if value in (None, UNLIMITED):
        return "unlimited"
    return str(value) if name in _COUNTS else format_quantity(value)


def _hard(name: str) -> int:
    return resource.getrlimit(_kind(name))[1]


def _cannot_be_given(name: str, wanted: int) -> bool:
    """True if a sandbox cannot have this limit. Root may raise its own, unless it lacks the capability."""
    kind = _kind(name)
    soft, hard = resource.getrlimit(kind)
    if not _below(hard, wanted):
        return False
    try:
        resource.setrlimit(kind, (soft, wanted))
    except (OSError, ValueError):
        return True
    resource.setrlimit(kind, (soft, hard))
    return False


def refuse_unreachable(pool: LocalPool, rlimits: Mapping[str, int]) -> None:
    """Raise BackendUnavailable where this process may not give its sandboxes what the pool promises."""
    __tracebackhide__ = True
    for key, name in (("stack", "STACK"), ("files", "NOFILE"), ("processes", "NPROC")):
        wanted = rlimits[name]
        if name == "NPROC" and wanted == UNLIMITED:
            wanted = pool.processes  # a cgroup bounds them, and nothing else should
        if _cannot_be_given(name, wanted):
            promised = getattr(pool, key)
            most = _hard(name) - (wanted - promised if name == "NPROC" else 0)  # the agent needs some, too
            has, hard, can = (_shown(name, value) for value in (promised, _hard(name), most))
            raise BackendUnavailable(
                f"pool {pool.name!r}: {key} is {has}, but pytest was started with a hard limit of {hard} "
                f"(`ulimit -H -{_NAMES[name].option}`), above which only root may go: start it from a shell without "
                f"that limit, or write `{key} = {can if name in _COUNTS else json.dumps(can)}` in the pool"
            )


def detach(child: int, rlimits: Mapping[str, int], *, privileged: bool) -> None:
    """Free PID 1 of a sandbox, before it starts anything, of what it inherited and cannot put off itself."""
    if privileged:
        for name, wanted in rlimits.items():
            _raise(child, name, UNLIMITED if name == _SOFT_ONLY else wanted)
    if os.getpriority(os.PRIO_PROCESS, child):
        hard = _hard("NICE")  # up to there a user may take niceness back, if at all
        with suppress(PermissionError):
            resource.prlimit(child, resource.RLIMIT_NICE, (hard, hard))
            os.setpriority(os.PRIO_PROCESS, child, 0)
    if os.sched_getscheduler(child) != os.SCHED_OTHER:
        with suppress(PermissionError):
            os.sched_setscheduler(child, os.SCHED_OTHER, os.sched_param(0))


def _raise(child: int, name: str, wanted: int) -> None:
    """Raise a hard limit that a process has from this one, if that may be done; its soft limit is its own business."""
    soft, hard = resource.getrlimit(_kind(name))
    if _below(hard, wanted):
        with suppress(OSError, ValueError):
            resource.prlimit(child, _kind(name), (soft, wanted))


def lowered() -> Iterator[str]:
    """Resources that sandboxes here have less of, since an ordinary user cannot take it back; for people."""
    for name, named in _NAMES.items():
        if name in FIXED and name != "NPROC" and _cannot_be_given(name, FIXED[name]):
            yield f"{named.text}: hard limit {_shown(name, _hard(name))} (`ulimit -H -{named.option}`)"
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness > 0 and os.geteuid() != 0 and 20 - _hard("NICE") > 0:
        yield f"niceness {niceness}"
