"""No circles of imports. An import counts wherever it stands: for types alone (TYPE_CHECKING), or inside a function.

import-linter's contracts leave out the imports for types, yet a reader of one module of a circle has to read them all.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

FOR_USERS = [("pytest_arl.errors", "pytest_arl.results")]
"""The one import for types that leads up: without it the results that an error carries had no type in users' code."""


def modules(source: Path) -> dict[str, Path]:
    """Each module's file by its dotted name."""
    found = {}
    for path in source.rglob("*.py"):
        *packages, name = path.relative_to(source).with_suffix("").parts
        found[".".join(packages if name == "__init__" else [*packages, name])] = path
    return found


def imports(tree: ast.AST, known: Mapping[str, object]) -> Iterator[str]:
    """The modules among `known` that a module names in its imports: a name imported from a package is a module of it,
    or stands in its ``__init__``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"a relative import, line {node.lineno}"
            assert node.level == 0, f"a relative import, line {node.lineno}"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in full if {name, node.module} & known.keys())


def graph(source: Path) -> dict[str, set[str]]:
    paths = modules(source)
    return {
        name: set(imports(ast.parse(path.read_text(encoding="utf-8")), paths)) - {name} for name, path in paths.items()
    }


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of modules each of which reaches all others of its set."""
    reached = {start: reachable(start, graph) for start in graph}
    return {
        frozenset(other for other in ends if start in reached[other])
        for start, ends in reached.items()
        if start in ends
    }


def reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """All modules that the imports lead to from `start`: itself only if they lead back."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def picture(circle: frozenset[str], graph: Mapping[str, set[str]]) -> str:
    """The modules of a circle, and what each imports of the others."""
    return "\n".join(f"  {name} -> {', '.join(sorted(graph[name] & circle))}" for name in sorted(circle))


def write(source: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = source / "house" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_no_modules_import_each_other_in_a_circle() -> None:
    imported = graph(SOURCE)
    assert len(imported) > 200
    for module, other in FOR_USERS:
        imported[module].remove(other)  # KeyError: it is gone, and can go from the list
    found = "\n\n".join(picture(circle, imported) for circle in circles(imported))
    assert not found, f"modules that import each other in a circle:\n\n{found}"


@pytest.mark.parametrize(
    "back",
    [
        "import house.kitchen",
        "from house import kitchen",
        "from house.kitchen import stove",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.kitchen import stove",
        "def late():\n    from house import kitchen",
    ],
)
def test_a_circle_is_seen_by_whatever_import_closes_it(tmp_path: Path, back: str) -> None:
    write(tmp_path, __init__="", hall="from house.pantry import shelf", pantry=back, kitchen="from house import hall")
    found = circles(graph(tmp_path))
    assert found == {frozenset({"house.hall", "house.pantry", "house.kitchen"})}
    assert "house.pantry -> house.kitchen" in picture(found.pop(), graph(tmp_path))


def test_a_name_of_a_package_that_is_no_module_is_the_package_s_own(tmp_path: Path) -> None:
    write(tmp_path, __init__="from house.hall import door", hall="from house import door")
    assert circles(graph(tmp_path)) == {frozenset({"house", "house.hall"})}


def test_two_modules_that_import_a_third_are_no_circle(tmp_path: Path) -> None:
    write(
        tmp_path, __init__="", hall="from house import pantry", kitchen="from house import pantry", pantry="import os"
    )
    assert circles(graph(tmp_path)) == set()
