"""The agent as one blob: what a start loads of it, and what the rest needs later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.agent_package.bundle import LOAD, bundle

_ASK = """
import json
def loaded():
    return sorted(name for name in sys.modules if not name.startswith("pytest_arl"))
modules = {name: getattr(agent, name) for name, _ in codes}
later = sorted(name for name, module in modules.items() if "__getattr__" in module.__dict__)
before = loaded()
for name in later:
    modules[name].__all__
print(json.dumps({"later": later, "made": sorted(modules[name].__all__ != [] for name in later),
                  "new": sorted(set(loaded()) - set(before))}))
"""
_ASK_OS = """
import os
whole = "walk" in os.__dict__
os.walk
found = os.path.join("a", "b"), os.fsencode("a" + chr(0xdcff)), os.stat("/") == os.lstat("/")
files = [name for name, module in sys.modules.items()
         if getattr(getattr(module, "__spec__", None), "origin", None) not in (None, "frozen", "built-in")]
import json
print(json.dumps([whole, found[0], list(found[1]), found[2], sys.modules["os"] is os, files]))
"""


def _run(folder: Path, program: str) -> Any:
    path = folder / "agent"
    path.write_bytes(bundle())
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", LOAD + program, str(path)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = _run(tmp_path_factory.mktemp("bundle"), "import json\n" + _ASK)
    return found


def test_modules_that_most_sandboxes_never_use_are_not_made_by_a_start(said: dict[str, Any]) -> None:
    assert {"checkpoint", "departure", "memory_sampler", "transfer"} <= set(said["later"])
    assert "main" not in said["later"], "control"


def test_what_is_made_later_is_whole_and_loads_nothing_from_a_file(said: dict[str, Any]) -> None:
    assert said["made"] == [True] * len(said["later"])
    assert said["new"] == []


def test_os_is_made_of_the_kernels_calls_and_the_rest_of_it_comes_later_from_no_file(tmp_path: Path) -> None:
    whole, joined, encoded, same, stays, files = _run(tmp_path, _ASK_OS)

    assert not whole, "else nothing is tried here"
    assert (joined, bytes(encoded), same, stays) == ("a/b", b"a\xff", True, True)
    assert not {"os", "posixpath", "genericpath", "stat", "_collections_abc", "__future__"}.intersection(files)
