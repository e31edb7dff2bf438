"""The first program of an agent's interpreter: it makes the modules of the bundle.

Every sandbox's start pays for what is done here, so it makes do with what an interpreter has loaded by itself.
"""

import _imp
import gc
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

__all__ = ["load"]


def _anything(_name: str) -> type:
    """Answer for a stand-in of a module whose names are imported and never used."""
    return object


def _later(module: "ModuleType", code: bytes) -> "Callable[[str], Any]":
    """A function that makes a module of its code when something in it is first asked for, and answers that."""

    def get(name: str) -> "Any":
        del module.__dict__["__getattr__"]
        exec(marshal.loads(code), module.__dict__)
        return getattr(module, name)

    return get


def load(codes: "list[tuple[str, CodeType | bytes]]") -> "Any":
    """Make the modules, in order, and give their package. One whose code is bytes is made of it when it is first used.

    Nothing that is made here is ever garbage, so nothing looks for any.
    """
    gc.disable()
    _stand_in()
    for name in ("pytest_arl", "pytest_arl.agent"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []
    agent = sys.modules["pytest_arl.agent"]
    for name, code in codes:
        module = ModuleType("pytest_arl.agent." + name)
        sys.modules[module.__name__] = module
        setattr(agent, name, module)
        if type(code) is bytes:
            module.__dict__["__getattr__"] = _later(module, code)
        else:
            exec(code, module.__dict__)
    gc.freeze()
    gc.enable()
    return agent


def _stand_in() -> None:
    """Put something small in the place of modules that take long, unless they are there already.

    In that of os, the kernel's calls and os.path, for a third of the time: the rest comes from os itself, once it is
    asked for. Not where os is read from a file, as by a Python that runs in its build folder: once steps run, that file
    may be theirs.
    """
    if "__future__" not in sys.modules:
        sys.modules["__future__"] = _module("__future__", _anything)
    if "os" in sys.modules:
        return
    if not _imp.is_frozen("os"):
        _whole_os()
        return

    def get(name: str) -> "Any":
        del sys.modules["os"]
        try:
            value = getattr(_whole_os(), name)
        finally:
            sys.modules["os"] = stand_in
        setattr(stand_in, name, value)
        return value

    stand_in = sys.modules["os"] = _module("os", get)
    stand_in.__dict__.update(posix.__dict__, __name__="os", SEEK_SET=0, SEEK_CUR=1, SEEK_END=2)

    import posixpath  # it imports os

    stand_in.__dict__["path"] = sys.modules["os.path"] = posixpath


def _whole_os() -> "ModuleType":
    """The real os, without the abstract collections: half a millisecond for what the agent has no use for."""
    name = "_collections_abc"
    there = name in sys.modules
    if not there:
        sys.modules[name] = _module(name, _anything)
    import os

    if not there:
        del sys.modules[name]
    return os


def _module(name: str, get: "Callable[[str], Any]") -> "ModuleType":
    """A module that asks a function for what is not in it. A class with ``__getattr__`` would do the same, but CPython
    has a quick way into plain modules only.
    """
    module = ModuleType(name)
    module.__dict__["__getattr__"] = get
    return module
