"""(Host side) The agent as one blob of code, and the program that starts it.

The sandbox's interpreter is the host's own, so the code travels compiled: reading it takes 0.3 ms where compiling
the modules would take 15, and no cache folder has to be found or written.
"""

from __future__ import annotations

import functools
import importlib.machinery
import marshal
from typing import TYPE_CHECKING

import pytest_arl.agent

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["BOOT", "LOAD", "REMOTE_BOOT", "bundle"]

# In the order of their imports, so that each finds those before it.
_MODULES = (
    "frames",
    "exact",
    "system",
    "landlock",
    "loop",
    "link",
    "spool",
    "tree",
    "crowd",
    "descriptors",
    "folder_space",
    "ipc",
    "shared_memory",
    "held_memory",
    "memory_sampler",
    "whole_memory",
    "memory_page",
    "memory_watch",
    "limits",
    "usage_meter",
    "command",
    "unshielded",
    "pipes",
    "supervisor",
    "foreground",
    "background",
    "files",
    "entries",
    "transfer",
    "departure",
    "checkpoint",
    "records",
    "step_types",
    "tasks",
    "task_registry",
    "parts",
    "connection",
    "main",
)
_LATER = {
    "checkpoint",
    "crowd",
    "departure",
    "entries",
    "held_memory",
    "ipc",
    "memory_sampler",
    "shared_memory",
    "supervisor",
    "transfer",
    "unshielded",
    "whole_memory",
}
"""Modules that most sandboxes never use. Others import each of them as a whole, and each imports only what is there
already: what the agent opens once steps run may be theirs.
"""
_REMOTE_MODULES = ("inheritance", "auth", "container", "registration", "handshake", "clients", "listener")

_LOAD = """\
load, codes = marshal.loads(posix.pread(file, posix.fstat(file).st_size, 0))
posix.close(file)
space = {'__name__': 'pytest_arl.agent.loader'}
exec(load, space)
agent = space['load'](codes)
"""
"""There is little of it: text takes long to compile. The rest is :mod:`.loader`, in the bundle."""

LOAD = "import marshal, posix, sys\nfile = posix.open(sys.argv[1], posix.O_RDONLY | posix.O_CLOEXEC)\n" + _LOAD
"""Loads the agent from the file that argv names first."""

BOOT = "import marshal, posix, sys\nfile = int(sys.argv[1])\n" + _LOAD + "agent.main.main(*map(int, sys.argv[2:]))\n"
"""The program for ``python -I -S -B -c BOOT BUNDLE FD [OWNER]``: see :func:`pytest_arl.agent.main.main`. BUNDLE is a
descriptor, which may be shared with others.
"""

REMOTE_BOOT = LOAD + "agent.listener.serve(*map(int, sys.argv[2:]))\n"
"""The program for an agent that listens: ``... PATH_OF_THE_BUNDLE [PORT]``, with a bundle made for that."""


@functools.cache
def bundle(*, remote: bool = False) -> bytes:
    """The agent's code objects, for an interpreter of this very version. ``remote``: those of one that listens too."""
    codes: list[tuple[str, CodeType | bytes]] = []
    for name in _MODULES + (_REMOTE_MODULES if remote else ()):
        code = _code(name)
        codes.append((name, marshal.dumps(code) if name in _LATER else code))
    return marshal.dumps((_code("loader"), codes))


def _code(name: str) -> CodeType:
    # By path: pytest's assertion rewriter answers for a plugin's modules first, with a loader that gives no code.
    spec = importlib.machinery.PathFinder.find_spec(f"pytest_arl.agent.{name}", pytest_arl.agent.__path__)
    get_code = getattr(None if spec is None else spec.loader, "get_code", None)
    if get_code is None:
        msg = f"the agent's module {name} is not where it was installed"
        raise ImportError(msg)
    code: CodeType = get_code(f"pytest_arl.agent.{name}")
    return code
