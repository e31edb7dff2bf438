"""Keys of messages: those who make one and those who read one have the same, and mypy sees a misspelt one on both ends."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_arl.agent import exact

if TYPE_CHECKING:
    from pytest_arl.agent.exact import Said
    from pytest_arl.agent.message_types import Task, TaskKey
    from pytest_arl.agent.step_types import StepEnd, StepEndKey

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "src" / "pytest_arl" / "agent"
MODULES = ("message_types", "step_types")


def declared(module: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The keys of each TypedDict of a module, and those of each list of keys."""
    tables: dict[str, set[str]] = {}
    keys: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((AGENT / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            if "TypedDict" in bases or tables.keys() & set(bases):
                own = {line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)}  # fmt: skip
                tables[node.name] = own.union(*(tables.get(base, set()) for base in bases))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
            if name.endswith("Key") and isinstance(value, ast.Subscript):
                parts = value.slice.elts if isinstance(value.slice, ast.Tuple) else [value.slice]
                keys[name.removesuffix("Key")] = {ast.literal_eval(part) for part in parts}
            elif isinstance(value, ast.Call) and ast.unparse(value.func) == "TypedDict":
                tables[name] = {ast.literal_eval(key) for key in value.args[1].keys if key is not None}  # type: ignore[attr-defined] # a dict
    return tables, keys


@pytest.mark.parametrize("module", MODULES)
def test_a_reader_knows_the_keys_that_a_message_is_made_with(module: str) -> None:
    tables, keys = declared(module)
    assert len(keys) > 1
    assert keys == {name: tables[name] for name in keys}


def test_nothing_of_the_types_is_there_at_run_time() -> None:
    program = "import sys, pytest_arl.agent.listener as agent; print('pytest_arl.agent.message_types' in sys.modules, agent.__name__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False pytest_arl.agent.listener\n"


if TYPE_CHECKING:
    # For mypy, which reports an ignore without an error: a misspelt key is one, whoever makes a message or reads it.

    def made_by_a_host() -> Task:
        return {"id": "x", "lmit": 1, "limit": 1, "steps": []}  # type: ignore[typeddict-unknown-key]

    def made_by_an_agent() -> StepEnd:
        return {"outcome": "Failed", "code": 1, "oot": 2}  # type: ignore[typeddict-unknown-key]

    def added_by_an_agent(result: StepEnd) -> None:
        result["oot"] = 2  # type: ignore[typeddict-unknown-key]

    def read_by_a_host(said: Said[StepEndKey]) -> tuple[object, object]:
        return said.get("oot"), said["cod"]  # type: ignore[call-overload, index]

    def read_by_an_agent(said: Said[TaskKey]) -> object:
        return exact.integer(said, "kep", 0, 5)  # type: ignore[misc]

    def read_rightly(said: Said[TaskKey]) -> object:
        return exact.integer(said, "keep", 0, 5), said.get("limit"), said["steps"]
