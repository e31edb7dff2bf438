"""(Host side) The agent as one blob of code, and the program that starts it.

The sandbox's interpreter is the host's own, so the code travels compiled: reading it takes 0.3 ms where compiling
the modules would take 15, and no cache folder has to be found or written.
"""

from __future__ import annotations

import functools
import importlib.machinery
import marshal

import pytest_arl.agent

__all__ = ["BOOT", "LOAD", "REMOTE_BOOT", "bundle"]

# In the order of their imports, so that each finds those before it.
_MODULES = (
    "frames",
    "system",
    "landlock",
    "loop",
    "link",
    "spool",
    "tree",
    "crowd",
    "descriptors",
    "room",
    "shared_memory",
    "held_memory",
    "memory_sampler",
    "memory_page",
    "memory_watch",
    "limits",
    "usage",
    "command",
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
    "tasks",
    "ledger",
    "server",
    "connection",
    "main",
)
_LATER = {
    "checkpoint",
    "crowd",
    "departure",
    "entries",
    "held_memory",
    "memory_sampler",
    "shared_memory",
    "supervisor",
    "transfer",
}
"""Those that most sandboxes never use. Others import each of them as a whole, and each imports only what is there
already: what the agent opens once steps run may be theirs.
"""
_REMOTE_MODULES = ("auth", "container", "strangers", "peers", "remote")

LOAD = """\
import sys, marshal, gc
gc.disable()
M = type(sys)
class Anything(M):
    def __getattr__(self, name):
        return object
if '_collections_abc' not in sys.modules:
    sys.modules['_collections_abc'] = Anything('_collections_abc')
    import os
    del sys.modules['_collections_abc']
class Later(M):
    def __getattr__(self, name):
        code = self.__dict__.pop('_later', None)
        if code is None:
            raise AttributeError(name)
        exec(marshal.loads(code), self.__dict__)
        return getattr(self, name)
for name in ('pytest_arl', 'pytest_arl.agent'):
    sys.modules[name] = M(name)
    sys.modules[name].__path__ = []
agent = sys.modules['pytest_arl.agent']
with open(sys.argv[1], 'rb') as file:
    codes = marshal.loads(file.read())
for name, code in codes:
    module = Later('pytest_arl.agent.' + name)
    sys.modules[module.__name__] = module
    setattr(agent, name, module)
    if type(code) is bytes:
        module._later = code
    else:
        exec(code, module.__dict__)
gc.freeze()
gc.enable()
"""
"""Loads the agent from the file that argv names first. A module whose code is bytes is made of it when something in it
is first asked for.
"""

BOOT = LOAD + "agent.main.main(*map(int, sys.argv[2:]))\n"
"""The program for ``python -I -S -B -c BOOT PATH_OF_THE_BUNDLE FD [OWNER]``: see :func:`pytest_arl.agent.main.main`.

``os`` is imported beside a stand-in for the abstract collections, which the agent has no use for and which take half a
millisecond of every sandbox's start. Nothing that is made here is ever garbage, so nothing looks for any.
"""

REMOTE_BOOT = LOAD + "agent.remote.serve(*map(int, sys.argv[2:]))\n"
"""The same for an agent that listens: ``... PATH_OF_THE_BUNDLE [PORT]``, with a bundle made for that."""


@functools.cache
def bundle(*, remote: bool = False) -> bytes:
    """The agent's code objects, for an interpreter of this very version. ``remote``: those of one that listens too."""
    codes = []
    for name in _MODULES + (_REMOTE_MODULES if remote else ()):
        # By path: pytest's assertion rewriter answers for a plugin's modules first, with a loader that gives no code.
        spec = importlib.machinery.PathFinder.find_spec(f"pytest_arl.agent.{name}", pytest_arl.agent.__path__)
        loader = None if spec is None else spec.loader
        if loader is None or not hasattr(loader, "get_code"):
            msg = f"the agent's module {name} is not where it was installed"
            raise ImportError(msg)
        code = loader.get_code(f"pytest_arl.agent.{name}")
        codes.append((name, marshal.dumps(code) if name in _LATER else code))
    return marshal.dumps(codes)
