"""The agent as one blob: what a start loads of it, and what the rest needs later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_arl.agent.bundle import LOAD, bundle

_ASK = """
import json
def loaded():
    return sorted(name for name in sys.modules if not name.startswith("pytest_arl"))
modules = {name: getattr(agent, name) for name, _ in codes}
later = sorted(name for name, module in modules.items() if "_later" in module.__dict__)
before = loaded()
for name in later:
    modules[name].__all__
print(json.dumps({"later": later, "made": sorted(modules[name].__all__ != [] for name in later),
                  "new": sorted(set(loaded()) - set(before))}))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = Path(tmp_path_factory.mktemp("bundle"), "agent")
    path.write_bytes(bundle())
    interpreter = os.path.realpath(sys.executable)
    argv = [interpreter, "-I", "-S", "-B", "-c", LOAD + "import json\n" + _ASK, str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return found


def test_modules_that_most_sandboxes_never_use_are_not_made_by_a_start(said: dict[str, Any]) -> None:
    assert {"checkpoint", "departure", "memory_sampler", "transfer"} <= set(said["later"])
    assert "main" not in said["later"], "control"


def test_what_is_made_later_is_whole_and_loads_nothing_from_a_file(said: dict[str, Any]) -> None:
    assert said["made"] == [True] * len(said["later"])
    assert said["new"] == []
